"""The process that compiles grammars: `python -m runtime.masks.server SOCKET TOKENIZER VOCABULARY ENDS`.

It reads the tokenizer once and then forks: each request has a child, with limits of its own, that ends when
the engine closes the socket of the request. llguidance has limits too, but not every cost counts towards
them.
"""

from __future__ import annotations

import gc
import json
import math
import os
import resource
import signal
import socket
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from llguidance import LLMatcher, LLParserLimits, LLTokenizer, grammar_from

from runtime.grammar import GrammarKind
from runtime.masks.protocol import ANSWER, FAULT, MASK, MAX_PACKET, READY, TOKEN
from runtime.text import Tokenizer

COMPILE_CPU_SECONDS = 2
MASKS_CPU_SECONDS = 5  # of all tokens of a request together, and one more for each of its sequences
TOKEN_CPU_SECONDS = 0.25  # the engine waits for each
MEMORY = 256 * 2**20  # bytes, beside what the server has
# The work of a token is a few milliseconds within these; a row of 500 items is an object with about 120
# optional properties.
LIMITS = LLParserLimits(
    max_items_in_row=500,
    initial_lexer_fuel=500_000,
    step_lexer_fuel=50_000,
    step_max_items=3_000,
    max_lexer_states=10_000,
    max_grammar_size=20_000,
    verbose_errors=False,
)
# A small model would otherwise write blanks without end between two parts.
WHITESPACE = r"[ \n\r\t]{1,8}"
TOO_COMPLEX = "the grammar is too complex"
SHOWN = 300  # characters of the library's messages


class Vocabulary:
    """The tokens of a model, as LLTokenizer reads them."""

    is_tokenizer_wrapper = True
    bos_token_id = None

    def __init__(self, tokenizer: Tokenizer, size: int, eos_token_id: int) -> None:
        self._tokenizer = tokenizer
        self.eos_token_id = eos_token_id
        self.tokens = [tokenizer.spelled(token) for token in range(size)]
        # Without bytes in a text: control tokens, and ids that no token has.
        self.special_token_ids = [token for token in range(size) if not tokenizer.token_bytes(token)]

    def __call__(self, text: bytes | str) -> list[int]:
        decoded = text.decode() if isinstance(text, bytes) else text
        return self._tokenizer.encode(decoded, special_tokens=False)


class Matchers:
    """One for each sequence of a request. Raises ValueError where the grammar cannot be followed."""

    def __init__(self, tokenizer: LLTokenizer, kind: GrammarKind, text: str, sequences: int) -> None:
        first = LLMatcher(tokenizer, _compiled(kind, text), log_level=0, limits=LIMITS)
        _check(first)
        self._all = [first, *(first.deep_copy() for _ in range(sequences - 1))]

    def mask(self, index: int) -> bytes:
        """One bit per token; ends of the text are among them where it may end."""
        mask = self._all[index].compute_bitmask()
        _check(self._all[index])
        return mask

    def advance(self, index: int, token: int) -> bytes:
        began = time.process_time()
        self._all[index].consume_token(token)
        mask = self.mask(index)
        if time.process_time() - began > TOKEN_CPU_SECONDS:
            raise ValueError(f"{TOO_COMPLEX}: one token took more than {TOKEN_CPU_SECONDS} s")
        return mask


def _compiled(kind: GrammarKind, text: str) -> str:
    if kind is GrammarKind.JSON:
        options: dict[str, Any] = {
            "whitespace_flexible": True,
            "whitespace_pattern": WHITESPACE,
            "coerce_one_of": False,
            "lenient": False,
        }
        return LLMatcher.grammar_from_json_schema(text, overrides=options)  # type: ignore[arg-type]
    if kind is GrammarKind.REGEX:
        return LLMatcher.grammar_from_regex(text)
    return grammar_from("choice" if kind is GrammarKind.CHOICE else "grammar", text)


def _check(matcher: LLMatcher) -> None:
    if matcher.is_error():
        raise ValueError(_in_our_words(matcher.get_error()))


def _in_our_words(message: str) -> str:
    message = message.replace("Enable 'coerce_one_of' option to approximate oneOf with anyOf", "Use anyOf")
    if "NoExtension" in message:
        return "no text matches the grammar"
    text = " ".join(message.replace("<non-verbose/>", "").split())
    if any(sign in text for sign in ("too many", "Too many", "too big", "too large", "fuel", "max is")):
        text = f"{TOO_COMPLEX}: {text}"
    return "".join(character if character.isprintable() else "?" for character in text[:SHOWN])


def serve(connection: socket.socket, tokenizer: LLTokenizer) -> None:
    """Answer one request until its socket closes."""
    head = json.loads(connection.recv(MAX_PACKET))
    text = connection.recv(MAX_PACKET).decode()
    sequences = int(head["sequences"])
    _limit()
    index = 0
    try:
        matchers = Matchers(tokenizer, GrammarKind(head["kind"]), text, sequences)
        connection.send(ANSWER.pack(MASK, 0) + matchers.mask(0))
        spent = math.ceil(time.process_time())
        _limit_cpu(spent + MASKS_CPU_SECONDS + sequences)
        while packet := connection.recv(TOKEN.size):
            index, token = TOKEN.unpack(packet)
            connection.send(ANSWER.pack(MASK, index) + matchers.advance(index, token))
    except (ValueError, RecursionError) as error:
        connection.send(ANSWER.pack(FAULT, index) + str(error).encode())


def _limit() -> None:
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    _lower(resource.RLIMIT_AS, used + MEMORY)
    _lower(resource.RLIMIT_CORE, 0)
    _limit_cpu(COMPILE_CPU_SECONDS)


def _limit_cpu(seconds: int) -> None:
    """The system ends the process once it has used them."""
    _lower(resource.RLIMIT_CPU, seconds)


def _lower(limit: int, value: int) -> None:
    """The soft limit; the hard one stays."""
    hard = resource.getrlimit(limit)[1]
    resource.setrlimit(limit, (value if hard == resource.RLIM_INFINITY else min(value, hard), hard))


def main(fd: str, path: str, size: str, ends: str) -> None:
    control = socket.socket(fileno=int(fd))
    token_ids = [int(end) for end in ends.split(",")]
    vocabulary = Vocabulary(Tokenizer(Path(path), token_ids[0]), int(size), token_ids[0])
    tokenizer = LLTokenizer(vocabulary, n_vocab=int(size), eos_token=token_ids)  # type: ignore[arg-type]
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the system forgets children that end
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the server of models
    vocabulary(b"")  # the tokenizer that it needs is made once, not in each child
    gc.freeze()
    control.send(READY)
    while True:
        _, sockets, _, _ = socket.recv_fds(control, 1, 1)
        if not sockets:
            return
        if os.fork() == 0:
            control.close()
            try:
                serve(socket.socket(fileno=sockets[0]), tokenizer)
            except OSError:  # the engine is done with the request
                pass
            except BaseException:  # the library raises it where it panics
                traceback.print_exc()
            finally:
                os._exit(0)
        os.close(sockets[0])


if __name__ == "__main__":
    main(*sys.argv[1:])
