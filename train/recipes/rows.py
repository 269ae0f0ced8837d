"""The labelled sets and the stories as rows for the commands that train: NAME-SPLIT.jsonl in a folder.

`python -m train.recipes.rows --data DATA --out ROWS`
"""

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from train.data import LabelRow, TextRow, UtteranceRow
from train.recipes.corpus import read_tinystories
from train.recipes.sets import read_banking, read_clinc, read_sms, read_snips, read_snli, read_sst2

Rows = Sequence[TextRow] | Sequence[LabelRow] | Sequence[UtteranceRow]


def read_stories(data: Path, split: str) -> list[TextRow]:
    """Stories of TinyStories. `split` is train or test: what mini-lm learned from, and what it did not."""
    stories = read_tinystories(data, held_out=split == "test")
    return [TextRow(number, story) for number, story in enumerate(stories, 1)]


READERS: dict[str, tuple[Callable[[Path, str], Rows], tuple[str, ...]]] = {
    "banking77": (read_banking, ("train", "test")),
    # The splits with -oos have rows without a known label too, under the label oos.
    "clinc150": (read_clinc, ("train", "val", "test", "val-oos", "test-oos")),
    "sms": (read_sms, ("train", "test")),
    "snips": (read_snips, ("train", "valid", "test")),
    "snli": (read_snli, ("train", "valid", "test")),
    "sst2": (read_sst2, ("train", "dev", "test")),
    "stories": (read_stories, ("train", "test")),
}


def write_rows(path: Path, rows: Rows) -> None:
    """One JSON object a line, in the form that `train.data.read_rows` reads."""
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            values = {name: value for name, value in asdict(row).items() if value is not None}
            values.pop("row")
            if isinstance(row, UtteranceRow):
                values["tokens"] = values.pop("words")
            file.write(json.dumps(values, ensure_ascii=False) + "\n")


def main() -> None:
    """Write every split of every set."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="the data folder")
    parser.add_argument("--out", type=Path, required=True, help="the folder of the rows")
    chosen = parser.parse_args()
    chosen.out.mkdir(parents=True, exist_ok=True)
    for name, (read, splits) in READERS.items():
        for split in splits:
            write_rows(chosen.out / f"{name}-{split}.jsonl", read(chosen.data, split))


if __name__ == "__main__":
    main()
