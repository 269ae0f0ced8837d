"""Uploads to a real appliance through a proxy that breaks connections."""

from __future__ import annotations

import shutil
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import pytest

from client import upload as module
from client.errors import UnreachableError
from client.http import Client
from export.archive import pack_folder
from tests.e2e.appliance import ROOT, Appliance
from tests.e2e.pages import lmaas

CUT_BYTES = 300_000


class CuttingProxy:
    """Passes connections on, and breaks the first of them after a number of bytes that the client sent."""

    def __init__(self, target: int, cuts: int) -> None:
        self.cuts = cuts  # that are still to come
        self.sent = 0  # bytes from clients
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._target))
                for source, sink, counted in ((client, server, True), (server, client, False)):
                    thread = threading.Thread(target=self._pass_on, args=(source, sink, counted))
                    thread.start()
                    self._threads.append(thread)

    def _pass_on(self, source: socket.socket, sink: socket.socket, counted: bool) -> None:
        passed = 0
        with suppress(OSError):
            while chunk := source.recv(65536):
                sink.sendall(chunk)
                passed += len(chunk) * counted
                self.sent += len(chunk) * counted
                if self.cuts and passed > CUT_BYTES:
                    self.cuts -= 1
                    break
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


@contextmanager
def proxy(appliance: Appliance, cuts: int) -> Iterator[CuttingProxy]:
    opened = CuttingProxy(int(appliance.url.rpartition(":")[2]), cuts)
    try:
        yield opened
    finally:
        opened.close()


def test_an_upload_goes_on_where_its_connection_broke(appliance: Appliance, tmp_path: Path) -> None:
    folder, archive = tmp_path / "checkpoint", tmp_path / "nli.tar.gz"
    shutil.copytree(ROOT / "models" / "mini-nli", folder)
    (folder / "notes.txt").write_text("not the bundled one")  # whose bytes are here already
    pack_folder(folder, archive)
    size = archive.stat().st_size
    assert size > 3 * CUT_BYTES
    with proxy(appliance, cuts=2) as way:
        pushed = lmaas("models", "push", "cut", str(folder), url=way.url)
        assert "cut version 1 is ready" in pushed
        assert way.cuts == 0
        assert size < way.sent < size + 2 * CUT_BYTES
        before = way.sent
        again = lmaas("models", "push", "cut", str(folder), url=way.url)
        assert "cut version 1 is ready" in again  # the same version
        assert way.sent - before < 20_000  # the bytes are not sent again
    with archive.open("rb") as file:
        whole = appliance.http.post("/v1/models", data={"name": "cut"}, files={"file": ("a", file)}).json()
    assert (whole["version"], whole["new"]) == (1, False)
    assert appliance.http.delete("/v1/models/cut").is_success


def test_another_run_goes_on_as_well(
    appliance: Appliance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "archive"
    path.write_bytes(bytes(range(256)) * 8000)
    monkeypatch.setattr(module, "ATTEMPTS", 1)
    with proxy(appliance, cuts=1) as way:
        with pytest.raises(UnreachableError), Client(way.url) as client:
            client.upload(path)
        first = way.sent
        assert first < path.stat().st_size
        with Client(way.url) as client:
            digest = client.upload(path)
        assert way.sent - first < path.stat().st_size
    assert appliance.http.head(f"/v1/blobs/{digest}").status_code == 200


def test_many_parts(appliance: Appliance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "archive"
    path.write_bytes(bytes(range(255)) * 4000)
    monkeypatch.setattr(module, "PART_BYTES", 300_000)
    with Client(appliance.url) as client:
        digest = client.upload(path)
    shown: httpx.Response = appliance.http.get(f"/v1/blobs/{digest}")
    assert shown.json() == {"digest": digest, "received": 1_020_000, "stored": True}
