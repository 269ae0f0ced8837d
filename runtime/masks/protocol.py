"""The messages between `client` and `server`, each one packet of a socket.

The control socket carries `READY` once, and then the socket of each request to the server. On that one come
the head (JSON: kind, sequences) and the grammar; then the client sends the token that a sequence was given,
and for the grammar and each token the server answers with MASK or FAULT.
"""

from __future__ import annotations

import struct

READY = b"ready"
NEXT = b"+"  # carries the socket of a request
MASK, FAULT = b"m", b"f"
MAX_PACKET = 128 * 1024  # bytes
TOKEN = struct.Struct("<HI")  # number of the sequence, token id
ANSWER = struct.Struct("<cH")  # MASK or FAULT, number of the sequence; then one bit per token, or text
