"""What Triton refuses to those who do not have the façade's key, and what it answers to everybody."""

from __future__ import annotations

import base64
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import tritonclient.grpc as grpc
from tritonclient.utils import InferenceServerException

from tests.runtime.triton.clients import Server

# A web page may send a POST of this type to any address, without asking first (CORS).
OF_A_PAGE = {"content-type": "text/plain", "origin": "http://evil.example"}
GREEDY: dict[str, Any] = {"temperature": 0, "max_tokens": 4, "ignore_eos": True}


def evil_model(proof: Path) -> dict[str, str]:
    """The parameters of a load request whose model is code in the request itself."""
    code = (
        f"open({str(proof)!r}, 'w').close()\nclass TritonPythonModel:\n    def execute(self, r): return []\n"
    )
    return {
        "config": json.dumps({"backend": "python"}),
        "file:1/model.py": base64.b64encode(code.encode()).decode(),
    }


def post(server: Server, path: str, body: Any, **headers: str) -> httpx.Response:
    url = f"http://127.0.0.1:{server.ports.http}{path}"
    return httpx.post(url, content=json.dumps(body), headers={**OF_A_PAGE, **headers}, trust_env=False)


def test_a_web_page_cannot_have_its_code_run(server: Server, tmp_path: Path) -> None:
    proof = tmp_path / "the-code-ran"
    body = {"parameters": evil_model(proof)}
    for path in ("/v2/repository/models/evil/load", "/v2/repository/any/models/evil/load"):
        for headers in ({}, {"lmaas-key": ""}, {"lmaas-key": "0" * 64}):
            assert post(server, path, body, **headers).status_code == 403
    assert not server.client.is_model_ready("evil")
    assert not proof.exists()


def test_another_program_cannot_have_its_code_run(server: Server, tmp_path: Path) -> None:
    proof = tmp_path / "the-code-ran"
    evil = evil_model(proof)
    code = base64.b64decode(evil["file:1/model.py"])
    with pytest.raises(InferenceServerException, match="restricted"):
        server.client.load_model("evil", config=evil["config"], files={"file:1/model.py": code})
    assert not server.client.is_model_ready("evil")
    assert not proof.exists()


CONTROL = [
    ("POST", "/v2/repository/models/lm/load"),
    ("POST", "/v2/repository/models/lm/unload"),
    ("POST", "/v2/repository/index"),
    ("POST", "/v2/systemsharedmemory/region/r/register"),
    ("POST", "/v2/systemsharedmemory/region/r/unregister"),
    ("POST", "/v2/systemsharedmemory/unregister"),
    ("GET", "/v2/systemsharedmemory/status"),
    ("POST", "/v2/cudasharedmemory/region/r/register"),
    ("POST", "/v2/cudasharedmemory/region/r/unregister"),
    ("POST", "/v2/cudasharedmemory/unregister"),
    ("GET", "/v2/cudasharedmemory/status"),
    ("POST", "/v2/trace/setting"),
    ("GET", "/v2/trace/setting"),
    ("POST", "/v2/models/lm/trace/setting"),
    ("GET", "/v2/models/lm/trace/setting"),
    ("POST", "/v2/logging"),
    ("GET", "/v2/logging"),
]


@pytest.mark.parametrize(("method", "path"), CONTROL)
def test_http_control_needs_the_key(server: Server, method: str, path: str) -> None:
    answer = httpx.request(
        method, f"http://127.0.0.1:{server.ports.http}{path}", headers=OF_A_PAGE, trust_env=False
    )
    assert (answer.status_code, answer.json()["error"][:22]) == (403, "This API is restricted")


RPCS: dict[str, Callable[[grpc.InferenceServerClient], object]] = {
    "RepositoryModelLoad": lambda client: client.load_model("lm"),
    "RepositoryModelUnload": lambda client: client.unload_model("lm"),
    "RepositoryIndex": lambda client: client.get_model_repository_index(),
    "SystemSharedMemoryRegister": lambda client: client.register_system_shared_memory("r", "/lmaas", 8),
    "SystemSharedMemoryStatus": lambda client: client.get_system_shared_memory_status(),
    "SystemSharedMemoryUnregister": lambda client: client.unregister_system_shared_memory(),
    "CudaSharedMemoryRegister": lambda client: client.register_cuda_shared_memory("r", b"0" * 64, 0, 8),
    "CudaSharedMemoryStatus": lambda client: client.get_cuda_shared_memory_status(),
    "CudaSharedMemoryUnregister": lambda client: client.unregister_cuda_shared_memory(),
    "TraceSetting": lambda client: client.update_trace_settings(settings={"trace_file": "/tmp/trace"}),
    "TraceSettingRead": lambda client: client.get_trace_settings(),
    "LogSettings": lambda client: client.update_log_settings({"log_file": "/tmp/log"}),
    "LogSettingsRead": lambda client: client.get_log_settings(),
}


@pytest.mark.parametrize("rpc", RPCS)
def test_grpc_control_needs_the_key(server: Server, rpc: str) -> None:
    with pytest.raises(InferenceServerException, match="This protocol is restricted"):
        RPCS[rpc](server.client)


def test_what_was_refused_changed_nothing_and_inference_is_open(server: Server) -> None:
    assert server.client.is_model_ready("lm")
    expected = server.details("the cat", GREEDY)["choices"][0]["text"]
    answer = post(server, "/v2/models/lm/generate", {"text_input": "the cat", "parameters": GREEDY})
    assert json.loads(answer.json()["details"])["choices"][0]["text"] == expected
    assert server.client.get_model_metadata("head").name == "head"
    assert server.client.get_inference_statistics("lm").model_stats
    # No permission for a page to read an answer.
    assert not [name for name in answer.headers if name.startswith("access-control")]


def test_every_port_is_on_loopback(server: Server) -> None:
    listening = itertools.chain.from_iterable(
        process.net_connections("tcp") for process in psutil.Process().children(recursive=True)
    )
    addresses = {item.laddr.port: item.laddr.ip for item in listening if item.status == psutil.CONN_LISTEN}
    for port in (server.ports.http, server.ports.grpc, server.ports.metrics):
        assert addresses[port].removeprefix("::ffff:") == "127.0.0.1"


def test_metrics_are_read_only_and_tell_no_texts(server: Server) -> None:
    url = f"http://127.0.0.1:{server.ports.metrics}"
    server.details("a secret text", GREEDY)
    assert "secret" not in httpx.get(f"{url}/metrics", trust_env=False).text
    assert httpx.post(f"{url}/metrics", trust_env=False).status_code == 405
    # Triton answers every other path of this port with nothing.
    assert httpx.get(f"{url}/v2/repository/index", trust_env=False).content == b""
