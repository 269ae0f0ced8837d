"""Task `train`: from labelled rows to a stored version of a model."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Annotated, Any, Literal, get_args, get_type_hints

from pydantic import ConfigDict, Discriminator, Field, JsonValue, Tag, create_model

from api.middle.schemas.base import Schema, TaskParameters
from api.middle.schemas.convert import ConvertAnswer, Precision
from runtime.contract import MODEL_NAME
from train.options import Options, described

MAX_INLINE_ROWS = 10_000
MOST = 1_000_000_000  # of a whole number that has no limit of its own
# What the task has in fields of its own, and what the server decides.
NOT_OPTIONS = {"train", "out", "held_out", "test", "start", "threads", "url", "resume", "overwrite"}


def _type_of(hint: Any) -> Any:
    """The type of an option, of whose enumerations the values are taken."""
    if isinstance(hint, type) and issubclass(hint, Enum):
        return Literal[tuple(item.value for item in hint)]
    return hint


def _options() -> Mapping[str, Any]:
    """The fields of `TrainOptions`: what `train/options.py` says of each option, with its limits."""
    hints = get_type_hints(Options, include_extras=True)
    found = {}
    for name, about in described().items():
        if name in NOT_OPTIONS:
            continue
        hint = get_args(hints[name])[0]
        whole = int in (hint, *get_args(hint))
        limits: dict[str, Any] = {"ge": about.low, "le": MOST if whole and about.high is None else about.high}
        kinds = ", ".join(kind.value for kind in about.kinds)
        what = about.what if len(about.kinds) == 3 else f"{about.what} For {kinds}."
        given = {key: value for key, value in limits.items() if value is not None}
        found[name] = (_type_of(hint) | None, Field(default=None, description=what, **given))
    return found


class _Options(Schema):
    """As the options of `lmaas train`; what is not given has the default that it has there."""


TrainOptions: type[Schema] = create_model("TrainOptions", __base__=_Options, **_options())


def _form(value: Any) -> str:
    if isinstance(value, list | tuple):
        return "rows"
    return "share" if isinstance(value, float | int) else "file"


FileId = Annotated[str, Field(min_length=1, max_length=64)]
Rows = Annotated[list[dict[str, JsonValue]], Field(min_length=1, max_length=MAX_INLINE_ROWS)]
Share = Annotated[float, Field(gt=0, lt=1)]
Data = Annotated[Annotated[FileId, Tag("file")] | Annotated[Rows, Tag("rows")], Discriminator(_form)]
HeldOut = Annotated[
    Annotated[FileId, Tag("file")] | Annotated[Rows, Tag("rows")] | Annotated[Share, Tag("share")],
    Discriminator(_form),
]
FORM = (
    f"The id of a file of purpose `fine-tune` (.jsonl, .csv, .tsv, and .txt for lm), or up to "
    f"{MAX_INLINE_ROWS:,} rows as in JSON lines."
)


class TrainParameters(TaskParameters):
    model_config = ConfigDict(serialize_by_alias=True)

    model: str = Field(
        pattern=f"^{MODEL_NAME.pattern}$", description="Model of which the result becomes a new version."
    )
    kind: Literal["lm", "classifier", "nlu"] = Field(description="Kind of that model.")
    data: Data = Field(description=f"Rows to learn from. {FORM}")
    held_out: HeldOut = Field(
        default=0.1, description="Rows that choose the best weights: likewise, or a share of `data`."
    )
    test: Data | None = Field(default=None, description="Rows that are measured once, at the end.")
    start: Annotated[str, Field(min_length=1, max_length=200)] | None = Field(
        default=None,
        alias="from",
        description="Begin with the weights of a stored model, NAME or NAME/VERSION; else with random ones.",
    )
    options: TrainOptions = Field(default_factory=TrainOptions)  # type: ignore[valid-type]
    deploy: bool = Field(default=False, description="Deploy the version.")
    precision: Precision | None = Field(
        default=None, description="Precision of that deployment; default: the server's."
    )
    force: bool = Field(default=False, description="Deploy it also beyond the quality budget.")

    @property
    def given_options(self) -> dict[str, Any]:
        """Those that the caller gave, by name."""
        found: dict[str, Any] = self.options.model_dump(exclude_none=True)  # type: ignore[attr-defined]
        return found


Figures = dict[str, float | None]


class TrainAnswer(ConvertAnswer):
    held_out: Figures = Field(description="Figures of the held-out rows, by name.")
    test: Figures | None = Field(description="Figures of the test rows.")
    rows: int = Field(description="Rows that it learned from.")
    steps: int = Field(description="Steps of the whole run, which may have stopped early.")
    seconds: float = Field(description="That the run took, without what came before and after it.")
    report: list[str] = Field(description="What the run said before its first step.")
