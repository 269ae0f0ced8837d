"""The façade and Triton as containers of their images, the one reaching the other: `make images-test`.

The end-to-end tests of the task APIs and of a model's life run here against containers.
"""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from tests.e2e import test_lifecycle, test_tasks
from tests.e2e.appliance import Appliance, free_port
from tests.e2e.test_tasks import PROMPT, events
from tests.images.buildah import BASE, REVISION, Container, Store, size_of
from tests.images.test_files import constraints

test_generate = test_tasks.test_generate_writes_on_and_says_who_answered
test_a_stream = test_tasks.test_a_stream_tells_the_same_in_pieces
test_a_client_that_leaves = test_tasks.test_a_client_that_leaves_frees_its_slots
test_classify = test_tasks.test_classify_sentiment
test_infer = test_tasks.test_infer
test_nlu = test_tasks.test_nlu_finds_intent_and_slots_at_their_places
test_from_upload_to_delete = test_lifecycle.test_round_trip

pytestmark = [pytest.mark.containers, pytest.mark.timeout(1800)]
USER = 10001
KEY = "a key of both"
GRACE_SECONDS = 10.0  # what Docker gives a container to end; Kubernetes gives 30


def canonical(name: str) -> str:
    """As PEP 503 writes the name of a package."""
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    made = Store(tmp_path_factory.mktemp("store"))
    try:
        begin = time.monotonic()
        made.make_base()
        print(f"\nbase: {time.monotonic() - begin:.0f} s")
        for name, dockerfile, argument, *options in (
            ("api", "Dockerfile.api", "BASE"),
            ("triton", "Dockerfile.triton", "CPU_BASE", "--target=cpu"),
        ):
            begin = time.monotonic()
            made.build(name, dockerfile, argument, *options)
            print(f"{name}: built in {time.monotonic() - begin:.0f} s")
        yield made
    finally:
        made.close()


@dataclass
class Pair:
    """A façade and the Triton that it uses, both running as containers."""

    api: Container
    triton: Container
    url: str  # of the façade
    folder: Path  # of volumes and logs

    @classmethod
    @contextmanager
    def running(cls, store: Store, folder: Path) -> Iterator[Pair]:
        """On free ports of loopback."""
        port, grpc, metrics = free_port(), free_port(), free_port()
        both = {"HOST": "127.0.0.1", "TRITON_KEY": KEY, "TRITON_REPOSITORY": "/repository"}
        variables = {
            "triton": {"TRITON_GRPC_PORT": str(grpc), "TRITON_METRICS_PORT": str(metrics)},
            "api": {"PORT": str(port), "TRITON_URLS": f"grpc://127.0.0.1:{grpc}?metrics={metrics}"},
        }
        with ExitStack() as stack:
            made = {}
            for name, own in variables.items():
                volumes = {
                    "/repository": folder / "repository",
                    "/var/lib/lmaas": folder / f"{name}-state",
                }
                for volume in volumes.values():
                    volume.mkdir(exist_ok=True)
                    shutil.chown(volume, USER, USER)
                settings = {f"LMAAS_{setting}": value for setting, value in {**both, **own}.items()}
                made[name] = stack.enter_context(closing(Container(store, name, volumes, settings)))
                print(f"{name}: {size_of(made[name].root):.0f} MB")
                made[name].start(folder / f"{name}.log")
            yield cls(**made, url=f"http://127.0.0.1:{port}", folder=folder)


