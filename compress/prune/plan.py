"""What prune makes of a config.json: the legality check of the recipe, and the sizes that the stage cuts to. No torch."""

from __future__ import annotations

from typing import Any

from compress.models.families import Shape, architecture_of, count_parameters, cut_config, family_of, shape_of
from compress.prune.axes import left_of
from compress.prune.balance import balanced
from compress.prune.options import PruneOptions

_FLOAT_BYTES = 4
# Scores that take a loss, and for each axis the one that stands in.
_WITH_LOSS = ("taylor", "perplexity")
_WITHOUT_LOSS = {"layers": "block_influence", "ffn": "activation", "heads": "activation", "hidden": "activation"}


def plan(options: PruneOptions, config: dict[str, Any]) -> dict[str, Any]:
    """Return the config.json that prune will give, as far as it is known before scores are taken.

    Sizes are exact. Lists with an entry per layer have the right length, with the entries of the first layers, and ids of
    special tokens are in range: scores and counts decide later which layers and tokens stay.

    Raises ValueError with everything that is wrong: an unknown family or mixture of experts, an axis from which nothing
    or too much is removed, sizes that the family cannot have, calibration windows longer than the model's context, scores
    that take a loss which the architecture does not have.
    """
    shape = shape_of(config)
    problems = [_architecture(config), _quantized(config), _windows(options, shape)]
    try:
        after = sizes_after(options, config)
    except ValueError as error:
        raise ValueError("; ".join(problem for problem in (*problems, str(error)) if problem)) from error
    problems += _losses(options, config, shape, after)
    if found := [problem for problem in problems if problem]:
        raise ValueError("; ".join(found))
    cut = cut_config(config, after)
    return cut if after.vocabulary == shape.vocabulary else _ids_in_range(cut, after.vocabulary)


def sizes_after(options: PruneOptions, config: dict[str, Any]) -> Shape:
    """Return the sizes that the options leave of a model.

    Raises ValueError where they are not legal.
    """
    family, shape = family_of(config), shape_of(config)
    if options.remove is not None:
        return left_of(options.remove, family, shape, config)
    assert options.keep is not None
    total = sum(count_parameters(config).values())
    kept = options.keep.parameters
    if options.keep.size_mb is not None:
        kept = int(options.keep.size_mb * 1e6 / _FLOAT_BYTES)
    return balanced(round(kept * total) if isinstance(kept, float) else int(kept or 0), config)


def is_causal(architecture: str) -> bool:
    """Say whether a class of transformers is a causal language model."""
    return architecture.endswith(("ForCausalLM", "LMHeadModel"))


def _architecture(config: dict[str, Any]) -> str:
    try:
        architecture_of(config)
    except ValueError as error:
        return str(error)
    return ""


def _quantized(config: dict[str, Any]) -> str:
    if not config.get("quantization_config"):
        return ""
    return "the weights are quantized (config.json: quantization_config); prune the float model, quantize afterwards"


def _losses(options: PruneOptions, config: dict[str, Any], before: Shape, after: Shape) -> list[str]:
    """Say which scores of the axes that are cut need a loss that the architecture does not have."""
    named = config.get("architectures") or [next(iter(family_of(config).heads))]
    if is_causal(str(named[0])):
        return []
    return [
        f"score.{axis} {score} needs the loss of a causal language model, and {named[0]} is none; use {instead}"
        for axis, instead in _WITHOUT_LOSS.items()
        if getattr(after, axis) < getattr(before, axis) and (score := getattr(options.score, axis)) in _WITH_LOSS
    ]


def _windows(options: PruneOptions, shape: Shape) -> str:
    length = options.calibration.length
    if shape.context is None or length <= shape.context:
        return ""
    return (
        f"calibration.length {length} is longer than the model's context of {shape.context} tokens; "
        f"use at most {shape.context}"
    )


def _ids_in_range(config: dict[str, Any], vocabulary: int) -> dict[str, Any]:
    def fit(value: Any) -> Any:
        if isinstance(value, list):
            return [fit(each) for each in value]
        return min(value, vocabulary - 1) if isinstance(value, int) else value

    return {key: fit(value) if key.endswith("_token_id") else value for key, value in config.items()}
