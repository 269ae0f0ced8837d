"""Malformed inputs: changed copies of sound folders, and archives."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.export.edits import Edit


@dataclass(frozen=True, slots=True)
class Sound:
    """The folders of sound inputs by their kind: lm, classifier or nlu."""

    checkpoint: Callable[[str], Path]
    artifact: Callable[[str], Path]


# Makes the input in a new folder and returns its path.
Build = Callable[[Sound, Path], Path]


def checkpoint(edit: Edit, kind: str = "lm") -> Build:
    def build(sound: Sound, folder: Path) -> Path:
        copy = Path(shutil.copytree(sound.checkpoint(kind), folder / "checkpoint"))
        edit(copy)
        return copy

    return build


def artifact(edit: Edit) -> Build:
    def build(sound: Sound, folder: Path) -> Path:
        copy = Path(shutil.copytree(sound.artifact("lm"), folder / "artifact"))
        edit(copy)
        return copy

    return build


def archive(data: Callable[[], bytes]) -> Build:
    def build(_: Sound, folder: Path) -> Path:
        (folder / "upload").write_bytes(data())
        return folder / "upload"

    return build


def nothing(_: Sound, folder: Path) -> Path:
    return folder / "nowhere"


def in_place_of(name: str, make: Callable[[Path], object]) -> Edit:
    def edit(folder: Path) -> None:
        (folder / name).unlink()
        make(folder / name)

    return edit


def bind(path: Path) -> None:
    """A socket; its address is relative, as addresses are short."""
    before = os.getcwd()
    os.chdir(path.parent)
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    finally:
        os.chdir(before)
