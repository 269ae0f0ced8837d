"""`lmaas up`: check the machine, serve, show the stages of the start, and say when it is ready."""

from __future__ import annotations

import contextlib
import gc
import os
import signal

import uvloop

from api.app import create_app
from api.back.home import OTHERS
from api.config import Settings
from api.logs import configure_logging
from api.middle.bundled import Progress
from api.server import Server, allow_many_files
from api.tracing import TracingError
from cli.member import Member
from cli.start_checks import Checked, check, listen, say, warn
from cli.start_display import Serving, Show, StartDisplay, printed_stages, report


def serve(settings: Settings, member: Member | None = None) -> int:
    """Serve until Ctrl-C or SIGTERM; returns the exit status, 0 for both.

    Problems of the machine are printed before anything starts. `member`: it is one of several façades.
    """
    os.umask(OTHERS)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    configure_logging(settings, member.name if member else "")
    checked = check(settings, lambda settings: [member.own_socket() if member else listen(settings)])
    if checked is None:
        return 1
    allow_many_files()
    show = _reporter(settings) if member else _display(checked)

    def on_progress(progress: Progress) -> None:
        serving = Serving.of(app.state.appliance) if progress.stage == "ready" else None
        show(progress.stage, progress.message, serving)

    try:
        app = create_app(settings, on_progress=on_progress, keys_exist=checked.has_keys)
    except TracingError as error:
        say(settings, str(error))
        return 1
    server = Server(app, settings, member.shared_listener() if member else None)
    # Modules and schemas stay until the end. A collection that looks at them stops every stream for 0.1 s.
    gc.collect()
    gc.freeze()
    # uvicorn drains at a signal, and raises it again once everything has ended.
    with contextlib.suppress(KeyboardInterrupt):
        uvloop.run(server.serve(sockets=checked.listeners))
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
