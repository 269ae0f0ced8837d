"""What the chart sets is what the programs in the pods know: settings, commands, keys, metrics, routes."""

from __future__ import annotations

import base64
import inspect
import json
import re
import shlex
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import typer
from starlette.requests import Request
from typer.core import TyperGroup

from api.back.cluster.pods import GRPC_PORT, METRICS_PORT
from api.back.store.keys import KEY
from api.config import PREFIX, Settings
from api.environment import load_settings
from api.front.routes import ENDPOINTS
from api.front.site import Site
from api.middle import metrics
from api.middle.schemas.generate import GenerateParameters
from cli.local import CLIENT_VARIABLES
from helm.documents import OWN, SECRETS, camel, settings_schema
from lmaas import app
from tests.helm.charts import (
    NAMES,
    ROOT,
    Manifest,
    chart,
    containers,
    label,
    merged,
    of_kind,
    parse,
    pod_labels,
    pod_spec,
    render,
    rendered,
    values,
    workloads,
)
from tests.monitoring.promql import parsed, selectors

SECRET_VALUES = {
    f"{PREFIX}DATABASE_URL": "postgresql://lmaas:secret@database/lmaas",
    f"{PREFIX}CALLBACK_SECRET": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
}


def environment(name: str, container: dict[str, Any]) -> dict[str, str]:
    """The variables of a container; of those from a Secret a value in its form."""
    found: dict[str, str] = {}
    for source in container.get("envFrom", []):
        (item,) = (
            each for each in of_kind(name, "ConfigMap")
            if each["metadata"]["name"] == source["configMapRef"]["name"]
        )  # fmt: skip
        found |= item["data"]
    for item in container["env"]:
        found[item["name"]] = item.get("value") or SECRET_VALUES.get(item["name"], "a value")
    return {key: value.replace("$(POD_NAME)", "pod-0") for key, value in found.items()}


def container_of(name: str, workload: str) -> dict[str, Any]:
    (item,) = (each for each in workloads(name) if label(each).endswith(workload))
    found: dict[str, Any] = pod_spec(item)["containers"][0]
    return found


def settings(name: str) -> Settings:
    return load_settings(environment(name, container_of(name, "-api")))


@pytest.mark.parametrize("name", NAMES)
def test_facade_and_triton_accept_what_is_set(name: str) -> None:
    facade = settings(name)
    triton = load_settings(environment(name, container_of(name, "-triton")))
    assert (facade.triton_key, facade.device) == (triton.triton_key, triton.device)
    assert facade.servers == 0
    assert facade.access == ("keys" if merged(name)["auth"]["enabled"] else "open")
    folder = facade.triton_repository.partition("{server}")[0]
    assert triton.triton_repository.startswith(f"{folder}pod-0")
    assert not facade.on_loopback
    assert not triton.on_loopback


@pytest.mark.parametrize("name", NAMES)
def test_commands_get_their_variables_alone(name: str) -> None:
    for item in workloads(name):
        for container in containers(item):
            ours = {variable for variable in environment(name, container) if variable.startswith(PREFIX)}
            if "-postgresql" in label(item):
                assert ours == set()
            elif CLIENT_VARIABLES & ours:
                assert ours <= CLIENT_VARIABLES
            else:
                assert ours <= {PREFIX + field.upper() for field in Settings.model_fields}
                assert f"{PREFIX}HOME" in ours


@pytest.mark.parametrize("name", NAMES)
def test_the_driver_finds_the_pods(name: str) -> None:
    """By labels of the pods and of their Service, from which EndpointSlices have them."""
    selector = settings(name).kubernetes_selector
    if not selector:
        assert merged(name)["triton"]["discovery"] == "static"
        return
    wanted = dict(part.split("=") for part in selector.split(","))
    (pods,) = (item for item in workloads(name) if wanted.items() <= pod_labels(item).items())
    (service,) = (
        item for item in of_kind(name, "Service") if wanted.items() <= item["metadata"]["labels"].items()
    )
    assert service["spec"]["clusterIP"] == "None"
    assert service["metadata"]["name"] == pods["spec"]["serviceName"]
    assert {GRPC_PORT, METRICS_PORT} == {port["name"] for port in service["spec"]["ports"]}


