"""The same client for asyncio. Files are sent and read by `client.http.Client` alone."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from client.connection import ANSWER_SECONDS, DEFAULT_URL, Events, checked, options, reachable
from client.errors import RefusedError
from client.http import task_path

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


class AsyncClient:
    """`async with AsyncClient("http://127.0.0.1:8080") as lmaas`; as Client in all else."""

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        key: str | None = None,
        timeout: float = ANSWER_SECONDS,
        http: httpx.AsyncClient | None = None,
    ) -> None:
        import httpx

        self._http = httpx.AsyncClient(**options(url, key, timeout)) if http is None else http
        self._url = url

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        await self._http.aclose()

    # Tasks.

    async def generate(
        self, prompt: str | Sequence[str], **parameters: Unpack[GenerateParameters]
    ) -> GenerateAnswer:
        """Continue a text."""
        answer: GenerateAnswer = await self.call(
            "POST", "/v1/generate", json={"prompt": prompt, **parameters}
        )
        return answer

    async def stream(
        self, prompt: str, **parameters: Unpack[GenerateParameters]
    ) -> AsyncIterator[GenerateAnswer]:
        """Continue a text; yields its pieces as they come. Closing the iterator cancels the request."""
        body = {"prompt": prompt, **parameters, "stream": True}
        async for event, data in self.events("POST", "/v1/generate", json=body):
            yield checked(event, data)

    async def classify(
        self, text: str | Sequence[str], **parameters: Unpack[ClassifyParameters]
    ) -> ClassifyAnswer:
        """Give a text one of a trained head's labels, or of yours (`labels`)."""
        answer: ClassifyAnswer = await self.call("POST", "/v1/classify", json={"input": text, **parameters})
        return answer

    async def infer(
        self, premise: str, hypothesis: str, **parameters: Unpack[InferParameters]
    ) -> InferAnswer:
        """Judge whether a hypothesis follows from a premise."""
        body = {"premise": premise, "hypothesis": hypothesis, **parameters}
        answer: InferAnswer = await self.call("POST", "/v1/infer", json=body)
        return answer

    async def nlu(self, text: str | Sequence[str], **parameters: Unpack[NluParameters]) -> NluAnswer:
        """Find the intent of an utterance and the values in it."""
        answer: NluAnswer = await self.call("POST", "/v1/nlu", json={"input": text, **parameters})
        return answer

    async def next(self, prompt: str | Sequence[int], **parameters: Unpack[NextParameters]) -> NextAnswer:
        """The likeliest next tokens of a text."""
        answer: NextAnswer = await self.call("POST", "/v1/next", json={"prompt": prompt, **parameters})
        return answer

    async def score(
        self, prompt: str, continuations: Sequence[str], **parameters: Unpack[ScoreParameters]
    ) -> ScoreAnswer:
        """Log-probabilities of whole continuations of a text."""
        body = {"prompt": prompt, "continuations": continuations, **parameters}
        answer: ScoreAnswer = await self.call("POST", "/v1/score", json=body)
        return answer

    async def embeddings(self, text: str | Sequence[str], *, model: str | None = None) -> Embeddings:
        """Vectors of texts, in OpenAI's shape."""
        answer: Embeddings = await self.call("POST", "/v1/embeddings", json={"input": text, "model": model})
        return answer

    # Asynchronous tasks.

    async def submit(
        self,
        kind: str,
        parameters: Mapping[str, Any],
        *,
        callback_url: str | None = None,
        once: str | None = None,
    ) -> TaskView:
        """Queue a task; see Client."""
        body = {"type": kind, "parameters": parameters, "callback_url": callback_url}
        headers = {} if once is None else {"Idempotency-Key": once}
        task: TaskView = await self.call("POST", "/v1/tasks", json=body, headers=headers)
        return task

    async def task(self, task_id: str) -> TaskView:
        task: TaskView = await self.call("GET", task_path(task_id))
        return task

    async def tasks(self, **wanted: str | int) -> list[TaskView]:
        """The newest tasks; `type`, `state`, `limit` and `before` (an id) narrow them."""
        tasks: list[TaskView] = (await self.call("GET", "/v1/tasks", params=wanted))["data"]
        return tasks

    def follow(self, task_id: str) -> AsyncIterator[tuple[str, Any]]:
        """The events of a task: `progress` and `output`, then one named after the outcome, with the task."""
        return self.events("GET", f"{task_path(task_id)}/events")

    async def wait(self, task_id: str) -> TaskView:
        """The task once it is over, whatever its outcome."""
        async for _ in self.follow(task_id):
            pass
        return await self.task(task_id)

    async def cancel(self, task_id: str) -> TaskView:
        task: TaskView = await self.call("DELETE", task_path(task_id))
        return task

    # Models and deployments.

    async def models(self) -> list[ModelView]:
        models: list[ModelView] = (await self.call("GET", "/v1/models"))["data"]
        return models

    async def deployments(self) -> list[DeploymentView]:
        deployments: list[DeploymentView] = (await self.call("GET", "/v1/deployments"))["data"]
        return deployments

    async def deploy(self, model: str, **wanted: Unpack[DeployRequest]) -> DeploymentView:
        """Deploy a version; it is loaded and has answered a probe when this returns."""
        body = {"model": model, **wanted}
        deployment: DeploymentView = await self.call("POST", "/v1/deployments", json=body)
        return deployment

    async def undeploy(self, deployment_id: str) -> None:
        await self.call("DELETE", f"/v1/deployments/{quote(deployment_id, safe='')}")

    # Any route.

    async def call(self, method: str, path: str, **arguments: Any) -> Any:
        """Send a request with httpx's `arguments`; returns the parsed JSON, None where there is no body."""
        with reachable(self._url):
            response = await self._http.request(method, path, **arguments)
        if response.is_error:
            raise RefusedError(response.status_code, response.content)
        return response.json() if response.content else None

    async def events(self, method: str, path: str, **arguments: Any) -> AsyncIterator[tuple[str, Any]]:
        """Follow a stream of server-sent events as (event, parsed data)."""
        with reachable(self._url):
            async with self._http.stream(method, path, **arguments) as response:
                if response.is_error:
                    raise RefusedError(response.status_code, await response.aread())
                parser = Events()
                async for line in response.aiter_lines():
                    if (event := parser.take(line)) is not None:
                        yield event
