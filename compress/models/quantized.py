"""quantization.safetensors: the codes, scales and zero points of every quantized weight of a model folder.

One grid for every method: weight = scale * (code - zero), in blocks along the input axis, codes of 2, 4 or 8 bits. The layout is
that of the inputs of ONNX Runtime's MatMulNBits, so that `export` copies bytes and never quantizes again. Imports no torch.

For a weight NAME of shape [N, K], with G = ceil(K / block):

NAME.codes         uint8   [N, G, ceil(block * bits / 8)]  low bits first; a short last block is padded with the zero's code
NAME.scales        float32 [N, G]
NAME.zero_points   uint8   [N, ceil(G * bits / 8)]  low bits first; only where the scheme is not symmetric
NAME.input_range   float32 [2]  lowest and highest input that 8 bits hold; only where activations are static
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from safetensors import safe_open
from safetensors.numpy import save_file

from compress.errors import ArtifactError
from compress.models.scheme import Precision, Scheme

FILE = "quantization.safetensors"
SCHEMA = 1
# One key only: safetensors writes several in an order that changes from run to run.
_METADATA = "quantization"

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class QuantizedWeight:
    """One weight as it is stored; see the top of the file for the shapes."""

    scheme: Scheme
    codes: Bytes
    scales: Floats
    zero_points: Bytes | None = None
    input_range: tuple[float, float] | None = None

    @property
    def stored_bytes(self) -> int:
        """Return the bytes of codes, scales and zero points together."""
        return self.codes.nbytes + self.scales.nbytes + (0 if self.zero_points is None else self.zero_points.nbytes)


def pack(codes: Bytes, bits: int) -> Bytes:
    """Pack codes [..., n] of 2, 4 or 8 bits into bytes [..., ceil(n * bits / 8)], low bits first; what is left of the last is 0."""
    each = 8 // bits
    if missing := -codes.shape[-1] % each:
        codes = np.concatenate([codes, np.zeros((*codes.shape[:-1], missing), np.uint8)], axis=-1)
    parts = codes.reshape(*codes.shape[:-1], -1, each)
    packed = parts[..., 0].copy()
    for place in range(1, each):
        packed |= np.left_shift(parts[..., place], place * bits, dtype=np.uint8)
    return packed


def unpack(packed: Bytes, bits: int, count: int) -> Bytes:
    """Return the first `count` codes [..., count] of what `pack` made."""
    if bits == 8:
        return packed[..., :count]
    mask = (1 << bits) - 1
    codes = np.stack([(packed >> shift) & mask for shift in range(0, 8, bits)], axis=-1)
    return codes.reshape(*packed.shape[:-1], -1)[..., :count]


def store(
    scheme: Scheme,
    codes: Bytes,
    scales: Floats,
    zero_points: Bytes | None,
    input_range: tuple[float, float] | None = None,
) -> QuantizedWeight:
    """Pack one weight: codes [N, G, block] with the padding filled in, scales [N, G], zero points [N, G] or None."""
    rows, groups = scheme.shape[0], scheme.groups
    if codes.shape != (rows, groups, scheme.block) or scales.shape != (rows, groups):
        raise ValueError(f"codes {codes.shape} and scales {scales.shape} do not fit {scheme}")
    if scheme.symmetric != (zero_points is None):
        raise ValueError("a symmetric scheme has no zero points, an asymmetric one has them")
    if (scheme.activations == "static") != (input_range is not None):
        raise ValueError("static activations have a range of inputs, others have none")
    zeros = None if zero_points is None else np.ascontiguousarray(pack(zero_points, scheme.bits))
    return QuantizedWeight(
        scheme,
        np.ascontiguousarray(pack(codes, scheme.bits)),
        np.ascontiguousarray(scales, np.float32),
        zeros,
        input_range,
    )


def dequantize(weight: QuantizedWeight) -> Floats:
    """Return the weight [N, K] in float32.

    Numerics: code - zero is exact, the product is rounded once: the same bits everywhere, ONNX Runtime included.
    """
    scheme = weight.scheme
    rows, width = scheme.shape
    codes = unpack(weight.codes, scheme.bits, scheme.block).astype(np.float32)
    if weight.zero_points is None:
        codes -= np.float32(scheme.middle)
    else:
        codes -= unpack(weight.zero_points, scheme.bits, scheme.groups).astype(np.float32)[..., None]
    codes *= weight.scales[..., None]
    return np.ascontiguousarray(codes.reshape(rows, -1)[:, :width])


def write(
    folder: Path, weights: Mapping[str, QuantizedWeight], left_out: Sequence[str] = (), scaled: bool = False
) -> Path:
    """Write quantization.safetensors; `left_out` names the matrices that stayed in float. The bytes are repeatable.

    scaled   channels were scaled before rounding: the codes are not those of the float weights that came in
    """
    tensors: dict[str, npt.NDArray[Any]] = {}
    for name, weight in sorted(weights.items()):
        tensors[f"{name}.codes"] = weight.codes
        tensors[f"{name}.scales"] = weight.scales
        if weight.zero_points is not None:
            tensors[f"{name}.zero_points"] = weight.zero_points
        if weight.input_range is not None:
            tensors[f"{name}.input_range"] = np.array(weight.input_range, np.float32)
    schemes = {name: asdict(weight.scheme) for name, weight in weights.items()}
    said = {"schema": SCHEMA, "weights": schemes, "left_out": sorted(left_out), "scaled": scaled}
    path = folder / FILE
    save_file(tensors, path, metadata={_METADATA: json.dumps(said, sort_keys=True, separators=(",", ":"))})
    return path


def is_quantized(folder: Path) -> bool:
    """Return whether the folder holds quantization.safetensors."""
    return (folder / FILE).is_file()


@dataclass(frozen=True)
class Schemes:
    """What quantization.safetensors says of itself: the scheme of each weight, which matrices stayed in float, and
    whether channels were scaled before rounding."""

    weights: Mapping[str, Scheme]
    left_out: tuple[str, ...]
    scaled: bool = False

    @property
    def precision(self) -> Precision:
        """Return int8, int4 or int2 where every matrix has those bits, else mixed."""
        found = {scheme.bits for scheme in self.weights.values()}
        if self.left_out or len(found) != 1:
            return "mixed"
        names: dict[int, Precision] = {8: "int8", 4: "int4", 2: "int2"}
        return names[found.pop()]


def read_schemes(folder: Path) -> Schemes:
    """Return the schemes of a folder from the header of its quantization.safetensors.

    Raises ArtifactError where the file is missing or cannot be read.
    """
    path = folder / FILE
    try:
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(size))
        said = json.loads(header["__metadata__"][_METADATA])
        if said["schema"] != SCHEMA:
            raise ArtifactError(f"{path}: schema {said['schema']}, this version reads {SCHEMA}")
        schemes = {
            name: Scheme(
                entry["bits"],
                entry["block"],
                entry["symmetric"],
                (entry["shape"][0], entry["shape"][1]),
                entry.get("activations", "none"),
            )
            for name, entry in said["weights"].items()
        }
        return Schemes(schemes, tuple(said["left_out"]), bool(said.get("scaled", False)))
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise ArtifactError(f"{path}: not readable ({error}); quantize the model again") from error


def precision(folder: Path) -> Precision:
    """Return fp32, int8, int4, or mixed where bits differ or matrices were left out. Reads a header, no weights."""
    return read_schemes(folder).precision if is_quantized(folder) else "fp32"


class QuantizedFile:
    """quantization.safetensors, open for reading weight by weight. A context manager.

    Memory: one weight at a time. Raises ArtifactError where the file cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        self.schemes = read_schemes(folder)
        self._path = folder / FILE
        self._stack = ExitStack()
        self._file: Any = None

    def __enter__(self) -> Self:
        self._file = self._stack.enter_context(safe_open(self._path, framework="np"))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def read(self, name: str) -> QuantizedWeight:
        """Return one weight as it is stored."""
        scheme = self.schemes.weights[name]
        zeros = None if scheme.symmetric else self._file.get_tensor(f"{name}.zero_points")
        span = self._file.get_tensor(f"{name}.input_range").tolist() if scheme.activations == "static" else None
        return QuantizedWeight(
            scheme,
            self._file.get_tensor(f"{name}.codes"),
            self._file.get_tensor(f"{name}.scales"),
            zeros,
            None if span is None else (span[0], span[1]),
        )
