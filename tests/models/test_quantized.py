from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from compress.artifact import sha256_of
from compress.errors import ArtifactError
from compress.models import quantized
from compress.models.quantized import QuantizedFile, QuantizedWeight, dequantize, pack, store, unpack
from compress.models.scheme import Scheme, weight_class
from tests.references.number_grid import unpacked


def random_weight(scheme: Scheme, seed: int = 0) -> tuple[QuantizedWeight, np.ndarray, np.ndarray]:
    """A weight, its codes [N, G, block] and its zeros [N, G]."""
    generator = np.random.default_rng(seed)
    rows, groups = scheme.shape[0], scheme.groups
    codes = generator.integers(0, 2**scheme.bits, (rows, groups, scheme.block), dtype=np.uint8)
    scales = generator.normal(size=(rows, groups)).astype(np.float32)
    zeros = generator.integers(0, 2**scheme.bits, (rows, groups), dtype=np.uint8)
    entry = store(scheme, codes, scales, None if scheme.symmetric else zeros)
    return entry, codes, np.full_like(zeros, scheme.middle) if scheme.symmetric else zeros


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("count", [1, 2, 7, 32])
def test_unpack_undoes_pack_and_reads_as_the_reference(bits: int, count: int) -> None:
    codes = np.random.default_rng(0).integers(0, 2**bits, (3, count), dtype=np.uint8)
    packed = pack(codes, bits)
    assert packed.shape == (3, -(-count * bits // 8))
    np.testing.assert_array_equal(unpack(packed, bits, count), codes)
    assert [unpacked(row, bits, count) for row in packed.tolist()] == codes.tolist()


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(("bits", "width"), [(4, 64), (4, 43), (8, 43)])
def test_dequantize_is_scale_times_code_minus_zero(bits: int, width: int, symmetric: bool) -> None:
    scheme = Scheme(bits, 16, symmetric, (5, width))
    entry, codes, zeros = random_weight(scheme)
    found = dequantize(entry)
    assert found.dtype == np.float32
    for row in range(5):
        for column in range(width):
            group, place = divmod(column, 16)
            step = np.float32(int(codes[row, group, place]) - int(zeros[row, group]))
            assert found[row, column] == entry.scales[row, group] * step


def test_what_is_written_is_read_back_and_the_bytes_are_repeatable(tmp_path: Path) -> None:
    weights = {
        "b.weight": random_weight(Scheme(4, 32, False, (6, 40)))[0],
        "a.weight": random_weight(Scheme(8, 16, True, (3, 16)), 1)[0],
    }
    first = quantized.write(tmp_path, weights, ["z", "c"])
    digest = sha256_of(first)
    quantized.write(tmp_path, dict(reversed(weights.items())), ["c", "z"])
    assert sha256_of(first) == digest
    with QuantizedFile(tmp_path) as file:
        assert file.schemes.left_out == ("c", "z")
        for name, entry in weights.items():
            assert file.schemes.weights[name] == entry.scheme
            np.testing.assert_array_equal(dequantize(file.read(name)), dequantize(entry))
    assert weights["b.weight"].stored_bytes == 6 * (2 * 16 + 2 * 4 + 1)


@pytest.mark.parametrize(
    ("bits", "left_out", "expected"),
    [([4, 4], [], "int4"), ([8], [], "int8"), ([4, 8], [], "mixed"), ([4], ["x"], "mixed")],
)
def test_precision_names_what_is_stored(tmp_path: Path, bits: list[int], left_out: list[str], expected: str) -> None:
    assert quantized.precision(tmp_path) == "fp32"
    weights = {f"w{index}": random_weight(Scheme(each, 16, True, (2, 16)))[0] for index, each in enumerate(bits)}
    quantized.write(tmp_path, weights, left_out)
    assert quantized.precision(tmp_path) == expected


def test_precision_imports_no_torch(tmp_path: Path) -> None:
    quantized.write(tmp_path, {"w": random_weight(Scheme(4, 16, True, (2, 16)))[0]})
    code = (
        "import sys; from pathlib import Path; from compress.models.quantized import precision; "
        "print(precision(Path(sys.argv[1])), 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["int4", "False"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("model.embed_tokens.weight", "embedding"),
        ("lm_head.MatMulNBits.qweight", "head"),
        ("model.layers.0.self_attn.q_proj.weight", "attention"),
        ("model.layers.0.attn.qkv_proj.MatMul.weight", "attention"),
        ("model.layers.3.mlp.down_proj.weight", "ffn"),
        ("cos_cache", "other"),
    ],
)
def test_weight_classes(name: str, expected: str) -> None:
    assert weight_class(name) == expected


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    (tmp_path / quantized.FILE).write_bytes(b"\x08\x00\x00\x00\x00\x00\x00\x00not json")
    with pytest.raises(ArtifactError, match=r"quantization\.safetensors: not readable .* quantize the model again"):
        quantized.precision(tmp_path)


def test_wrong_shapes_and_missing_zero_points_are_refused() -> None:
    scheme = Scheme(4, 16, False, (2, 32))
    codes, scales = np.zeros((2, 2, 16), np.uint8), np.ones((2, 2), np.float32)
    with pytest.raises(ValueError, match="do not fit"):
        store(scheme, codes[:, :1], scales, None)
    with pytest.raises(ValueError, match="an asymmetric one has them"):
        store(scheme, codes, scales, None)
