"""The verb `quantize`: every matrix of a language model on an integer grid.

The target folder holds the model with dequantized weights, which opens like any other, and quantization.safetensors with
the codes, which export packs into ONNX.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from compress.artifact import canonical, write_text
from compress.contract import Context, Outcome
from compress.errors import StageError
from compress.models import quantized
from compress.models.folder import load_model, read_config, save_model, stored_weights, take_into_memory
from compress.quantize.autoround import refuse_missing
from compress.quantize.by_layer import Calibration, embedding_and_head, round_on_text, to_nearest
from compress.quantize.choosing import RECORD, Choice, Text, schemes_of
from compress.quantize.facts import Errors, facts_of, float_bytes, skipped_of
from compress.quantize.grids import Grids, measure_ranges
from compress.quantize.options import QuantizeOptions
from compress.quantize.scaling import smooth_model
from compress.quantize.schemes import SHOWN_NAMES, Assignment, Matrix, assign, plan
from compress.quantize.sensitivity import Weights


def run(options: QuantizeOptions, context: Context) -> Outcome:
    """Quantize every matrix of context.source into context.target.

    Raises StageError where the model is quantized already, a pattern matches nothing, a weight cannot be quantized, or there is no
    text to calibrate on.
    """
    _check(options, context)
    if options.method == "autoround":
        refuse_missing()
    ids = _windows(options, context) if options.reads_text else None
    model = load_model(context.source, context.device)
    take_into_memory(model, context.source)
    matrices, weights = list_matrices(model)
    try:
        found = assign(options, matrices)
    except ValueError as error:
        raise StageError(str(error)) from error
    _refuse_unfit(model, [matrix for matrix in matrices if matrix.name in found.schemes])
    if ids is not None and options.chooses:
        found = _chosen(model, options, ids, (matrices, weights, found), context)
    if ids is not None and options.smooths:
        smooth_model(model, found.schemes, ids, context.progress, bool(options.smooth))
    ranges = {} if ids is None else measure_ranges(model, found.schemes, ids, context.progress)
    grids = Grids(found.schemes, ranges)
    if options.method == "rtn":
        with _one_thread():
            done = to_nearest(model, grids, list(found.schemes), context.progress)
    else:
        assert ids is not None
        calibration = Calibration(ids, context.source, context.scratch, context.seed)
        done = round_on_text(model, grids, options, calibration, context.progress)
    errors = Errors()
    if not options.scales_channels:
        for name, weight in stored_weights(context.source, found.schemes):
            errors.add(name, weight, weights[name].detach().cpu())
    save_model(model, context.target, context.source)
    quantized.write(context.target, done, sorted(found.left_out), options.scales_channels)
    floats = float_bytes({matrix.name: matrix.shape for matrix in matrices if matrix.name in found.left_out})
    facts = facts_of(done, floats, errors)
    if ids is not None:
        facts["calibration_tokens"] = ids.numel()
    return Outcome(facts, skipped_of(done, floats, found.left_out))


def _check(options: QuantizeOptions, context: Context) -> None:
    if quantized.is_quantized(context.source):
        raise StageError(
            f"{context.source}: the model is quantized already ({quantized.precision(context.source)}); quantize the model "
            "that it was made from (from:), or leave this stage out"
        )
    try:
        plan(options, read_config(context.source))
    except ValueError as error:
        raise StageError(f"{context.source}: {error}") from error
    if options.reads_text and context.data is None:
        advice = "" if options.method == "rtn" else ", or use method: rtn"
        raise StageError(f"quantize: needs calibration text; give the recipe data.calibration or data.train{advice}")


def _windows(options: QuantizeOptions, context: Context) -> Tensor:
    """Return calibration windows [N, T]."""
    assert context.data is not None
    length, count = options.calibration.length, options.calibration.windows
    found, _ = context.data("calibration", context.source, length * count).windows(length, count)
    if not len(found):
        raise StageError(
            f"quantize: the calibration text has no window of {length} tokens; "
            "give more text, or a smaller calibration.length"
        )
    return torch.from_numpy(found.copy())


def list_matrices(model: Any) -> tuple[list[Matrix], dict[str, Tensor]]:
    """Return every weight of two dimensions or more, each once, in the model's order, and the weights by first name."""
    names: dict[int, list[str]] = {}
    weights: dict[int, Tensor] = {}
    for name, weight in model.named_parameters(remove_duplicate=False):
        if weight.ndim >= 2:
            names.setdefault(id(weight), []).append(name)
            weights[id(weight)] = weight
    found = [Matrix(tuple(same), tuple(weights[key].shape)) for key, same in names.items()]
    return found, {same[0]: weights[key] for key, same in names.items()}


def _chosen(
    model: Any,
    options: QuantizeOptions,
    ids: Tensor,
    known: tuple[list[Matrix], dict[str, Tensor], Assignment],
    context: Context,
) -> Assignment:
    """Return the assignment with bits and blocks chosen by weight, and write the record of the choice.

    A run that was stopped takes the choice it made before.
    """
    matrices, weights, found = known
    kept = context.scratch / RECORD
    if kept.is_file():
        record = json.loads(kept.read_text(encoding="utf-8"))
    else:
        choice = Choice(model, Weights(weights, *embedding_and_head(model)), matrices, found)
        record = choice.make(options, Text(ids, context.seed), context.progress)
        write_text(kept, canonical(record))
    write_text(context.target / RECORD, canonical(record))
    return Assignment(schemes_of(record, found.schemes), found.left_out)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Run torch on one thread: the search is many small steps, and beside other work threads that wait for each other
    at each of them have been measured a hundred times slower."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _refuse_unfit(model: Any, chosen: Sequence[Matrix]) -> None:
    transposed = [name for name, module in model.named_modules() if type(module).__name__ == "Conv1D"]
    if transposed:
        raise StageError(
            f"{transposed[0]} and {len(transposed) - 1} more layers store their weights with the input axis first (Conv1D): "
            "no export takes such a model; start from a Llama-like model"
        )
    deep = [matrix.name for matrix in chosen if len(matrix.shape) > 2]
    if deep:
        raise StageError(
            f"{len(deep)} weights have more than two dimensions, {', '.join(deep[:SHOWN_NAMES])}: blocks along an input axis "
            "are made of matrices only; name them in quantize.leave_out to keep them in float"
        )
