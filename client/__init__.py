"""The Python client of the API: for programs, the command line and what measures."""

from client.asynchronous import AsyncClient
from client.errors import ClientError, RefusedError, UnreachableError
from client.http import Client

__all__ = ["AsyncClient", "Client", "ClientError", "RefusedError", "UnreachableError"]
