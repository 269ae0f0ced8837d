"""Checkpoints on the Hugging Face hub: by name, through its own library, into the library's own cache.

What cannot be exported is refused as early as it shows: by the list of files, then by the small ones. File by
file in this thread, and not by `snapshot_download`, whose threads hold up Ctrl-C until the weights are there.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from export.checkpoint.config import CONFIG_FILE, read_config
from export.checkpoint.tensors import INDEX_FILE, SINGLE_FILE
from export.checkpoint.tokenizer import read_tokenizer
from export.errors import CheckpointError, ExportError
from export.reading import CONVERT_LINE, PICKLE_NAMES

SMALL_FILES = (
    *(CONFIG_FILE, "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"),
    *("vocab.json", "merges.txt", "encoder.json", "vocab.bpe"),
)
LISTING_SECONDS = 10.0  # as the library waits for a file's headers; it has no limit for a listing
_NAME = re.compile(
    r"(?P<repository>[A-Za-z0-9][\w.-]*(?:/[A-Za-z0-9][\w.-]*)?)(?:@(?P<revision>[A-Za-z0-9][\w.-]*))?",
    re.ASCII,
)
_FILE_SUFFIXES = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".safetensors", ".bin", ".onnx", ".json")
_NAMES_TOLD = 8


@dataclass(frozen=True, slots=True)
class HubName:
    """`name`, `owner/name`, or either with `@revision`: a branch, a tag or a commit."""

    repository: str
    revision: str | None = None

    @classmethod
    def parse(cls, text: str) -> HubName | None:
        """None where `text` can only be a path: an absolute one, a file's, one of several folders."""
        found = _NAME.fullmatch(text)
        if found is None or text.lower().endswith(_FILE_SUFFIXES):
            return None
        return cls(found["repository"], found["revision"])

    def __str__(self) -> str:
        return f"{self.repository}@{self.revision}" if self.revision else self.repository


def fetch_checkpoint(name: HubName) -> tuple[Path, str]:
    """Download what an export reads, unless it is in the cache; returns its folder and the commit.

    Raises ExportError (field `source`), or CheckpointError for what the repository holds.
    """
    # Slow to import, and needed for a hub name alone.
    import requests
    from huggingface_hub import HfApi
    from huggingface_hub.errors import OfflineModeIsEnabled

    with _told_clearly(name):
        try:
            listing = HfApi().model_info(name.repository, revision=name.revision, timeout=LISTING_SECONDS)
        except (OfflineModeIsEnabled, requests.ConnectionError, requests.Timeout) as error:
            return _cached(name, error)
    files = [file.rfilename for file in listing.siblings or ()]
    weights = weight_files(name, files)
    folder = _download(name, [file for file in SMALL_FILES if file in files])
    read_tokenizer(folder, read_config(folder))
    if _download(name, weights) != folder:
        raise _refused(name, "the repository changed during the download: try again")
    return folder, folder.name


def weight_files(name: HubName, files: Sequence[str]) -> list[str]:
    """Those of a repository's `files` that hold the weights; CheckpointError where none are safetensors."""
    if CONFIG_FILE in files and INDEX_FILE in files:
        shards = [file for file in files if file.endswith(".safetensors") and "/" not in file]
        return [INDEX_FILE, *(file for file in shards if file != SINGLE_FILE)]
    if CONFIG_FILE in files and SINGLE_FILE in files:
        return [SINGLE_FILE]
    for pickle in PICKLE_NAMES:
        if CONFIG_FILE in files and pickle in files:
            raise CheckpointError(
                f"{name}: {pickle}: pickles are not opened, nor downloaded; convert it where you trust it:"
                f" hf download {name.repository} --local-dir FOLDER && {CONVERT_LINE}",
                field="source",
            )
    missing = SINGLE_FILE if CONFIG_FILE in files else CONFIG_FILE
    told = ", ".join(sorted(files)[:_NAMES_TOLD]) or "no files"
    more = f" and {len(files) - _NAMES_TOLD} more" if len(files) > _NAMES_TOLD else ""
    raise CheckpointError(f"{name}: no {missing} in the repository, which has {told}{more}", field="source")


