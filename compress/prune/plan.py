"""What prune makes of a config.json: the legality check of the recipe, and the sizes that the stage cuts to. No torch."""

from __future__ import annotations

from typing import Any

from compress.models.families import (
    Shape,
    architecture_of,
    count_parameters,
    cut_config,
    family_of,
    shape_of,
    skipped_positions,
)
from compress.models.kind import class_name, is_causal
from compress.prune.axes import left_of
from compress.prune.balance import balanced
from compress.prune.options import PruneOptions

_FLOAT_BYTES = 4
_MOST_WINDOWS, _LEAST_WINDOWS = 256, 8
# Windows times parameters.
_WINDOW_WEIGHTS = 9_000_000_000
# Perplexity of stories3M (width 192), ffn 341, least squares and with the step: 18.9 and 18.4 with 5 tokens for each channel, 17.5
# and 16.0 with 43, 12.7 and 11.1 with 170.
_TOKENS_FOR_CHANNEL = 16
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
    problems = [_architecture(config), _quantized(config), _windows(options, config, shape)]
    try:
        after = sizes_after(options, config)
    except ValueError as error:
        raise ValueError("; ".join(problem for problem in (*problems, str(error)) if problem)) from error
    problems += [*_losses(options, config, shape, after), *_idle(options, shape, after)]
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


def windows_of(options: PruneOptions, config: dict[str, Any]) -> int:
    """Return how many calibration windows are taken: what the options say, else as many as keep the stage at some minutes.

    On 2 cores; at 1.1 B parameters 8 windows of 256 tokens take about as long as 256 of them do at 35 M.
    """
    if options.calibration.windows is not None:
        return options.calibration.windows
    return min(_MOST_WINDOWS, max(_LEAST_WINDOWS, _WINDOW_WEIGHTS // sum(count_parameters(config).values())))


def repair_of(options: PruneOptions, hidden: int, tokens: int) -> str:
    """Return which repair is made with a number of calibration tokens; a Gauss-Newton step learns too few by heart."""
    if options.repair != "auto":
        return options.repair
    return "gauss_newton" if tokens >= _TOKENS_FOR_CHANNEL * hidden else "least_squares"


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
    if is_causal(config):
        return []
    return [
        f"score.{axis} {score} needs the loss of a causal language model, and {class_name(config)} is none; use {instead}"
        for axis, instead in _WITHOUT_LOSS.items()
        if getattr(after, axis) < getattr(before, axis) and (score := getattr(options.score, axis)) in _WITH_LOSS
    ]


def _idle(options: PruneOptions, before: Shape, after: Shape) -> list[str]:
    """Say which options would change nothing because only tokens go."""
    if any(getattr(after, axis) < getattr(before, axis) for axis in _WITHOUT_LOSS):
        return []
    idle = [name for name in ("repair", "rounds") if getattr(options, name) not in ("auto", "none", 1)]
    return [f"{name}: only tokens go here, and there is nothing for it to do; leave it out" for name in idle]


def _windows(options: PruneOptions, config: dict[str, Any], shape: Shape) -> str:
    length = options.calibration.length
    longest = None if shape.context is None else shape.context - skipped_positions(config)
    if longest is None or length <= longest:
        return ""
    return f"calibration.length {length} is longer than the model's context of {longest} tokens; use at most {longest}"


def _ids_in_range(config: dict[str, Any], vocabulary: int) -> dict[str, Any]:
    def fit(value: Any) -> Any:
        if isinstance(value, list):
            return [fit(each) for each in value]
        return min(value, vocabulary - 1) if isinstance(value, int) else value

    return {key: fit(value) if key.endswith("_token_id") else value for key, value in config.items()}
