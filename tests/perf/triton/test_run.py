"""A run of perf_analyzer, played by a script: what it is asked, and what its ends come to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from perf.deployed import Deployed
from perf.errors import AnalyzerError
from perf.http.ask import Ask, Task
from perf.http.prompts import Texts
from perf.triton.installation import Analyzer
from perf.triton.run import ROWS, LevelAnalysis, Measuring, Subject, inputs, run
from runtime.contract import HeadTensors, Kind, LmTensors

RECORDED = Path(__file__).parent / "recorded"
LM = Subject(
    Deployed("dep-1", "mini-lm", 1, "int8", Kind.LM, Task.GENERATE), "127.0.0.1:1", Ask(Task.GENERATE)
)
HEAD = Subject(
    Deployed("dep-2", "mini-sentiment", 1, "int8", Kind.CLASSIFIER, Task.CLASSIFY),
    "127.0.0.1:1",
    Ask(Task.CLASSIFY),
)
# Copies what was recorded to where the options say, and its command line to `asked`.
PLAY = f"""#!/bin/sh
echo "$@" > "$(dirname "$0")/asked"
while [ $# -gt 0 ]; do
    case "$1" in
        -f) cp {RECORDED}/$model.csv "$2" ;;
        --profile-export-file) cp {RECORDED}/$model.json "$2" ;;
        -m) model=$2 ;;
    esac
    shift
done
"""


def played(folder: Path, script: str, subject: Subject) -> list[LevelAnalysis]:
    analyzer = Analyzer(folder)
    analyzer.program.write_text(script)
    analyzer.program.chmod(0o755)
    return run(analyzer, [subject], [2], Texts(4), Measuring(), lambda line: None)


def test_a_stream_is_exported(tmp_path: Path) -> None:
    (level,) = played(tmp_path, PLAY, LM)
    assert level.analysis is not None
    assert level.analysis.stream is not None
    asked = (tmp_path / "asked").read_text().split()
    assert {"--streaming", "--async", "--profile-export-file"} <= set(asked)
    assert asked[asked.index("--concurrency-range") + 1] == "2"
    assert asked[asked.index("-x") + 1] == "1"


def test_a_head_is_not(tmp_path: Path) -> None:
    (level,) = played(tmp_path, PLAY, HEAD)
    assert level.analysis is not None
    assert level.analysis.stream is None
    assert "--streaming" not in (tmp_path / "asked").read_text()


def test_what_never_was_steady(tmp_path: Path) -> None:
    script = "#!/bin/sh\necho 'Failed to obtain stable measurement within 10 measurement windows'\nexit 2\n"
    assert played(tmp_path, script, HEAD) == [LevelAnalysis(HEAD.deployed, 2, None)]


@pytest.mark.parametrize(
    ("script", "told"),
    [
        ("echo 'Thread [0] had error: invalid_argument'; echo; exit 99", "Thread .0. had error: invalid"),
        ("echo 'error: failed to get model metadata' >&2; exit 99", "failed to get model metadata"),
        ("exit 3", "ended with status 3"),
        ("exit 0", "ended with status 0"),
    ],
)
def test_why_it_failed_is_told(tmp_path: Path, script: str, told: str) -> None:
    with pytest.raises(AnalyzerError, match=told):
        played(tmp_path, f"#!/bin/sh\n{script}\n", HEAD)


def rows(kind: Kind, task: Task) -> list[dict[str, list[Any]]]:
    deployed = Deployed("dep-1", "m", 1, "int8", kind, task)
    found: list[dict[str, list[Any]]] = json.loads(inputs(deployed, Ask(task, 9, True), Texts(4), "a"))[
        "data"
    ]
    return found


def test_a_language_model_streams() -> None:
    data = rows(Kind.LM, Task.GENERATE)
    assert len({row[LmTensors.TEXT_INPUT][0] for row in data}) == len(data) == ROWS
    sampling = json.loads(data[0][LmTensors.SAMPLING_PARAMETERS][0])
    assert sampling == {"max_tokens": 9, "temperature": 0.0, "ignore_eos": True}
    known = {
        LmTensors.TEXT_INPUT,
        LmTensors.STREAM,
        LmTensors.SAMPLING_PARAMETERS,
        LmTensors.EXCLUDE_INPUT_IN_OUTPUT,
        *LmTensors.SWITCHES,
    }
    assert data[0].keys() <= known


@pytest.mark.parametrize(
    ("kind", "task", "tensors"),
    [
        (Kind.CLASSIFIER, Task.CLASSIFY, {HeadTensors.TEXT}),
        (Kind.CLASSIFIER, Task.INFER, {HeadTensors.TEXT, HeadTensors.TEXT_PAIR}),
        (Kind.NLU, Task.NLU, {HeadTensors.TEXT}),
    ],
)
def test_heads_take_texts(kind: Kind, task: Task, tensors: set[str]) -> None:
    assert rows(kind, task)[0].keys() == tensors
