"""What `check` knows of distill before anything runs: layers that exist, and zero points that can be learned. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from compress.distill.options import DistillOptions
from compress.models.families import shape_of
from compress.recipe import Recipe
from compress.steps import Step

Config = dict[str, Any]


def look_at_distill(
    recipe: Recipe, step: Step, configs: Mapping[str, Config | None], symmetric: Mapping[str, bool | None]
) -> None:
    """Complain of layers that a model does not have, and of zero points that there are none of.

    symmetric  for each quantized artifact whether its blocks have no zero points; None where it is not known
    """
    options = step.options
    if not isinstance(options, DistillOptions):
        return
    if options.layers:
        _layers(
            recipe, step, options.layers, [(step.source, configs.get(step.source)), ("teacher", configs["teacher"])]
        )
    if options.zero_points == "learn" and symmetric.get(step.source, True):
        what = "has symmetric blocks" if step.source in symmetric else "is not quantized"
        message = f"needs a model quantized with symmetric: false, and '{step.source}' {what}; leave it out"
        recipe.document.complain((*step.path, "zero_points"), f"{step.where}.zero_points: learn {message}")


def _layers(
    recipe: Recipe, step: Step, pairs: tuple[tuple[int, ...], ...], models: list[tuple[str, Config | None]]
) -> None:
    for number, pair in enumerate(pairs):
        for side, (name, config) in enumerate(models):
            try:
                layers = shape_of(config).layers if config else None
            except (ValueError, KeyError):
                layers = None  # a family that is refused elsewhere
            if layers is not None and side < len(pair) and pair[side] >= layers:
                message = f"is {pair[side]}, and '{name}' has the layers 0 to {layers - 1}"
                recipe.document.complain(
                    (*step.path, "layers", number, side), f"{step.where}.layers[{number}][{side}] {message}"
                )
