"""Download of checkpoints from the Hugging Face hub, with its own library and into that library's cache.

What cannot be exported is refused early: by the list of files, then by the small files, before the weights.
Files are downloaded one by one in this thread: the threads of `snapshot_download` would delay Ctrl-C until
the weights are complete.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from export.checkpoint.chat import TEMPLATE_FILE
from export.checkpoint.config import read_config
from export.checkpoint.config_reader import CONFIG_FILE
from export.checkpoint.folder import refuse_adapter
from export.checkpoint.generation import GENERATION_FILE
from export.checkpoint.tensors import INDEX_FILE, SINGLE_FILE
from export.checkpoint.tokenizer import read_tokenizer
from export.errors import CheckpointError, ExportError
from export.reading import CONVERT_LINE, PICKLE_NAMES

SMALL_FILES = (
    *(CONFIG_FILE, "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"),
    *("added_tokens.json", "vocab.txt", "spiece.model", "tokenizer.model"),
    TEMPLATE_FILE,
    *("vocab.json", "merges.txt", "encoder.json", "vocab.bpe", GENERATION_FILE),
)
LISTING_SECONDS = 10.0  # the library's timeout for a file's headers; it has none for a listing
_NAME = re.compile(
    r"(?P<repository>[A-Za-z0-9][\w.-]*(?:/[A-Za-z0-9][\w.-]*)?)(?:@(?P<revision>[A-Za-z0-9][\w.-]*))?",
    re.ASCII,
)
_FILE_SUFFIXES = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".safetensors", ".bin", ".onnx", ".json")
_NAMES_SHOWN = 8


@dataclass(frozen=True, slots=True)
class HubName:
    """`name`, `owner/name`, or either with `@revision`: a branch, a tag or a commit."""

    repository: str
    revision: str | None = None

    @classmethod
    def parse(cls, text: str) -> HubName | None:
        """None where `text` can only be a path: absolute, with a file's suffix, or with several folders."""
        found = _NAME.fullmatch(text)
        if found is None or text.lower().endswith(_FILE_SUFFIXES):
            return None
        return cls(found["repository"], found["revision"])

    def __str__(self) -> str:
        return f"{self.repository}@{self.revision}" if self.revision else self.repository


def fetch_checkpoint(name: HubName) -> tuple[Path, str]:
    """Download the files that an export reads, unless they are cached; returns folder and commit.

    Raises ExportError (field `source`), or CheckpointError for what the repository holds.
    """
    # Slow to import, and needed only for a hub name.
    import requests
    from huggingface_hub import HfApi
    from huggingface_hub.errors import OfflineModeIsEnabled

    with _export_errors(name):
        try:
            listing = HfApi().model_info(name.repository, revision=name.revision, timeout=LISTING_SECONDS)
        except (OfflineModeIsEnabled, requests.ConnectionError, requests.Timeout) as error:
            return _cached(name, error)
    files = [file.rfilename for file in listing.siblings or ()]
    refuse_adapter(files)
    weights = weight_files(name, files)
    folder = _download(name, [file for file in SMALL_FILES if file in files])
    read_tokenizer(folder, read_config(folder))
    if _download(name, weights) != folder:
        raise _refused(name, "the repository changed during the download: try again")
    return folder, folder.name


def weight_files(name: HubName, files: Sequence[str]) -> list[str]:
    """The weight files among a repository's `files`; raises CheckpointError without safetensors."""
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
    shown = ", ".join(sorted(files)[:_NAMES_SHOWN]) or "no files"
    more = f" and {len(files) - _NAMES_SHOWN} more" if len(files) > _NAMES_SHOWN else ""
    raise CheckpointError(f"{name}: no {missing} in the repository, which has {shown}{more}", field="source")


def _download(name: HubName, files: Sequence[str]) -> Path:
    """Download `files`; returns the folder of their commit in the cache."""
    from huggingface_hub import hf_hub_download

    with _export_errors(name):
        # The revision as it was given: the cache remembers which commit it stood for.
        paths = [Path(hf_hub_download(name.repository, file, revision=name.revision)) for file in files]
    folders = {path.parent for path in paths}
    if len(folders) > 1:
        raise _refused(name, "the repository changed during the download: try again")
    return folders.pop()


def _cached(name: HubName, error: Exception) -> tuple[Path, str]:
    """The result of an earlier download, for when the hub cannot be reached."""
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
def _export_errors(name: HubName) -> Iterator[None]:
    """Turn every failure of the library into an ExportError of one line that says what to do."""
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