def test_every_setting_can_be_set() -> None:
    """All of them at once, with other values than their defaults, arrive under their names."""
    shown = settings_schema()["properties"]
    assert shown.keys() == {camel(name) for name in Settings.model_fields.keys() - OWN - SECRETS}
    assert Settings.model_fields.keys() > SECRETS
    defaults = Settings().model_dump(mode="json")
    wanted = {camel(name): defaults[name] for name in Settings.model_fields.keys() - OWN - SECRETS}
    wanted |= {"otlpEndpoint": "http://collector:4318", "maxFileBytes": 5 * 1024**3, "budgetPerplexity": 0.25}
    chart().validate_schema({"api": {"settings": wanted}})
    texts = render({"api": {"settings": wanted}})
    (found,) = (item for item in parse(texts) if label(item) == "ConfigMap/lmaas-api")
    loaded = load_settings({**found["data"], **SECRET_VALUES})
    assert loaded.max_file_bytes == 5 * 1024**3
    assert loaded.budget_perplexity == 0.25
    assert loaded.otlp_endpoint == "http://collector:4318"
    for name in (
        Settings.model_fields.keys()
        - OWN
        - SECRETS
        - {"otlp_endpoint", "max_file_bytes", "budget_perplexity"}
    ):
        assert getattr(loaded, name) == getattr(Settings(), name), name


def test_threads_and_memory_follow_from_the_limits() -> None:
    assert settings("default").engine_threads == 4
    assert settings("minimal").engine_threads == 1
    assert settings("default").convert_memory_bytes == 3 * 1024**3
    assert settings("keda").convert_memory_bytes == 256 * 1024**2
    assert settings("gpu").variants == "fp32,fp16"


@pytest.mark.parametrize("name", NAMES)
def test_a_proxy_s_requests_are_accepted(name: str) -> None:
    site = Site(settings(name))
    hosts = ["10.0.0.7:8080"]
    for service in of_kind(name, "Service"):
        if service["metadata"]["name"].endswith("-api"):
            hosts += [service["metadata"]["name"], f"{service['metadata']['name']}.serving.svc"]
    for item in of_kind(name, "Ingress"):
        hosts += [rule["host"] for rule in item["spec"]["rules"]]
    for item in of_kind(name, "HTTPRoute"):
        hosts += item["spec"]["hostnames"]
    for host in hosts:
        request = Request(
            {"type": "http", "method": "POST", "path": "/", "headers": [(b"host", host.encode())]}
        )
        site.check(request, computes=False)
    assert settings(name).keep_alive_seconds > 60  # ingress-nginx keeps its own connections that long


def test_what_pods_run_are_commands(tmp_path: Path) -> None:
    found = {
        tuple(container["args"])
        for name in NAMES
        for item in workloads(name)
        for container in containers(item)
        if "-postgresql" not in label(item)
    }
    file = tmp_path / "file"
    file.write_text("")
    for words in found:
        parse_command([str(file) if word.startswith("/") else word for word in words])
    assert {words[0] for words in found} == {
        "deploy",
        "generate",
        "keys",
        "models",
        "servers",
        "store",
        "triton",
        "up",
    }


def parse_command(words: list[str]) -> None:
    """Raises typer's UsageError for a command or an option that does not exist."""
    command: Any = typer.main.get_command(app)
    context = command.make_context("lmaas", words, resilient_parsing=True)
    context.resilient_parsing = False  # that was for its own options
    while isinstance(command, TyperGroup):
        name, found, words = command.resolve_command(context, words)
        assert found is not None
        command, context = found, found.context_class(found, info_name=name, parent=context)
    command.make_context(command.name, list(words))


@pytest.mark.parametrize("image", ["api", "triton"])
def test_pods_run_what_the_image_is_made_for(image: str) -> None:
    """Its user owns what façade and Triton share; its entry point takes the commands of the pods."""
    lines = (ROOT / f"Dockerfile.{image}").read_text().splitlines()
    last = {line.partition(" ")[0]: line.partition(" ")[2] for line in lines}
    users = {line for line in lines if line.startswith("USER ")}
    (item,) = (each for each in workloads("default") if label(each).endswith(f"lmaas-{image}"))
    security = pod_spec(item)["securityContext"]
    assert users == {f"USER {security['runAsUser']}:{security['runAsGroup']}"}
    assert json.loads(last["ENTRYPOINT"])[-1] == "lmaas"
    assert json.loads(last["CMD"]) == pod_spec(item)["containers"][0]["args"]


def test_a_wrong_command_is_found() -> None:
    for words in (["store", "migrat"], ["deploy", "mini-lm", "--copies", "2"], ["deploy"]):
        with pytest.raises(Exception, match=r"No such|Missing parameter"):
            parse_command(words)


def test_keys_of_the_secret_are_api_keys() -> None:
    (first,), (second,) = (
        [item for item in parse(render({})) if label(item) == "Secret/lmaas-keys"] for _ in range(2)
    )
    for name in ("admin-key", "metrics-key"):
        assert KEY.fullmatch(base64.b64decode(first["data"][name]).decode())
        assert first["data"][name] != second["data"][name]
    assert len(base64.b64decode(first["data"]["triton-key"])) > 40
    (opened,) = (item for item in rendered("open") if item["kind"] == "Secret" and "keys" in label(item))
    assert opened["data"].keys() == {"triton-key"}


