"""Which grid each weight of a model is put on: from options, names and shapes alone. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, get_args

from compress.models.families import architecture_of, axis_sizes, family_of, parameters_of, shape_of, skipped_positions
from compress.models.family_table import FAMILIES
from compress.models.kind import class_name
from compress.models.scheme import Scheme, weight_class
from compress.quantize.options import Block, QuantizeOptions

# Their layers store weights with the input axis first (Conv1D), and no export takes them.
TRANSPOSED_FAMILIES = ("gpt2", "openai-gpt", "imagegpt", "decision_transformer")
SHOWN_NAMES = 4
# Of weights whose inputs are not rounded, in a model where others' are.
_BLOCK = 32


@dataclass(frozen=True)
class Matrix:
    """A weight of two dimensions (or more, which must be left out), with every name it goes by: a tied embedding is the lm_head too."""

    names: tuple[str, ...]
    shape: tuple[int, ...]

    @property
    def name(self) -> str:
        """Return the first name."""
        return self.names[0]

    @property
    def is_table(self) -> bool:
        """Say whether rows are read from it, and nothing is multiplied with it."""
        return weight_class(self.name) == "embedding" and len(self.names) == 1

    def matches(self, pattern: str) -> bool:
        """Say whether a shell pattern is one of its names."""
        return any(fnmatchcase(name, pattern) for name in self.names)


def matrices_of(config: Mapping[str, Any]) -> list[Matrix]:
    """Return the matrices that a model with this config.json has, each once; none for a family that is not known.

    Raises ValueError where the config is none of its family's.
    """
    if config.get("model_type") not in FAMILIES:
        return []
    sizes, tied = axis_sizes(config), shape_of(config).tied
    found: list[Matrix] = []
    shared = [each.name for each in parameters_of(config) if each.shared and len(each.axes) == 2]
    for each in parameters_of(config):
        if len(each.axes) != 2 or each.shared:
            continue
        names = (
            (each.name, *shared) if tied and each.row.kind == "embedding" and each.axes[0] == "vocab" else (each.name,)
        )
        found.append(Matrix(names, (sizes[each.axes[0]], sizes[each.axes[1]])))
    return found


@dataclass(frozen=True)
class Assignment:
    """What becomes of each matrix: a scheme, or the pattern by which it stays in float. By first name."""

    schemes: Mapping[str, Scheme]
    left_out: Mapping[str, str]


def assign(options: QuantizeOptions, matrices: Sequence[Matrix]) -> Assignment:
    """Return what the options say of each matrix; where bits are chosen by weight, each starts with 4.

    Raises ValueError for a pattern that matches none, where nothing would be left to quantize, and for a grid that does not go with
    rounded inputs.
    """
    for what, patterns in (("leave_out", options.leave_out), ("weights", tuple(options.weights))):
        for pattern in patterns:
            if not any(matrix.matches(pattern) for matrix in matrices):
                examples = ", ".join(_spread([matrix.name for matrix in matrices]))
                raise ValueError(f"quantize.{what}: {pattern!r} matches no weight; there are, for example, {examples}")
    left_out: dict[str, str] = {
        matrix.name: pattern
        for matrix in matrices
        for pattern in reversed(options.leave_out)
        if matrix.matches(pattern)
    }
    if len(left_out) == len(matrices):
        raise ValueError("quantize.leave_out matches every weight; nothing is left to quantize")
    schemes = {matrix.name: _scheme(options, matrix) for matrix in matrices if matrix.name not in left_out}
    return Assignment(schemes, left_out)


def _scheme(options: QuantizeOptions, matrix: Matrix) -> Scheme:
    said, shape = said_of(options, matrix), (matrix.shape[0], matrix.shape[1])
    activations = said.get("activations", options.activations)
    if activations != "none" and not matrix.is_table:
        _refuse_said(said, activations, matrix)
        # the inputs of all products of a row share its scale
        return Scheme(8, shape[1], True, shape, activations)
    bits = said.get("bits", options.bits if isinstance(options.bits, int) else 4)
    block = said.get("block", options.block if options.activations == "none" else _BLOCK)
    return Scheme(bits, min(block or shape[1], _holding(shape[1])), said.get("symmetric", options.symmetric), shape)


def _holding(width: int) -> int:
    """Return the smallest block that holds a whole row; one scale for the row where no block does."""
    return next((block for block in get_args(Block) if block >= width), width)


def _refuse_said(said: Mapping[str, Any], activations: str, matrix: Matrix) -> None:
    own = [f"bits: {said['bits']}"] if said.get("bits", 8) != 8 else []
    own += [f"block: {said['block']}"] if "block" in said else []
    own += [] if said.get("symmetric", True) else ["symmetric: false"]
    if own:
        raise ValueError(
            f"quantize.weights: {own[0]} for {matrix.name} does not go with activations: {activations}; add activations: none there"
        )


def said_of(options: QuantizeOptions, matrix: Matrix) -> dict[str, Any]:
    """Return what `weights` says of a matrix by itself."""
    said: dict[str, Any] = {}
    for pattern, other in options.weights.items():
        if matrix.matches(pattern):
            said |= {key: value for key in other.model_fields_set if (value := getattr(other, key)) is not None}
    return said


def plan(options: QuantizeOptions, config: dict[str, Any]) -> dict[str, Any]:
    """Return the config of the quantized folder, which is the model's own.

    Raises ValueError where the model cannot be quantized so.
    """
    model_type = config.get("model_type", "")
    if model_type in TRANSPOSED_FAMILIES:
        raise ValueError(
            f"quantize does not take models of type {model_type!r}: their layers store weights with the input axis first "
            "and no ONNX export takes them; start from a Llama-like model"
        )
    if options.method != "rtn" and model_type not in FAMILIES:
        raise ValueError(f"method {options.method} does not know the layers of {model_type!r} models; use method: rtn")
    if options.smooths and model_type not in FAMILIES:
        raise ValueError(f"smooth does not know the layers of {model_type!r} models; use smooth: false")
    if matrices := matrices_of(config):
        if options.chooses and not _predicts_tokens(config):
            raise ValueError(
                f"bits chosen by weight need the loss of a language model, and {class_name(config)} is none; use bits: 2, 4 or 8"
            )
        if options.reads_text:
            _check_length(options, config)
        found = assign(options, matrices)
        for matrix in matrices:
            if len(matrix.names) > 1 and matrix.name in found.schemes and not _finds_block(options, matrix):
                _check_tied(found.schemes[matrix.name], matrix)
    return dict(config)


def _finds_block(options: QuantizeOptions, matrix: Matrix) -> bool:
    """Say whether a choice by weight finds a block that divides the width."""
    return options.chooses and "block" not in said_of(options, matrix) and matrix.shape[1] % min(get_args(Block)) == 0


def _predicts_tokens(config: Mapping[str, Any]) -> bool:
    rows = family_of(config).heads[architecture_of(config)]
    return any(row.kind == "head" and "vocab" in row.axes for row in rows)


def _check_length(options: QuantizeOptions, config: Mapping[str, Any]) -> None:
    context, length = shape_of(config).context, options.calibration.length
    if context is None or length <= (longest := context - skipped_positions(config)):
        return
    raise ValueError(
        f"quantize.calibration.length {length} is longer than the model's context of {longest} tokens; use at most {longest}"
    )


def _check_tied(scheme: Scheme, matrix: Matrix) -> None:
    width = matrix.shape[1]
    # A short last block is run too, but a table of rows is read faster without one.
    if width % scheme.block == 0 or scheme.activations != "none":
        return
    legal = [block for block in get_args(Block) if width % block == 0]
    if legal:
        nearest = min(legal, key=lambda block: (abs(block - scheme.block), block))
        advice = f"the nearest block that does is {nearest}"
    else:
        advice = f"no block does; leave it out: leave_out: [{matrix.name}]"
    raise ValueError(f"quantize.block {scheme.block} does not divide the width {width} of the tied embedding; {advice}")


def _spread(names: Sequence[str]) -> list[str]:
    step = max(1, len(names) // SHOWN_NAMES)
    return list(names[::step][:SHOWN_NAMES])
