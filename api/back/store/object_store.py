"""Where blobs lie: a folder, or a bucket behind S3's protocol. Raises the family of obstore's exceptions."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path
from urllib.parse import unquote, urlsplit

import obstore
from obstore.exceptions import BaseError
from obstore.store import LocalStore, ObjectStore, from_url

from api.back.store.failures import translated
from api.errors import ServerFault

ENDPOINTS = ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT")
LOOPBACK = ("127.0.0.1", "localhost", "::1")
# A caller hears within some seconds that a bucket does not answer. One request moves some MiB at most.
CONNECT_SECONDS = 2
REQUEST_SECONDS = 20
RETRIES = 2
RETRY_SECONDS = 10


def open_objects(folder: Path, url: str | None) -> tuple[ObjectStore, Path | None]:
    """The store, and its folder where its objects are plain files.

    `url` names a bucket (`s3://bucket/prefix`; region, endpoint and credentials by AWS's own variables) or a
    folder (`file:///path`); without one they are files in `folder`. Raises ServerFault: a URL that names no
    store, a bucket that does not exist; StoreUnavailable.
    """
    if url is not None and not url.startswith("file:"):
        return _bucket(url), None
    if url is not None:
        folder = Path(unquote(urlsplit(url).path))
    with translated(folder):
        folder.mkdir(parents=True, exist_ok=True)
    return LocalStore(folder.absolute()), folder.absolute()


def _spare_proxy(endpoint: str) -> None:
    """Users set `http_proxy` for other machines, often without `no_proxy`: ignore it for this one.

    The library takes both from the environment, and in no other way.
    """
    host = urlsplit(endpoint).hostname or ""
    if host in LOOPBACK:
        for name in ("NO_PROXY", "no_proxy"):
            spared = os.environ.get(name, "").split(",")
            if host not in spared:
                os.environ[name] = ",".join(filter(None, (*spared, host)))


def _bucket(url: str) -> ObjectStore:
    endpoint = next((os.environ[name] for name in ENDPOINTS if os.environ.get(name)), "")
    _spare_proxy(endpoint)
    try:
        store = from_url(
            url,
            client_options={
                "allow_http": endpoint.startswith("http://"),
                "connect_timeout": timedelta(seconds=CONNECT_SECONDS),
                "timeout": timedelta(seconds=REQUEST_SECONDS),
            },
            retry_config={"max_retries": RETRIES, "retry_timeout": timedelta(seconds=RETRY_SECONDS)},
        )
    except (BaseError, ValueError, TypeError) as error:
        raise ServerFault(f"blob_url {url}: {str(error).partition(chr(10))[0]}") from None
    with translated(url, logged=False):
        try:
            next(iter(obstore.list(store, chunk_size=1)), None)
        except BaseError as error:
            if "404 Not Found" not in str(error):
                raise
            raise ServerFault(f"blob_url: there is no bucket {url}: make it first") from None
    return store
