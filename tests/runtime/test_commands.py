"""Commands of a session, as they are written and read back."""

from __future__ import annotations

import json

import pytest

from runtime.commands import MAX_LOG_ID, Submit, decode, encode, join
from runtime.contract import Operation
from runtime.errors import RequestFault

SUBMIT = Submit("é", Operation.GENERATE, {"n": 2}, True, "request-1")


def test_a_command_is_read_as_it_was_written() -> None:
    commands = [(1, SUBMIT), (2, None), (-3, Submit([1, 2], Operation.EMBED, {}, False))]
    assert decode(join(encode(*command) for command in commands).decode()) == commands


def test_the_id_for_the_log_is_bounded() -> None:
    text = join([encode(1, Submit("a", Operation.NEXT, {}, False, "x" * 100_000))]).decode()
    (_, command), *_ = decode(text)
    assert command is not None
    assert len(command.log_id) == MAX_LOG_ID


@pytest.mark.parametrize("changed", [{"log_id": 3}, {"log_id": None}, {"more": ""}])
def test_another_shape_is_refused(changed: dict[str, object]) -> None:
    key, members = json.loads(encode(1, SUBMIT))
    with pytest.raises(RequestFault, match="is no command"):
        decode(json.dumps([[key, {**members, **changed}]]))
