"""`lmaas up`: check the machine, serve, show the stages of the start, and say when it is ready."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from collections.abc import Sequence

import uvloop

from api.app import create_app
from api.back.home import OTHERS
from api.config import Settings
from api.logs import configure_logging
from api.middle.bundled import Progress
from api.server import Server, allow_many_files
from api.tracing import TracingError
from cli.start_checks import Checked, check, listen, say, warn
from cli.start_display import Serving, Show, StartDisplay, printed_stages, report


def serve(settings: Settings, sockets: Sequence[int] = ()) -> int:
    """Serve until Ctrl-C or SIGTERM; returns the exit status, 0 for both.

    Problems of the machine are printed before anything starts. `sockets` are descriptors of listening ones,
    the shared one and that of this façade alone, where it is one of several (cli/facades.py).
    """
    os.umask(OTHERS)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    configure_logging(settings, settings.home.name if sockets else "")
    inherited = [socket.socket(fileno=descriptor) for descriptor in sockets]
    checked = check(settings, lambda settings: inherited or [listen(settings)])
    if checked is None:
        return 1
    allow_many_files()
    show = _reporter(settings) if inherited else _display(checked)

    def on_progress(progress: Progress) -> None:
        serving = Serving.of(app.state.appliance) if progress.stage == "ready" else None
        show(progress.stage, progress.message, serving)

    try:
        app = create_app(settings, on_progress=on_progress, keys_exist=checked.has_keys)
    except TracingError as error:
        say(settings, str(error))
        return 1
    *shared, own = checked.listeners
    server = Server(app, settings, *shared)
    # uvicorn drains at a signal, and raises it again once everything has ended.
    with contextlib.suppress(KeyboardInterrupt):
        uvloop.run(server.serve(sockets=[own]))
    if server.failure:
        say(settings, server.failure)
        return 1
    return 0


def _display(checked: Checked) -> Show:
    warn(checked.settings)
    return StartDisplay.of(checked).show


def _reporter(settings: Settings) -> Show:
    if settings.log_format != "json":
        printed_stages()
    return report
