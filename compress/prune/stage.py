"""The verb `prune`: score on calibration text, cut, write the smaller model, and prove that it reloads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from compress.contract import Context, Json, Outcome, Progress
from compress.errors import ArtifactError, StageError
from compress.models.families import Family, count_parameters, family_of, shape_of
from compress.models.folder import load_model, read_config, save_model
from compress.models.quantized import is_quantized
from compress.prune.cut import cut_ffn, cut_layers
from compress.prune.options import PruneOptions, counted, counted_ffn, plan
from compress.prune.scores import BlockInfluence, ColumnEnergy, keep_highest

_BATCH = 8
_DIGITS = 6
# Largest difference of logits, reloaded against in memory, relative to the largest logit: float32 sums may differ.
_TOLERANCE = 1e-5


@dataclass(frozen=True)
class Scores:
    """Block influence of each decoder layer, and the scores [F] of the feed-forward columns of each; in layer order."""

    layers: list[float]
    ffn: list[Tensor]


def run(options: PruneOptions, context: Context) -> Outcome:
    """Score layers and feed-forward columns in one pass over the calibration text, then cut both.

    Both are scored on the uncut model. Columns scored again after layers were cut gave more perplexity on stories3M without
    training (held-out training text, one layer and 128 of 512 columns removed: 72.8 against 65.8, 74.4 against 71.1,
    116.2 against 113.8; two layers: 418 against 342).

    Raises StageError when the request is not legal for the model, when there is no calibration text, and when the
    written folder does not reload to the same model.
    """
    _check(options, context)
    ids = _windows(options, context)
    model = load_model(context.source, context.device)
    before = model.config.to_dict()
    family, shape, remove = family_of(before), shape_of(before), options.remove
    scores = score(model, family, ids, context.progress)
    facts: Json = {"family": family.name, "calibration_tokens": ids.numel()}
    kept = list(range(shape.layers))
    if remove.layers is not None:
        influences = torch.tensor(scores.layers, dtype=torch.float64)
        kept = keep_highest(influences, shape.layers - counted(remove.layers, shape.layers))
        cut_layers(model, kept)
        facts["layers"] = _layer_facts(scores.layers, kept)
    if remove.ffn is not None:
        columns_left = shape.ffn - counted_ffn(remove.ffn, shape.ffn)
        remaining = [scores.ffn[layer] for layer in kept]
        columns = [keep_highest(each, columns_left) for each in remaining]
        cut_ffn(model, columns)
        facts["ffn"] = _ffn_facts(remaining, columns, shape.ffn)
    facts["parameters"] = {"before": _by_class(before), "after": _by_class(model.config.to_dict())}
    expected = _logits(model, ids[:1])
    save_model(model, context.target, context.source)
    # Freed before the reload: two models at once would be the peak of the stage.
    del model
    prove_reload(context.target, ids[:1], expected, context.device)
    return Outcome(facts)


def _check(options: PruneOptions, context: Context) -> None:
    try:
        plan(options, read_config(context.source))
    except ValueError as error:
        raise StageError(f"prune {context.source}: {error}") from error
    if is_quantized(context.source):
        raise StageError(
            f"prune {context.source}: its weights are quantized, and a cut would lose the codes; prune before quantize"
        )


def _windows(options: PruneOptions, context: Context) -> Tensor:
    if context.data is None:
        raise StageError(
            "prune: needs calibration text to take scores on; give the recipe data.calibration or data.train"
        )
    length, count = options.calibration.length, options.calibration.windows
    ids, _ = context.data("calibration", context.source, length * count).windows(length, count)
    if not len(ids):
        raise StageError(
            f"prune: the calibration text has no window of {length} tokens; "
            "give more text, or a smaller calibration.length"
        )
    return torch.from_numpy(ids.copy())


def score(model: Any, family: Family, ids: Tensor, progress: Progress) -> Scores:
    """Return the scores of a model on windows of token ids, in one pass through the decoder without its head.

    Shapes: ids [N, T].

    Memory: the activations of one batch; the scores are running sums.
    """
    layers = model.get_submodule(family.paths.layers)
    outgoing = [layer.get_submodule(f"{family.paths.ffn}.{family.paths.ffn_out}") for layer in layers]
    influences = [BlockInfluence() for _ in layers]
    energies = [ColumnEnergy(linear.weight.shape[1]) for linear in outgoing]
    watched = zip(layers, outgoing, influences, energies, strict=True)
    with _hooks(handle for each in watched for handle in _watch(*each)), torch.no_grad():
        done = 0
        for batch in torch.split(ids, _BATCH):
            model.get_submodule(family.paths.base)(input_ids=batch.to(model.device), use_cache=False)
            done += len(batch)
            progress(done, len(ids), "windows")
    ffn = [energy.score(linear.weight) for energy, linear in zip(energies, outgoing, strict=True)]
    return Scores([influence.score() for influence in influences], ffn)


def _watch(layer: Any, outgoing: Any, influence: BlockInfluence, energy: ColumnEnergy) -> Iterator[Any]:
    def see_layer(_module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        entering = args[0] if args else kwargs["hidden_states"]
        influence.add(entering, output[0] if isinstance(output, tuple) else output)

    def see_columns(_module: Any, args: tuple[Any, ...]) -> None:
        energy.add(args[0])

    yield layer.register_forward_hook(see_layer, with_kwargs=True)
    yield outgoing.register_forward_pre_hook(see_columns)


def _layer_facts(influences: list[float], kept: list[int]) -> Json:
    removed = [index for index in range(len(influences)) if index not in kept]
    return {"score": "block influence", "scores": _rounded(influences), "kept": kept, "removed": removed}


def _ffn_facts(scores: list[Tensor], columns: list[list[int]], before: int) -> Json:
    """Say how many columns each layer keeps, the lowest score kept, and the share of the squared scores kept (0-1)."""
    pairs = list(zip(scores, columns, strict=True))
    return {
        "score": "activation times column norm",
        "before": before,
        "kept": [len(kept) for kept in columns],
        "lowest_kept_score": _rounded([float(each[kept].min()) for each, kept in pairs]),
        "kept_energy": _rounded([_share(each.square(), kept) for each, kept in pairs]),
    }


def prove_reload(folder: Path, ids: Tensor, expected: Tensor, device: str = "cpu") -> None:
    """Load the written folder and compare its logits with those of the model in memory.

    Shapes: ids [B, T], expected [B, T, V].

    Raises StageError when weights are missing, unexpected or of another shape, and when the logits differ.
    """
    try:
        found = _logits(load_model(folder, device), ids)
    except ArtifactError as error:
        raise StageError(f"prune: the pruned model does not reload: {error}") from error
    if found.shape != expected.shape:
        raise StageError(
            f"prune: the reloaded model gives logits of shape {tuple(found.shape)}, expected {tuple(expected.shape)}"
        )
    difference = float((found - expected).abs().max() / expected.abs().max().clamp(min=1e-30))
    if not difference <= _TOLERANCE:
        raise StageError(
            f"prune: the reloaded model differs from the pruned one by {difference:.3g} of the largest logit, "
            f"at most {_TOLERANCE:g} is allowed"
        )


def _logits(model: Any, ids: Tensor) -> Tensor:
    with torch.no_grad():
        logits: Tensor = model(input_ids=ids.to(model.device), use_cache=False).logits
    return logits.cpu()


@contextmanager
def _hooks(handles: Iterator[Any]) -> Iterator[None]:
    installed = list(handles)
    try:
        yield
    finally:
        for handle in installed:
            handle.remove()


def _share(weights: Tensor, kept: list[int]) -> float:
    total = float(weights.sum())
    return float(weights[kept].sum()) / total if total else 1.0


def _by_class(config: dict[str, Any]) -> dict[str, int]:
    counts = count_parameters(config)
    return {**counts, "total": sum(counts.values())}


def _rounded(values: Sequence[float]) -> list[float]:
    return [float(f"{value:.{_DIGITS}g}") for value in values]
