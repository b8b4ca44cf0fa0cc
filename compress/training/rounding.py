"""A quantized model folder opened for training: every quantized weight is learned through its rounding.

`open_student` gives a model whose quantized weights are computed from latent weights and changes of scales, and whose values
are those that will be stored, bit for bit: the loss of training and validation is that of the weights that ship.
`write_student` writes a quantized folder with the new codes. The scheme of every weight, and what was left out, stay.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.utils import parametrize

from compress.errors import StageError
from compress.models import quantized
from compress.models.folder import load_model, save_model
from compress.models.grid import Grid, in_blocks, middle, round_to_codes
from compress.models.quantized import QuantizedFile, QuantizedWeight
from compress.training.straight_through import inside_cells, integer_grid, round_to_grid, values_of_codes

# Of the largest: an input that is never there lets its weights go nowhere that could be told.
_SMALLEST_INPUT = 1e-3
_GRID_PARAMETERS = ("scale_changes", "zero_changes")


class Rounding(nn.Module):
    """What turns what is learned of one matrix into its rounded weights; a parametrization.

    Learned are the latent weights, times the size of the input that each meets (see `measure_inputs`), and changes of scales
    and zero points, in units of a weight, so that all go with one learning rate: with u the mean |scale| of the matrix at
    the start, times 16 in 8 bits, scale = start * exp(change / u) and zero point = start + change / u.

    Once `fix` was called codes and zero points stay, and the scales alone are learned.

    Shapes: scale_changes and zero_changes [N, G], the latter only where zero points are learned; input_sizes [K]; codes
    [N, G, block] uint8.
    Memory: the last rounded weight is kept until it is out of date, so that a tied weight is rounded once a pass.
    """

    input_sizes: Tensor
    codes: Tensor
    fixed: Tensor
    start_scales: Tensor
    start_zeros: Tensor
    unit: Tensor

    def __init__(self, stored: QuantizedWeight, learn_zero_points: bool) -> None:
        super().__init__()
        self.scheme = stored.scheme
        self.input_range = stored.input_range
        grid = stored_grid(stored)
        self.register_buffer("input_sizes", torch.ones(stored.scheme.shape[1]))
        self.register_buffer("start_scales", grid.scales, persistent=False)
        self.register_buffer("start_zeros", grid.zeros, persistent=False)
        # a step of four bits: the finer grid of eight goes as much slower
        self.register_buffer("unit", grid.scales.abs().mean() * (stored.scheme.middle / middle(4)), persistent=False)
        shape = (*grid.scales.shape, stored.scheme.block)
        self.register_buffer("codes", torch.zeros(shape, dtype=torch.uint8))
        self.register_buffer("fixed", torch.tensor(False))
        self.is_fixed = False  # beside the buffer that a checkpoint keeps: to look at that is to wait for the device
        self.register_load_state_dict_post_hook(_read_fixed)  # type: ignore[no-untyped-call]
        self.scale_changes = nn.Parameter(torch.zeros_like(grid.scales))
        learned = learn_zero_points and not stored.scheme.symmetric
        self.zero_changes = nn.Parameter(torch.zeros_like(grid.zeros)) if learned else None
        self._kept: tuple[tuple[object, ...], Tensor] | None = None

    def grid(self) -> tuple[Tensor, Tensor]:
        """Return scales and zero points, the latter not yet rounded."""
        scales = self.start_scales * torch.exp(_whole(self.scale_changes) / self.unit)
        zeros = self.start_zeros
        return scales, zeros if self.zero_changes is None else zeros + _whole(self.zero_changes) / self.unit

    def forward(self, learned: Tensor) -> Tensor:
        """Return the rounded weight [N, K] of what is learned [N, K], float32 whatever autocast says."""
        key = self._key(learned)
        if self._kept is None or self._kept[0] != key:
            if self.is_fixed:
                rounded = values_of_codes(self.codes, *self.grid(), self.scheme.bits, learned.shape[1])
            else:
                rounded = round_to_grid(learned / self.input_sizes, *self.grid(), self.scheme.bits, self.scheme.block)
            self._kept = (key, rounded)
        return self._kept[1]

    @torch.no_grad()
    def fix(self, learned: Tensor) -> None:
        """Let the codes be what they are now for good."""
        self.codes.copy_(self._codes(_whole(learned)))
        self.fixed.fill_(True)
        self.is_fixed = True
        self.forget()

    def _codes(self, learned: Tensor) -> Tensor:
        if self.is_fixed:
            return self.codes
        grid = integer_grid(*self.grid(), self.scheme.bits)
        return round_to_codes(in_blocks(learned / self.input_sizes, self.scheme.block), grid)

    def forget(self) -> None:
        """Let go of the last rounded weight."""
        self._kept = None

    def _key(self, learned: Tensor) -> tuple[object, ...]:
        read = (learned, self.input_sizes, *self.parameters())
        return (
            torch.is_grad_enabled(),
            self.is_fixed,
            *((one.data_ptr(), one._version, one.requires_grad) for one in read),
        )

    @torch.no_grad()
    def to_stored(self, learned: Tensor) -> QuantizedWeight:
        """Return the codes, scales and zero points of what forward gives."""
        grid = integer_grid(*self.grid(), self.scheme.bits)
        zeros = None if self.scheme.symmetric else _bytes(grid.zeros)
        return quantized.store(
            self.scheme, _bytes(self._codes(learned)), grid.scales.cpu().numpy(), zeros, self.input_range
        )


def _whole(tensor: Tensor) -> Tensor:
    """Return a tensor of which FSDP may have left this process a piece. Every process must call it."""
    whole: Tensor = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    return whole


def _read_fixed(rounding: Any, _: object) -> None:
    rounding.is_fixed = bool(rounding.fixed)


def _bytes(integers: Tensor) -> quantized.Bytes:
    found: quantized.Bytes = integers.to(torch.uint8).cpu().numpy()
    return found


def stored_codes(stored: QuantizedWeight) -> Tensor:
    """Return the codes of a stored weight: [N, G, block] float32 holding integers."""
    scheme = stored.scheme
    return torch.from_numpy(quantized.unpack(stored.codes, scheme.bits, scheme.block).astype(np.float32))


def stored_grid(stored: QuantizedWeight) -> Grid:
    """Return the grid of a stored weight."""
    scheme, scales = stored.scheme, torch.from_numpy(np.array(stored.scales))
    if stored.zero_points is None:
        return Grid(scheme.bits, scales, torch.full_like(scales, scheme.middle))
    zeros = quantized.unpack(stored.zero_points, scheme.bits, scheme.groups).astype(np.float32)
    return Grid(scheme.bits, scales, torch.from_numpy(zeros))


def open_student(folder: Path, device: str = "cpu", learn_zero_points: bool = False, origin: Path | None = None) -> Any:
    """Return the model of a folder, ready to be trained; a quantized one through its rounding.

    learn_zero_points   of a quantized folder, where the scheme has them
    origin              the folder that a quantized one was made from: its weights, which know more than their codes, become
                        the latent ones. None, a folder that is quantized itself, or channels scaled before rounding: the
                        rounded weights do

    Until something is trained the codes are those of the folder, whatever method chose them.
    Raises StageError where `origin` is another model, and ArtifactError where a folder cannot be read.
    """
    model = load_model(folder, device)
    if not quantized.is_quantized(folder):
        return model
    scaled = quantized.read_schemes(folder).scaled
    floats = None if origin is None or scaled or quantized.is_quantized(origin) else _weights_of(origin)
    places = _places(model)
    with QuantizedFile(folder) as file:
        for name in file.schemes.weights:
            stored = file.read(name)
            weight = model.get_parameter(name)
            if floats is not None:
                _start_from(floats, name, stored, weight, origin)
            _round(places[name], Rounding(stored, learn_zero_points).to(device))
    model.base_model.register_forward_pre_hook(_forget_all)
    return model


def _weights_of(folder: Path) -> dict[str, Tensor]:
    return dict(load_model(folder).named_parameters(remove_duplicate=False))


@torch.no_grad()
def _start_from(
    floats: dict[str, Tensor], name: str, stored: QuantizedWeight, weight: Tensor, origin: Path | None
) -> None:
    if name not in floats or floats[name].shape != weight.shape:
        found = tuple(floats[name].shape) if name in floats else "missing"
        raise StageError(
            f"{origin}: {name} is {found} there and {tuple(weight.shape)} in the quantized model; "
            "the model that it was quantized from is needed"
        )
    weight.copy_(inside_cells(floats[name], stored_codes(stored), stored_grid(stored)))


def _places(model: nn.Module) -> dict[str, list[tuple[nn.Module, str]]]:
    """Return every module and attribute at which a parameter stands, by each of its names: a tied one has several."""
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    found: dict[str, list[tuple[nn.Module, str]]] = {}
    for same in names.values():
        places = [(model.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2]) for name in same]
        found |= dict.fromkeys(same, places)
    return found


def _round(places: list[tuple[nn.Module, str]], rounding: Rounding) -> None:
    """Put one rounding at every place of a weight: its latent weights and their rounding are shared."""
    for module, attribute in places:
        parametrize.register_parametrization(module, attribute, rounding, unsafe=True)
    (first, attribute), *others = places
    for module, other in others:
        module.parametrizations[other] = first.parametrizations[attribute]  # type: ignore[index, operator]


def _forget_all(body: nn.Module, _: object) -> None:
    for module in body.modules():
        if isinstance(module, Rounding):
            module.forget()


def is_rounded(model: nn.Module) -> bool:
    """Return whether weights of a model are learned through their rounding."""
    return any(isinstance(module, Rounding) for module in model.modules())


def fix_codes(model: nn.Module) -> None:
    """Let the codes of every quantized weight stay from now on; what was fixed before stays so."""
    for _, rounding, learned in rounded_weights(model):
        if not rounding.is_fixed:
            rounding.fix(learned)


def is_grid_parameter(name: str) -> bool:
    """Return whether a parameter, by its name, changes scales or zero points."""
    parts = name.split(".")
    return "parametrizations" in parts and parts[-1] in _GRID_PARAMETERS


def typical_step(model: nn.Module) -> float:
    """Return the median |scale| of a model's quantized weights as they were opened: the distance between neighbouring values
    of a weight.

    Raises ValueError where none is quantized.
    """
    scales = [rounding.start_scales.abs().flatten().cpu() for _, rounding, _ in rounded_weights(model)]
    if not scales:
        raise ValueError("the model has no quantized weights")
    return float(torch.cat(scales).median())


def rounded_weights(model: nn.Module) -> Iterator[tuple[str, Rounding, Tensor]]:
    """Yield (name, rounding, what is learned) of every quantized weight, each once, under the first of its names."""
    seen: set[int] = set()
    for prefix, module in model.named_modules():
        if not parametrize.is_parametrized(module):
            continue
        for attribute, found in module.parametrizations.items():
            if isinstance(found[0], Rounding) and id(found) not in seen:
                seen.add(id(found))
                yield f"{prefix}.{attribute}", found[0], found.original


@torch.no_grad()
def measure_inputs(model: Any, ids: Tensor, piece: int = 8) -> None:
    """Let each latent weight of a linear layer move the slower the larger the input is that it meets on these tokens.

    The optimizers make steps of one size for all weights. Beside an input that is sixteen times the others', as there is one
    in most language models, such a step turns the whole output, and its weights go back and forth between two codes for good.
    What is learned becomes the latent weight times the size of its input: the root of its mean square, over the geometric mean
    of the matrix. The latent weights stay what they are. A float model is left alone.

    Shapes: ids [B, T], read `piece` windows at a time.
    stories3M in int4, perplexity of held-out stories: after 0.06 M tokens 4.75, without 4.77 after 0.25 M.
    """
    body, head = model.base_model, model.get_output_embeddings()
    squares: dict[int, Tensor] = {}
    handles = []
    for module in body.modules():
        if (found := _rounding_of(module)) is not None and isinstance(module, nn.Linear):
            handles.append(module.register_forward_pre_hook(_note_into(squares, found)))
    try:
        for part in torch.split(ids, piece):
            hidden = body(input_ids=part.to(model.device), use_cache=False).last_hidden_state
            if head is not None and (found := _rounding_of(head)) is not None:
                _note(squares, found, hidden)
    finally:
        for handle in handles:
            handle.remove()
    for _, rounding, learned in rounded_weights(model):
        if id(rounding) in squares:
            size = _size(squares[id(rounding)])
            learned.mul_(size / rounding.input_sizes)
            rounding.input_sizes.copy_(size)


def _rounding_of(module: nn.Module) -> Rounding | None:
    if not parametrize.is_parametrized(module, "weight"):
        return None
    found = module.parametrizations["weight"][0]  # type: ignore[index]
    return found if isinstance(found, Rounding) else None


def _note_into(squares: dict[int, Tensor], rounding: Rounding) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
    def note(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        _note(squares, rounding, inputs[0])

    return note


def _note(squares: dict[int, Tensor], rounding: Rounding, inputs: Tensor) -> None:
    squares[id(rounding)] = squares.get(id(rounding), 0) + inputs.flatten(0, -2).float().square().sum(0)


def _size(squares: Tensor) -> Tensor:
    """Return the size of every input, 1 in the middle, from the sums of their squares: [K] -> [K]."""
    size = squares.sqrt()
    size = size.clamp_min(size.amax().clamp_min(torch.finfo(size.dtype).tiny) * _SMALLEST_INPUT)
    return size / size.log().mean().exp()


@torch.no_grad()
def write_student(model: nn.Module, folder: Path, tokenizer_from: Path) -> None:
    """Write a trained model into a folder; one that is trained through its rounding as a quantized folder.

    tokenizer_from   the folder that the model was opened from; what it leaves in float is left so

    Memory: one more copy of the model.
    """
    if not is_rounded(model):
        save_model(model, folder, tokenizer_from)
        return
    stored = {name: rounding.to_stored(learned) for name, rounding, learned in rounded_weights(model)}
    plain = load_model(tokenizer_from)
    trained = dict(model.named_parameters())
    for name, parameter in plain.named_parameters():
        if name in stored:
            parameter.copy_(torch.from_numpy(quantized.dequantize(stored[name])))
        else:
            parameter.copy_(trained[name])
    save_model(plain, folder, tokenizer_from)
    before = quantized.read_schemes(tokenizer_from)
    quantized.write(folder, stored, before.left_out, before.scaled)
