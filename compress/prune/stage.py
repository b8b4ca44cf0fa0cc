"""The verb `prune`: score on calibration text, cut, repair, write the smaller model, and prove that it reloads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from compress.contract import Context, Json, Outcome
from compress.errors import ArtifactError, StageError
from compress.models.families import Shape, family_of, shape_of
from compress.models.folder import load_model, read_config, save_model, take_into_memory
from compress.models.layers import layers_of
from compress.models.pruning_record import write_record
from compress.models.quantized import is_quantized
from compress.prune.cut import Cut
from compress.prune.facts import facts_of
from compress.prune.graph import prove_group
from compress.prune.options import PruneOptions
from compress.prune.plan import plan, repair_of, sizes_after, windows_of
from compress.prune.ranking import axes_cut, choose, finite, rank
from compress.prune.repair import Repair
from compress.prune.rounds import Tally, sizes_of_rounds
from compress.prune.tokenizer import refuse_tokens
from compress.prune.tokens import KeptTokens, keep_tokens

# Largest difference of logits, reloaded against in memory, relative to the largest logit: float32 sums may differ.
_TOLERANCE = 1e-5


@dataclass(frozen=True)
class _Text:
    """Calibration windows, as ids of the uncut model and of the cut one, and the tokens kept. Shapes: both [N, T]."""

    uncut: Tensor
    cut: Tensor
    tokens: KeptTokens | None


@dataclass(frozen=True)
class _Work:
    """What every round goes by; `repair` is the one that is made."""

    options: PruneOptions
    context: Context
    text: _Text
    repair: str


def run(options: PruneOptions, context: Context) -> Outcome:
    """Score, cut and repair, in one round or several; write the model, the scores, and what was kept.

    Every axis of a round is scored on the model that the round begins with. Columns scored again after layers were cut gave
    more perplexity on stories3M without repair (held-out training text, one layer and 128 of 512 columns removed: 72.8 against
    65.8, 74.4 against 71.1, 116.2 against 113.8; two layers: 418 against 342).

    Raises StageError when the request is not legal for the model, when there is no calibration text, and when the
    written folder does not reload to the same model.
    """
    after = _check(options, context)
    before = shape_of(read_config(context.source))
    # Text is read before weights, so that what is wrong with it is said first; but which tokens go is for the model to say.
    text = _windows(options, context, None) if after.vocabulary == before.vocabulary else None
    model = load_model(context.source, context.device)
    take_into_memory(model, context.source)
    first, family = model.config.to_dict(), family_of(model.config.to_dict())
    with _refused(context.source):
        prove_group(layers_of(model, family)[0], family)
    text = text or _windows(options, context, keep_tokens(context, model, after.vocabulary))
    tally = Tally(before)
    repair = repair_of(options, before.hidden, text.uncut.numel()) if axes_cut(before, after) else "none"
    work = _Work(options, context, text, repair)
    for sizes in sizes_of_rounds(before, after, options.rounds, first):
        model = _round(work, model, sizes, tally)
    names = {axis: getattr(options.score, axis) for axis in tally.scores if axis != "vocab"}
    if text.tokens:
        names["vocab"] = "usage"
    facts: Json = {"family": family.name, "calibration_tokens": text.uncut.numel(), "repair": repair}
    facts |= facts_of(tally, names, first, model.config.to_dict(), (before, after))
    write_record(context.target, tally.scores, {axis: tally.kept(axis) for axis in tally.scores}, names)
    expected = _first_output(model, text.cut[:1])
    save_model(model, context.target, context.target if text.tokens else context.source)
    # Freed before the reload: two models at once would be the peak of the stage.
    del model
    prove_reload(context.target, text.cut[:1], expected, context.device)
    return Outcome(facts)


@contextmanager
def _refused(source: Path) -> Iterator[None]:
    """Turn a refusal of what is asked for into a message that names the model."""
    try:
        yield
    except ValueError as error:
        raise StageError(f"prune {source}: {error}") from error


def _check(options: PruneOptions, context: Context) -> Shape:
    with _refused(context.source):
        config = read_config(context.source)
        plan(options, config)
        after = sizes_after(options, config)
    if is_quantized(context.source):
        raise StageError(
            f"prune {context.source}: its weights are quantized, and a cut would lose the codes; prune before quantize"
        )
    if context.data is None:
        raise StageError(
            "prune: needs calibration text to take scores on; give the recipe data.calibration or data.train"
        )
    if after.vocabulary < shape_of(config).vocabulary:
        with _refused(context.source):
            refuse_tokens(context.source, shape_of(config).vocabulary, after.vocabulary)
    return after


def _windows(options: PruneOptions, context: Context, tokens: KeptTokens | None) -> _Text:
    """Return calibration text; with a cut vocabulary as its tokenizer spells it, which the uncut model can read too."""
    assert context.data is not None
    length, count = options.calibration.length, windows_of(options, read_config(context.source))
    folder = context.target if tokens else context.source
    found, _ = context.data("calibration", folder, length * count).windows(length, count)
    if not len(found):
        raise StageError(
            f"prune: the calibration text has no window of {length} tokens; "
            "give more text, or a smaller calibration.length"
        )
    ids = torch.from_numpy(found.copy())
    return _Text(torch.tensor(tokens.kept)[ids] if tokens else ids, ids, tokens)


def _round(work: _Work, model: Any, sizes: Shape, tally: Tally) -> Any:
    """Return the model cut to `sizes`; the one given is used up."""
    options, context, text = work.options, work.context, work.text
    before = shape_of(model.config.to_dict())
    axes = axes_cut(before, sizes)
    ranking = rank(model, axes, options.score, text.uncut, context.seed, context.progress)
    if not finite(ranking):
        raise StageError("prune: scores are not finite; the weights or the calibration text give no finite activations")
    kept, ids = choose(ranking, before, sizes), text.uncut
    if text.tokens and sizes.vocabulary < before.vocabulary:
        ranking, ids = {**ranking, "vocab": text.tokens.uses}, text.cut
        kept = replace(kept, vocab=text.tokens.kept)
    tally.add(ranking, kept)
    with _refused(context.source):
        cut = Cut(model, kept)
    if work.repair == "none" or not axes:
        return cut.run()
    return Repair(cut, text.uncut, ids, work.repair == "gauss_newton").run(context.progress)


def prove_reload(folder: Path, ids: Tensor, expected: Tensor, device: str = "cpu") -> None:
    """Load the written folder and compare its logits with those of the model in memory.

    Shapes: ids [B, T], expected [B, T, V].

    Raises StageError when weights are missing, unexpected or of another shape, and when the logits differ.
    """
    try:
        found = _first_output(load_model(folder, device), ids)
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


def _first_output(model: Any, ids: Tensor) -> Tensor:
    """Return the logits, or the last stream of a model without a head."""
    with torch.no_grad():
        output: Tensor = model(input_ids=ids.to(model.device))[0]
    return output.cpu()
