"""`lmaas inspect`: what a checkpoint, an artifact or one of their files is, in words."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.command import AsJson, fail
from cli.show import amount, listed, plain, print_facts, print_json, print_table, quality, short, size
from runtime.contract import Variant
from runtime.manifest import Architecture

if TYPE_CHECKING:
    from export.inspection.artifact import ArtifactFacts
    from export.inspection.checkpoint import CheckpointFacts, ModelFacts
    from export.inspection.graph import GraphFacts, ValueFacts
    from export.inspection.inspect import Facts
    from export.inspection.tensors import WeightFacts

KINDS = {"lm": "a language model", "classifier": "a text classifier", "nlu": "a model of intents and slots"}
UNFIT = 1  # the exit status where what was inspected is not fit for use
ENCODINGS = {"F32": "float32", "F16": "float16", "BF16": "bfloat16", "F64": "float64"}


def inspect(
    path: Annotated[
        Path,
        typer.Argument(
            help="A checkpoint's or an artifact's folder, an archive of one, or one of their files:"
            " config.json, manifest.json, .safetensors, .onnx."
        ),
    ],
    as_json: AsJson = False,
) -> None:
    """Show what a checkpoint or an artifact is, and whether it is sound. Nothing in it is run.

    Ends with status 1 where a checkpoint cannot be exported, or an artifact's files are not its manifest's.
    """
    from export.errors import ExportError
    from export.inspection.inspect import inspect_path
    from export.members import ArchiveLimits

    try:
        facts = inspect_path(path, ArchiveLimits())
    except ExportError as error:
        fail(plain(str(error)))
    except OSError as error:
        fail(plain(f"{error.filename or path}: {error.strerror or error}"))
    if as_json:
        print_json({"what": facts.what, **dataclasses.asdict(facts)})
    else:
        _tell(facts, path)
    if _is_unfit(facts):
        raise typer.Exit(UNFIT)


def _is_unfit(facts: Facts) -> bool:
    from export.inspection.artifact import ArtifactFacts
    from export.inspection.checkpoint import CheckpointFacts

    if isinstance(facts, CheckpointFacts):
        return facts.problem is not None
    return isinstance(facts, ArtifactFacts) and bool(facts.problems)


def _tell(facts: Facts, path: Path) -> None:
    from export.inspection.artifact import ArtifactFacts
    from export.inspection.checkpoint import CheckpointFacts
    from export.inspection.graph import GraphFacts

    if isinstance(facts, CheckpointFacts):
        _tell_checkpoint(facts, path)
    elif isinstance(facts, ArtifactFacts):
        _tell_artifact(facts)
    elif isinstance(facts, GraphFacts):
        _tell_graph(facts)
    else:
        _tell_weights(facts)


def _tell_checkpoint(facts: CheckpointFacts, path: Path) -> None:
    model, shape = facts.model, facts.dimensions
    of_what = f" of {KINDS[model.kind]} (kind {model.kind})" if model else ""
    print(plain(f"{facts.name}: a checkpoint{of_what}"))
    count = model.parameters if model else facts.weights.parameters if facts.weights else None
    heads = f"{shape.heads} heads" if shape.heads else ""
    layers = f"{shape.layers} layers, {shape.width} wide" if shape.layers and shape.width else ""
    print_facts(
        [
            ("architecture", ", ".join(filter(None, (facts.architecture, layers, heads)))),
            ("parameters", amount(count) if count is not None else ""),
            ("context", f"{shape.context:,} tokens" if shape.context else ""),
            ("vocabulary", f"{shape.vocabulary:,} tokens" if shape.vocabulary else ""),
            ("tokenizer", _tokenizer(facts)),
            ("weights", _weights(facts.weights)),
            *(_model_rows(model, shape.context or 0) if model else ()),
            ("files", listed(f"{file.name} ({size(file.size)})" for file in facts.files)),
        ]
    )
    print()
    if facts.problem:
        print(plain(f"LMaaS cannot export it: {facts.problem}"))
    else:
        source = path.parent if path.suffix == ".json" else path
        print(plain(f"LMaaS can export it: lmaas export {source} -o ARTIFACT"))


def _model_rows(model: ModelFacts, context: int) -> list[tuple[str, str]]:
    sizes = (f"{variant} {size(count)}" for variant, count in model.variant_sizes.items())
    return [
        *_label_rows(model.labels, model.slot_labels, model.problem_type),
        ("activation", model.activation),
        ("unusual", "; ".join(model.unusual)),
        ("notes", "; ".join(model.notes)),
        ("KV cache", _cache(model.cache_sizes, context)),
        ("variants", f"{', '.join(sizes)} (estimated)"),
    ]


def _label_rows(labels: Iterable[str], slot_labels: Iterable[str], problem: str) -> list[tuple[str, str]]:
    kind = "" if problem == "single_label_classification" else f" ({problem.replace('_', ' ')})"
    names = {"labels": listed(labels), "slot labels": listed(slot_labels)}
    return [(name, f"{text}{kind if name == 'labels' else ''}") for name, text in names.items() if text]


def _cache(sizes: dict[str, int], context: int) -> str:
    """float16 in fp16, and one size for all other variants."""
    half = sizes.get(Variant.FP16.value)
    full = next((count for variant, count in sizes.items() if variant != Variant.FP16.value), half)
    if full is None:
        return ""
    less = f"; in fp16 {size(half)} and {size(half * context)}" if half not in (None, full) else ""
    return f"{size(full)} for a token, {size(full * context)} for {context:,} of them{less}"


def _tokenizer(facts: CheckpointFacts) -> str:
    found = facts.tokenizer
    if found is None:
        return ""
    special = listed(f"{token} ({number})" for token, number in found.special.items())
    return f"{' + '.join(found.files)}: {found.vocabulary:,} tokens" + (
        f"; special: {special}" if special else ""
    )


def _weights(weights: WeightFacts | None) -> str:
    if weights is None:
        return ""
    stored = ", ".join(
        f"{size(count)} of {ENCODINGS.get(name, name)}" for name, count in weights.sizes.items()
    )
    return f"{weights.tensors} tensors, {stored}"


def _tell_artifact(facts: ArtifactFacts) -> None:
    print(plain(f"{facts.name}: an artifact of {KINDS[facts.kind]} (kind {facts.kind}), named {facts.model}"))
    variants = [
        (name.value, entry) for name in Variant if (entry := facts.variants.get(name.value)) is not None
    ]
    rows = [
        (name, size(entry.size), f"{entry.load_seconds:.2f} s", quality(entry.quality))
        for name, entry in variants
    ]
    print_table(("variant", "size", "load", "against fp32"), rows, "no variants")
    shape = facts.architecture
    files = [*(file for _, entry in variants for file in entry.files), facts.tokenizer]
    print_facts(
        [
            (
                "architecture",
                f"{shape.num_layers} layers, {shape.hidden_size} wide, {_heads(shape)} heads",
            ),
            ("context", f"{shape.context_length:,} tokens"),
            (
                "vocabulary",
                f"{shape.vocab_size:,} tokens; end of text is {listed(map(str, shape.ends)) or 'none'}",
            ),
            *_label_rows(facts.labels, facts.slot_labels, facts.problem_type),
            ("KV cache", _cache(facts.cache_sizes, shape.context_length)),
            ("golden prompts", f"{facts.golden_prompts}, answered by each variant"),
            ("files", listed(f"{file.path} ({size(file.size)})" for file in files)),
            ("provenance", listed(f"{key} {value}" for key, value in facts.provenance.items())),
        ]
    )
    print()
    if not facts.problems:
        print(f"All {len(files)} files are those of the manifest.")
        return
    print(f"{len(facts.problems)} of {len(files)} files are not those of the manifest:")
    for problem in facts.problems:
        print(plain(f"  {problem}"))


def _heads(shape: Architecture) -> str:
    return ", ".join(map(str, shape.layer_heads)) or str(shape.num_heads)


def _tell_graph(facts: GraphFacts) -> None:
    producer = f", by {facts.producer}" if facts.producer else ""
    print(plain(f"{facts.name}: an ONNX graph, {size(facts.size)}{producer}"))
    opsets = listed(f"{domain} {version}" for domain, version in facts.opsets.items())
    operators = (
        f"{sum(counts.values())} of {short(domain)}: "
        + listed((f"{name} {count}" for name, count in counts.items()), most=20)
        for domain, counts in facts.operators.items()
    )
    stored = ", ".join(f"{size(count)} of {name}" for name, count in facts.weights.items())
    external = listed(
        f"{file.name} ({'not there' if file.size is None else size(file.size)})" for file in facts.external
    )
    print_facts(
        [
            ("opsets", f"{opsets} (IR {facts.ir_version})"),
            *(("operators", text) for text in operators),
            ("weights", f"{facts.tensors} tensors: {stored}" if facts.tensors else "none"),
            ("external data", external),
        ]
    )
    rows = [*_value_rows("input", facts.inputs), *_value_rows("output", facts.outputs)]
    print_table(("", "name", "type", "shape"), rows, "no inputs and no outputs")


def _value_rows(role: str, values: Iterable[ValueFacts]) -> list[tuple[str, ...]]:
    """One row for those that differ in a number alone, as a cache has them for each layer."""
    series: dict[tuple[str, str, str], list[str]] = {}
    for value in values:
        shape = "any" if value.shape is None else short(f"[{', '.join(map(str, value.shape))}]")
        series.setdefault((re.sub(r"[0-9]+", "#", value.name), value.type, shape), []).append(
            short(value.name)
        )
    return [
        (role, names[0] if len(names) == 1 else f"{names[0]} ... {names[-1]} ({len(names)})", kind, shape)
        for (_, kind, shape), names in series.items()
    ]


def _tell_weights(facts: WeightFacts) -> None:
    print(plain(f"{facts.name}: {amount(facts.parameters)} parameters"))
    metadata = listed(f"{key} {value}" for key, value in facts.metadata.items())
    print_facts([("stored", _weights(facts)), ("metadata", metadata)])
    rows = [
        (short(tensor.name), ENCODINGS.get(tensor.dtype, tensor.dtype), list(tensor.shape), size(tensor.size))
        for tensor in facts.largest
    ]
    print_table(("largest", "type", "shape", "size"), rows, "no tensors")
