"""The gallery of what must not pass, all with a part of the message that each of them gets."""

from __future__ import annotations

from tests.export.malformed.archives import ARCHIVES
from tests.export.malformed.configs import CONFIGS, LABELS
from tests.export.malformed.graphs import GRAPHS
from tests.export.malformed.inputs import Build, archive, artifact, checkpoint, nothing
from tests.export.malformed.manifests import MANIFESTS
from tests.export.malformed.tokenizers import TOKENIZERS
from tests.export.malformed.weights import TENSORS

GALLERY: dict[str, tuple[Build, str]] = {
    "nothing": (nothing, "nowhere: no such file or folder"),
    **{name: (checkpoint(edit), part) for name, (edit, part) in {**CONFIGS, **TENSORS, **TOKENIZERS}.items()},
    **{name: (checkpoint(edit, kind), part) for name, (kind, edit, part) in LABELS.items()},
    **{f"artifact: {name}": (artifact(edit), part) for name, (edit, part) in {**MANIFESTS, **GRAPHS}.items()},
    **{f"archive: {name}": (archive(data), part) for name, (data, part) in ARCHIVES.items()},
}