def test_metrics_that_autoscalers_ask_for_exist() -> None:
    exported = (ROOT / "runtime" / "triton" / "metrics.py").read_text()
    for name in ("autoscaled", "everything"):
        for item in of_kind(name, "HorizontalPodAutoscaler"):
            for metric in item["spec"]["metrics"]:
                assert metric["type"] == "Resource" or f'"{metric["pods"]["metric"]["name"]}"' in exported
    (scaled,) = of_kind("keda", "ScaledObject")
    ((metric, labels),) = selectors(parsed(scaled["spec"]["triggers"][0]["metadata"]["query"]))
    assert f'"{metric}"' in inspect.getsource(metrics)
    assert labels == {"job", "namespace", "service"}  # of this release alone


def test_prometheus_sends_its_key_to_the_route_of_metrics() -> None:
    (monitor,) = of_kind("monitoring", "ServiceMonitor")
    (endpoint,) = monitor["spec"]["endpoints"]
    assert endpoint["authorization"]["credentials"] == {"name": "lmaas-keys", "key": "metrics-key"}
    assert endpoint["path"] in {each.path for each in ENDPOINTS}
    assert endpoint["relabelings"] == [{"targetLabel": "job", "replacement": "lmaas"}]


def test_an_engine_is_counted_once() -> None:
    (monitor,) = of_kind("monitoring", "ServiceMonitor")
    ((rule,),) = (endpoint["metricRelabelings"] for endpoint in monitor["spec"]["endpoints"])
    assert (rule["sourceLabels"], rule["action"]) == (["__name__"], "drop")
    exported = re.findall(r'"(lmaas_\w+)"', (ROOT / "runtime" / "triton" / "metrics.py").read_text())
    assert len(exported) > 10
    assert all(re.fullmatch(rule["regex"], name) for name in exported)
    assert not re.search(rule["regex"].removesuffix(".*"), inspect.getsource(metrics).partition("import")[2])
    (alone,) = of_kind("tls", "ServiceMonitor")
    assert "metricRelabelings" not in alone["spec"]["endpoints"][0]


@pytest.mark.parametrize("name", NAMES)
def test_the_notes_end_in_a_curl(name: str) -> None:
    (notes,) = (text for path, text in render(values(name)).items() if path.endswith("NOTES.txt"))
    command = shlex.split(notes.strip().splitlines()[-1])
    assert command[0] == "curl"
    (url,) = (word for word in command if word.startswith("http"))
    if merged(name)["models"]["bundled"]:
        assert url.endswith("/v1/generate")
        GenerateParameters.model_validate(json.loads(command[command.index("-d") + 1]))
    else:
        assert url.endswith("/v1/models")
    assert {urlsplit(url).path} <= {endpoint.path for endpoint in ENDPOINTS}
    assert "--retry-connrefused" in command  # the line before lets kubectl begin to forward
    assert ("authorization: Bearer $LMAAS_API_KEY" in command) == merged(name)["auth"]["enabled"]


def test_streams_and_uploads_pass_the_proxy() -> None:
    (ingress,) = of_kind("ingress", "Ingress")
    found = {key.rpartition("/")[2]: value for key, value in ingress["metadata"]["annotations"].items()}
    assert (found["proxy-buffering"], found["proxy-request-buffering"]) == ("off", "off")
    assert found["proxy-body-size"] == "0"
    assert found["proxy-read-timeout"] == "600"  # the user's own goes before the chart's
    (route,) = of_kind("gateway", "HTTPRoute")
    assert route["spec"]["rules"][0]["timeouts"] == {"request": "0s", "backendRequest": "0s"}


def test_the_release_is_that_of_the_package() -> None:
    found = re.search(r'^version = "(.*)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert found is not None
    assert chart().metadata["appVersion"] == chart().version == found[1]


def only(manifests: list[Manifest]) -> Manifest:
    (found,) = manifests
    return found


def test_a_gpu_is_asked_for() -> None:
    container = container_of("gpu", "-triton")
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert container["image"] == "lmaas-triton:0.1.0"
    assert container_of("default", "-triton")["image"] == "lmaas-triton:0.1.0-cpu"
    assert "nvidia.com/gpu" not in container_of("default", "-triton")["resources"]["limits"]
    spec = pod_spec(only([item for item in of_kind("gpu", "StatefulSet") if "triton" in label(item)]))
    assert spec["runtimeClassName"] == "nvidia"
    assert spec["tolerations"] == [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