@pytest.fixture(scope="module")
def pair(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with Pair.running(store, tmp_path_factory.mktemp("pair")) as made:
        yield made


@pytest.fixture(scope="module")
def appliance(pair: Pair) -> Iterator[Appliance]:
    """The façade as the end-to-end tests take one."""
    assert pair.api.process is not None
    made = Appliance(pair.api.process, pair.url, pair.folder / "api-state", pair.folder / "api.log")
    made.ready_after = made.wait_until_ready()
    print(f"ready after {made.ready_after:.0f} s")
    yield made
    made.http.close()


def test_both_are_healthy_by_their_own_checks(appliance: Appliance, pair: Pair) -> None:
    for container in (pair.api, pair.triton):
        checked = container.health()
        assert (checked.returncode, checked.stdout.strip()) == (0, "it serves"), checked.stderr


def test_no_process_is_root_s(appliance: Appliance, pair: Pair) -> None:
    for container in (pair.api, pair.triton):
        processes = container.processes()
        assert {(*process.uids(), *process.gids()) for process in processes} == {(USER,) * 6}
        assert len(processes) > 1


def test_the_key_is_no_argument_that_others_can_read(appliance: Appliance, pair: Pair) -> None:
    for process in pair.triton.processes():
        assert KEY not in " ".join(process.cmdline())


def test_only_the_volumes_and_tmp_can_be_written(appliance: Appliance, pair: Pair) -> None:
    for container in (pair.api, pair.triton):
        for place in ("/opt/lmaas/new", "/etc/new", "/new"):
            refused = container.execute("touch", place, user="0:0")
            assert "Read-only file system" in refused.stderr
        for place in ("/tmp/new", "/var/lib/lmaas/new", "/repository/new"):
            assert container.execute("touch", place).returncode == 0
            assert container.execute("rm", place).returncode == 0


def test_nothing_builds_and_nothing_trains_in_them(pair: Pair) -> None:
    for container in (pair.api, pair.triton):
        found = container.execute(
            "python3",
            "-c",
            "import shutil; print([n for n in ('pip', 'gcc', 'cc', 'make') if shutil.which(n)])",
        )
        assert found.stdout.strip() == "[]", found.stderr
        assert container.execute("python3", "-c", "import torch").returncode == 1


def test_the_sbom_lists_what_is_installed_and_that_is_what_was_pinned(pair: Pair) -> None:
    pinned = {canonical(name): versions for name, versions in constraints().items()}
    for name, container in (("lmaas-api", pair.api), ("lmaas-triton-cpu", pair.triton)):
        listed = json.loads((container.root / "opt/lmaas/share/sbom/image.cdx.json").read_text())
        assert (listed["bomFormat"], listed["metadata"]["component"]["name"]) == ("CycloneDX", name)
        parts = {part.get("purl", "") for part in listed["components"]}
        python = dict(part.removeprefix("pkg:pypi/").split("@") for part in parts if "pkg:pypi/" in part)
        assert {"numpy", "onnxruntime", "tritonclient"} <= set(python)
        assert {each: version for each, version in python.items() if version not in pinned[each]} == {}
        assert "lmaas" in {part["name"] for part in listed["components"]}
        shown = container.execute("dpkg-query", "--show", "--showformat=${Package} ${Version}\n").stdout
        debian = {
            f"{part['name']} {part['version']}"
            for part in listed["components"]
            if "pkg:deb/" in part.get("purl", "")
        }
        assert debian == set(shown.splitlines())


def test_the_revision_is_a_label(pair: Pair) -> None:
    for container in (pair.api, pair.triton):
        labels = container.configuration["Labels"]
        assert labels["org.opencontainers.image.revision"] == REVISION
        assert labels["org.opencontainers.image.base.name"] == BASE


@pytest.mark.parametrize("name", ["api", "triton"])
def test_a_volume_that_another_user_owns_is_named(pair: Pair, name: str, tmp_path: Path) -> None:
    container = {"api": pair.api, "triton": pair.triton}[name].again({"/var/lib/lmaas": tmp_path})
    process = container.start(tmp_path / "log")
    assert process.wait(60) == 1
    assert "the folder /var/lib/lmaas cannot be written (Permission denied)" in (tmp_path / "log").read_text()


def test_a_request_to_end_lets_streams_end(appliance: Appliance, pair: Pair) -> None:
    """The last test: nothing runs after it."""
    body = {
        "prompt": PROMPT,
        "max_tokens": 450,
        "n": 16,
        "ignore_eos": True,
        "temperature": 1,
        "stream": True,
    }
    with (
        ThreadPoolExecutor(1) as pool,
        httpx.stream("POST", f"{pair.url}/v1/generate", json=body, timeout=60) as response,
    ):
        streamed = events(response)
        next(streamed)
        stopping = pool.submit(pair.api.stop)
        reasons = [choice["finish_reason"] for event in streamed for choice in event["choices"]]
    assert reasons.count("length") == 16
    for status, seconds in (stopping.result(), pair.triton.stop()):
        assert status == 0
        assert seconds < GRACE_SECONDS