def _download(name: HubName, files: Sequence[str]) -> Path:
    """The folder of a commit in the cache, with `files` in it."""
    from huggingface_hub import hf_hub_download

    with _told_clearly(name):
        # The revision as it was given: the library remembers for its cache which commit it stood for.
        paths = [Path(hf_hub_download(name.repository, file, revision=name.revision)) for file in files]
    folders = {path.parent for path in paths}
    if len(folders) > 1:
        raise _refused(name, "the repository changed during the download: try again")
    return folders.pop()


def _cached(name: HubName, error: Exception) -> tuple[Path, str]:
    """What an earlier download left, where the hub cannot be reached."""
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(name.repository, revision=name.revision, local_files_only=True))
    except LocalEntryNotFoundError:
        folder = None
    if folder is None or not ((folder / SINGLE_FILE).is_file() or (folder / INDEX_FILE).is_file()):
        if constants.HF_HUB_OFFLINE:
            why = "HF_HUB_OFFLINE forbids to ask the hub"
        else:
            why = f"the hub ({constants.ENDPOINT}) cannot be reached ({_in_short(error)})"
        raise _refused(
            name,
            f"no such file or folder, {why}, and the cache does not hold it: download it on a machine with a"
            f" connection (hf download {name.repository} --local-dir FOLDER), and give the folder",
        ) from None
    return folder, folder.name


@contextmanager
def _told_clearly(name: HubName) -> Iterator[None]:
    """Every failure of the library as an ExportError of one line that says what to do."""
    try:
        yield
    except ExportError:
        raise
    except Exception as error:  # of the library, of requests, of its Rust parts, of the disk
        raise _refused(name, _explanation(name, error)) from error


def _explanation(name: HubName, error: Exception) -> str:
    import requests
    from huggingface_hub import constants, errors

    page = f"{constants.ENDPOINT}/{name.repository}"
    match error:
        case errors.GatedRepoError():
            return f"access is granted on request: ask for it at {page}, then log in with hf auth login"
        case errors.RepositoryNotFoundError():
            return (
                "no such file or folder, and no such repository on the hub; if it is private, log in with"
                " hf auth login"
            )
        case errors.HFValidationError():
            return "no such file or folder, and no repository can have this name"
        case errors.RevisionNotFoundError():
            return f"the repository has no revision {name.revision}; its branches and tags are at {page}"
        case errors.LocalEntryNotFoundError(__cause__=Exception() as cause):
            return _explanation(name, cause)
        case requests.ConnectionError() | requests.Timeout():
            return (
                f"the connection was lost ({_in_short(error)}): try again, the download goes on where it was"
            )
        case errors.HfHubHTTPError():
            return _explain_status(error.response.status_code if error.response is not None else 0)
        case OSError(errno=int(), strerror=str(reason)):
            return (
                f"cannot be written to the cache {constants.HF_HUB_CACHE} ({reason}): make room there, or set"
                " HF_HOME to another folder"
            )
    first = (str(error).strip() or type(error).__name__).splitlines()[0]
    return f"the download failed: {first[:200]}"


def _explain_status(status: int) -> str:
    if status in (401, 403):
        return f"the hub answered {status}: the token may not read it; log in with hf auth login"
    if status == 429 or status >= 500:
        return f"the hub answered {status}: try again later"
    return f"the hub answered {status}"


def _in_short(error: Exception) -> str:
    import requests

    match error:
        case requests.exceptions.ProxyError():
            return "the proxy does not let it through"
        case requests.exceptions.SSLError():
            return "its certificate is not trusted"
        case requests.Timeout():
            return "no answer in time"
    return "no connection"


def _refused(name: HubName, why: str) -> ExportError:
    return ExportError(f"{name}: {why}", field="source")
