"""The engine's side of the processes that compute token masks."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

from runtime.contract import FaultCode
from runtime.errors import RequestFault
from runtime.grammar import Grammar
from runtime.interpreter import python, search_path
from runtime.masks.protocol import ANSWER, FAULT, MAX_PACKET, NEXT, READY, TOKEN

logger = logging.getLogger(__name__)

START_SECONDS = 60.0  # the tokenizer of GPT-2 takes half a second
COMPILE_SECONDS = 30.0  # of a busy machine; the process has a limit of CPU seconds
MASK_SECONDS = 5.0
END_SECONDS = 5.0
UNAVAILABLE = "structured output does not start on this server; its log says why"


class MaskServer:
    """The process that forks one process for each request with a grammar; the first request starts it.

    `open` is called by one thread.
    """

    def __init__(self, tokenizer: Path, vocab_size: int, ends: tuple[int, ...]) -> None:
        """`ends` are the tokens that end a text, at least one."""
        self._arguments = [str(tokenizer), str(vocab_size), ",".join(map(str, ends))]
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None

    def open(
        self, grammar: Grammar, sequences: int, on_close: Callable[[], None] = lambda: None
    ) -> TokenMasks:
        """Compile the grammar. Raises RequestFault that names its field, or `internal`.

        `on_close` is called once, when the masks are closed.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            with theirs:
                self._hand_over(theirs)
            ours.settimeout(COMPILE_SECONDS)
            _send(ours, json.dumps({"kind": grammar.kind.value, "sequences": sequences}).encode())
            _send(ours, grammar.text.encode())
            first = _answer(ours, grammar.field)[1]
        except OSError as error:  # a request's process that ends early counts as too complex: see _answer
            ours.close()
            logger.warning("a grammar could not be handed over", exc_info=error)
            raise RequestFault.of(FaultCode.INTERNAL, UNAVAILABLE) from None
        except RequestFault:
            ours.close()
            raise
        return TokenMasks(ours, first, sequences, grammar.field, on_close)

    def close(self) -> None:
        """End the server. The processes of requests go on until these are closed."""
        if self._control is not None:
            self._control.close()
            self._control = None
        if self._process is not None:
            try:
                self._process.wait(END_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None

    def _hand_over(self, theirs: socket.socket) -> None:
        try:
            socket.send_fds(self._running(), [NEXT], [theirs.fileno()], socket.MSG_NOSIGNAL)
        except OSError:  # it has ended: once more with a new one
            self.close()
            socket.send_fds(self._running(), [NEXT], [theirs.fileno()], socket.MSG_NOSIGNAL)

    def _running(self) -> socket.socket:
        """The control socket of the server, which is started where there is none."""
        if self._control is not None:
            return self._control
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [python(), "-m", "runtime.masks.server", str(theirs.fileno()), *self._arguments],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": search_path()},
            )
        self._control = ours
        ours.settimeout(START_SECONDS)
        if ours.recv(len(READY)) != READY:
            self.close()
            raise RequestFault.of(FaultCode.INTERNAL, UNAVAILABLE)
        return ours


class TokenMasks:
    """The masks of one request's sequences: bytes with one bit per token, the lowest bit first.

    Used by the step thread, once the engine has the request.
    """

    def __init__(
        self,
        connection: socket.socket,
        first: bytes,
        sequences: int,
        field: str,
        on_close: Callable[[], None],
    ) -> None:
        self._connection = connection
        self._on_close = on_close
        self._connection.settimeout(MASK_SECONDS)
        self._masks: list[bytes | None] = [first] * sequences
        self._field = field

    def of(self, index: int) -> bytes:
        """What may follow in this sequence. Raises RequestFault where the grammar became too complex."""
        while (mask := self._masks[index]) is None:
            number, found = _answer(self._connection, self._field)
            self._masks[number] = found
        return mask

    def advance(self, index: int, token_id: int) -> None:
        """The sequence goes on with this token; its next mask is computed while the graph runs."""
        self._masks[index] = None
        with contextlib.suppress(OSError):  # the process has ended: `of` says so
            _send(self._connection, TOKEN.pack(index, token_id))

    def close(self) -> None:
        """End the process."""
        self._connection.close()
        self._on_close()


def _answer(connection: socket.socket, field: str) -> tuple[int, bytes]:
    """The number of the sequence and its mask."""
    try:
        packet = connection.recv(MAX_PACKET)
    except OSError:  # a timeout, or the process has ended
        packet = b""
    if not packet:
        raise RequestFault.invalid(field, "the grammar is too complex: it takes too much time or memory")
    kind, number = ANSWER.unpack_from(packet)
    content = packet[ANSWER.size :]
    if kind == FAULT:
        raise RequestFault.invalid(field, content.decode())
    return number, content


def _send(connection: socket.socket, packet: bytes) -> None:
    connection.send(packet, socket.MSG_NOSIGNAL)
