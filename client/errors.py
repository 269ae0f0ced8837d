"""Why a call to an appliance has no answer; each message is one line for the user.

ClientError
├── UnreachableError   no connection, or it broke
└── RefusedError       the server answered with an HTTP error
"""

from __future__ import annotations

import json


class ClientError(Exception):
    pass


class UnreachableError(ClientError):
    """The message names the URL and what to do."""


class RefusedError(ClientError):
    """The message is the detail of the problem document (RFC 9457), or the status where there is none."""

    def __init__(self, status: int, body: bytes) -> None:
        super().__init__(_detail(status, body))
        self.status = status


def _detail(status: int, body: bytes) -> str:
    try:
        problem = json.loads(body)
        return f"{problem['detail']} ({status} {problem['title']})"
    except (ValueError, KeyError, TypeError):
        return f"the server answered {status}"
