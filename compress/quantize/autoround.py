"""AutoRound through the package auto-round: rounding and ranges learned layer by layer, its result read into our grid.

A layer's weights are rounded as round(w / scale + v); v in [-1/2, 1/2] and the ends of every block's range are learned by
signed gradient descent on the squared error of the layer's output. No weight is trained.

What it leaves are dequantized weights, scales and zero points; codes follow from them, and the values that our codes stand for
are compared with its own, weight by weight. It learns in float32 on the windows that it is given, and asks no hub for anything.

What the package cannot do, and is refused here: embeddings, and a head that shares the embedding's weight; matrices whose sides
are not multiples of 32 (it leaves them in float without an error); 8 bits with zero points.

Paper: arXiv 2309.05516, section 3; its defaults (200 steps of 8 windows, step size 1 / steps).
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from compress.errors import MissingExtra, StageError
from compress.models.folder import load_model
from compress.models.grid import Grid, in_blocks, middle, round_to_codes, values
from compress.models.scheme import Scheme
from compress.quantize.rtn import Rounded

_PACKAGE = "auto_round"
_BATCH = 8
# The package leaves other matrices as they are.
_SIDE = 32
_SHOWN = 3


def refuse_missing() -> None:
    """Raise MissingExtra, with the command that installs it, where the package is not installed."""
    if importlib.util.find_spec(_PACKAGE) is None:
        raise MissingExtra("method autoround", "autoround")


def autoround(
    folder: Path, windows: Tensor, schemes: Mapping[str, Scheme], seed: int = 0, iterations: int = 200
) -> dict[str, Rounded]:
    """Return codes, scales and zeros of the named weights of a model folder, learned on windows of token ids.

    Every other weight stays in float while they are learned. Shapes: windows [N, T].
    Numerics: float32; the same windows and seed give the same bytes on the same number of threads.
    Memory: the model, and the inputs and outputs of one layer for all windows.
    Raises MissingExtra without the package, StageError for weights that it cannot learn.
    """
    refuse_missing()
    model = load_model(folder)
    _refuse_unfit(model, schemes)
    with _quiet(), _own_randomness():
        learned = _learn(model, windows, schemes, seed, iterations)
        return {name: _read(learned, name, scheme) for name, scheme in schemes.items()}


def as_rounded(weight: Tensor, scales: Tensor, zeros: Tensor | int | None, scheme: Scheme) -> Rounded:
    """Return the codes of dequantized weights whose scales and zeros are known.

    Shapes: weight [N, K]; scales [N, G] or as many values in another shape; zeros likewise where the scheme has zero points.
    Range: weights are multiples of their block's scale; a short last block is filled with the zero's code.
    Raises ValueError where the codes do not stand for exactly these weights.
    """
    rows, groups = scheme.shape[0], scheme.groups
    steps = scales.detach().float().reshape(rows, groups)
    middles = torch.full_like(steps, middle(scheme.bits))
    if not scheme.symmetric:
        middles = torch.as_tensor(zeros).detach().float().reshape(rows, groups)
    grid = Grid(scheme.bits, steps, middles)
    blocks = in_blocks(weight.detach().float(), scheme.block)
    codes = round_to_codes(blocks, grid)
    if not torch.equal(values(codes, grid), blocks):
        worst = float((values(codes, grid) - blocks).abs().max())
        raise ValueError(
            f"weights are not what {scheme.bits} bits with these scales stand for: off by up to {worst:.3g}"
        )
    return Rounded(codes.to(torch.uint8), steps, middles.to(torch.uint8))


def _read(model: Any, name: str, scheme: Scheme) -> Rounded:
    module = model.get_submodule(name.removesuffix(".weight"))
    if not isinstance(getattr(module, "scale", None), Tensor):
        raise StageError(f"{name}: AutoRound left it in float; leave it out, or use another method")
    try:
        return as_rounded(module.weight, module.scale, getattr(module, "zp", None), scheme)
    except ValueError as error:
        raise StageError(f"{name}: AutoRound's result cannot be read: {error}") from error


def _learn(model: Any, windows: Tensor, schemes: Mapping[str, Scheme], seed: int, iterations: int) -> Any:
    batches = [{"input_ids": window[None], "attention_mask": torch.ones_like(window[None])} for window in windows]
    learner = importlib.import_module(_PACKAGE).AutoRound(
        model,
        # It wants one beside a model that is loaded already, and asks it for the name of its file alone: windows are ids.
        tokenizer=_NoTokenizer(),
        scheme="W4A16",
        iters=iterations,
        dataset=batches,
        nsamples=len(windows),
        seqlen=windows.shape[1],
        batch_size=_BATCH,
        layer_config=_layer_config(model, schemes),
        device_map=str(model.device),
        enable_torch_compile=False,
        amp=False,
        scale_dtype="fp32",
        low_cpu_mem_usage=False,
        seed=seed,
    )
    return learner.quantize()[0]


class _NoTokenizer:
    """Stands where AutoRound asks for a tokenizer."""

    name_or_path = ""


def _layer_config(model: Any, schemes: Mapping[str, Scheme]) -> dict[str, dict[str, Any]]:
    return {path: _entry(schemes.get(f"{path}.weight")) for path in _linears(model)}


def _entry(scheme: Scheme | None) -> dict[str, Any]:
    if scheme is None:
        return {"bits": 16}
    whole = scheme.block >= scheme.shape[1]
    return {"bits": scheme.bits, "group_size": -1 if whole else scheme.block, "sym": scheme.symmetric}


def _linears(model: Any) -> dict[str, Any]:
    """Return the projections that AutoRound knows: not one whose weight is the embedding's."""
    embeddings = {id(module.weight) for module in model.modules() if isinstance(module, torch.nn.Embedding)}
    found = {path: module for path, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    return {path: module for path, module in found.items() if id(module.weight) not in embeddings}


def _refuse_unfit(model: Any, schemes: Mapping[str, Scheme]) -> None:
    known = {f"{path}.weight" for path in _linears(model)}
    if strangers := [name for name in schemes if name not in known]:
        raise StageError(
            f"AutoRound learns projections alone, no embeddings and no head that shares their weight; not {_shown(strangers)}"
        )
    if odd := [name for name, scheme in schemes.items() if any(side % _SIDE for side in scheme.shape)]:
        raise StageError(
            f"AutoRound takes matrices whose sides are multiples of {_SIDE}; {_shown(odd)} "
            f"{'is' if len(odd) == 1 else 'are'} not: leave them out (leave_out), or use another method"
        )
    if fine := [name for name, scheme in schemes.items() if scheme.bits == 8 and not scheme.symmetric]:
        raise StageError(f"AutoRound takes 8 bits without zero points alone; set symmetric: true for {_shown(fine)}")


def _shown(names: list[str]) -> str:
    rest = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + rest


@contextmanager
def _quiet() -> Iterator[None]:
    """Hold back what the package logs below errors; its progress bar stays."""
    # The package sets the level when it is imported.
    importlib.import_module(_PACKAGE)
    logger = logging.getLogger("autoround")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


@contextmanager
def _own_randomness() -> Iterator[None]:
    """Give every random generator its state back: the package seeds them all."""
    state, arrays = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(state)
        np.random.set_state(arrays)
