"""One appliance by its base URL: a method for each task and for models, any route, streams, files."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from client.connection import (
    ANSWER_SECONDS,
    API_KEY,
    DEFAULT_URL,
    Events,
    api_key,
    checked,
    is_loopback,
    options,
    reachable,
)
from client.errors import RefusedError
from client.remote_file import RemoteFile
from client.upload import upload

if TYPE_CHECKING:
    import httpx
    from typing_extensions import Self, Unpack

    from client.answers import (
        ClassifyAnswer,
        DeploymentView,
        Embeddings,
        GenerateAnswer,
        InferAnswer,
        ModelView,
        NextAnswer,
        NluAnswer,
        ScoreAnswer,
        TaskView,
    )
    from client.parameters import (
        ClassifyParameters,
        DeployRequest,
        GenerateParameters,
        InferParameters,
        NextParameters,
        NluParameters,
        ScoreParameters,
    )

__all__ = ["API_KEY", "DEFAULT_URL", "Client", "api_key", "is_loopback"]


class Client:
    """A connection to an appliance, to be closed: `with Client("http://127.0.0.1:8080") as lmaas`.

    `key` is the caller's API key (None: that of LMAAS_API_KEY, "": none). `timeout` is the longest silence
    of the appliance, in seconds. Every method raises RefusedError where the appliance answers with an error,
    and UnreachableError where the connection fails. Several threads may use one client.
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        key: str | None = None,
        timeout: float = ANSWER_SECONDS,
        http: httpx.Client | None = None,
    ) -> None:
        import httpx

        self._http = httpx.Client(**options(url, key, timeout)) if http is None else http
        self._url = url

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    # Tasks.

    def generate(
        self, prompt: str | Sequence[str], **parameters: Unpack[GenerateParameters]
    ) -> GenerateAnswer:
        """Continue a text."""
        answer: GenerateAnswer = self.call("POST", "/v1/generate", json={"prompt": prompt, **parameters})
        return answer

    def stream(self, prompt: str, **parameters: Unpack[GenerateParameters]) -> Iterator[GenerateAnswer]:
        """Continue a text; yields its pieces as they come. Leaving the loop cancels the request."""
        body = {"prompt": prompt, **parameters, "stream": True}
        for event, data in self.events("POST", "/v1/generate", json=body):
            yield checked(event, data)

    def classify(self, text: str | Sequence[str], **parameters: Unpack[ClassifyParameters]) -> ClassifyAnswer:
        """Give a text one of a trained head's labels, or of yours (`labels`)."""
        answer: ClassifyAnswer = self.call("POST", "/v1/classify", json={"input": text, **parameters})
        return answer

    def infer(self, premise: str, hypothesis: str, **parameters: Unpack[InferParameters]) -> InferAnswer:
        """Judge whether a hypothesis follows from a premise."""
        body = {"premise": premise, "hypothesis": hypothesis, **parameters}
        answer: InferAnswer = self.call("POST", "/v1/infer", json=body)
        return answer

    def nlu(self, text: str | Sequence[str], **parameters: Unpack[NluParameters]) -> NluAnswer:
        """Find the intent of an utterance and the values in it."""
        answer: NluAnswer = self.call("POST", "/v1/nlu", json={"input": text, **parameters})
        return answer

    def next(self, prompt: str | Sequence[int], **parameters: Unpack[NextParameters]) -> NextAnswer:
        """The likeliest next tokens of a text."""
        answer: NextAnswer = self.call("POST", "/v1/next", json={"prompt": prompt, **parameters})
        return answer

    def score(
        self, prompt: str, continuations: Sequence[str], **parameters: Unpack[ScoreParameters]
    ) -> ScoreAnswer:
        """Log-probabilities of whole continuations of a text."""
        body = {"prompt": prompt, "continuations": continuations, **parameters}
        answer: ScoreAnswer = self.call("POST", "/v1/score", json=body)
        return answer

    def embeddings(self, text: str | Sequence[str], *, model: str | None = None) -> Embeddings:
        """Vectors of texts, in OpenAI's shape."""
        answer: Embeddings = self.call("POST", "/v1/embeddings", json={"input": text, "model": model})
        return answer

    # Asynchronous tasks.

    def submit(
        self,
        kind: str,
        parameters: Mapping[str, Any],
        *,
        callback_url: str | None = None,
        once: str | None = None,
    ) -> TaskView:
        """Queue a task of type `kind` ("generate", ...) with the body of its route.

        `once` is sent as Idempotency-Key: the same key gives the same task, however often it is sent.
        """
        body = {"type": kind, "parameters": parameters, "callback_url": callback_url}
        headers = {} if once is None else {"Idempotency-Key": once}
        task: TaskView = self.call("POST", "/v1/tasks", json=body, headers=headers)
        return task

    def task(self, task_id: str) -> TaskView:
        task: TaskView = self.call("GET", task_path(task_id))
        return task

    def tasks(self, **wanted: str | int) -> list[TaskView]:
        """The newest tasks; `type`, `state`, `limit` and `before` (an id) narrow them."""
        tasks: list[TaskView] = self.call("GET", "/v1/tasks", params=wanted)["data"]
        return tasks

    def follow(self, task_id: str) -> Iterator[tuple[str, Any]]:
        """The events of a task: `progress` and `output`, then one named after the outcome, with the task."""
        return self.events("GET", f"{task_path(task_id)}/events")

    def wait(self, task_id: str) -> TaskView:
        """The task once it is over, whatever its outcome."""
        for _ in self.follow(task_id):
            pass
        return self.task(task_id)

    def cancel(self, task_id: str) -> TaskView:
        task: TaskView = self.call("DELETE", task_path(task_id))
        return task

    # Models and deployments.

    def models(self) -> list[ModelView]:
        models: list[ModelView] = self.call("GET", "/v1/models")["data"]
        return models

    def push(self, name: str, archive: Path, **wanted: Any) -> TaskView:
        """Upload an archive of a checkpoint as a version of `name`; returns the task that converts it.

        `deploy=True` deploys it then. An upload that was cut off goes on where it ended.
        """
        body = {"name": name, "blob": self.upload(archive), **wanted}
        task: TaskView = self.call("POST", "/v1/models", json=body)["task"]
        return task

    def deployments(self) -> list[DeploymentView]:
        deployments: list[DeploymentView] = self.call("GET", "/v1/deployments")["data"]
        return deployments

    def deploy(self, model: str, **wanted: Unpack[DeployRequest]) -> DeploymentView:
        """Deploy a version; it is loaded and has answered a probe when this returns."""
        deployment: DeploymentView = self.call("POST", "/v1/deployments", json={"model": model, **wanted})
        return deployment

    def undeploy(self, deployment_id: str) -> None:
        self.call("DELETE", f"/v1/deployments/{quote(deployment_id, safe='')}")

    # Any route.

    def call(self, method: str, path: str, **arguments: Any) -> Any:
        """Send a request with httpx's `arguments`; returns the parsed JSON, None where there is no body."""
        with reachable(self._url):
            response = self._http.request(method, path, **arguments)
        if response.is_error:
            raise RefusedError(response.status_code, response.content)
        return response.json() if response.content else None

    def events(self, method: str, path: str, **arguments: Any) -> Iterator[tuple[str, Any]]:
        """Follow a stream of server-sent events as (event, parsed data)."""
        with reachable(self._url), self._http.stream(method, path, **arguments) as response:
            if response.is_error:
                raise RefusedError(response.status_code, response.read())
            parsed = map(Events().take, response.iter_lines())
            yield from (event for event in parsed if event is not None)

    def upload(self, file: Path) -> str:
        """Send a file; returns its digest. What the server has of it already is not sent again."""
        with reachable(self._url):
            return upload(self._http, file)

    def open(self, path: str) -> io.BufferedReader:
        """A file that is read in parts: only what is asked for is sent."""
        return io.BufferedReader(RemoteFile(self._http, path))

    def download(self, path: str, target: str) -> int:
        """Write a body to the file `target`; returns its size in bytes."""
        written = 0
        with reachable(self._url), self._http.stream("GET", path) as response:
            if response.is_error:
                raise RefusedError(response.status_code, response.read())
            partial = f"{target}.part"
            with open(partial, "wb") as file:
                for chunk in response.iter_bytes():
                    written += file.write(chunk)
            os.replace(partial, target)
        return written


def task_path(task_id: str) -> str:
    return f"/v1/tasks/{quote(task_id, safe='')}"
