"""What is read of sensitivity.json: the common grid, the rows and their names, the shares, refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from compress.errors import ArtifactError
from compress.report.sensitivity import (
    FILE,
    common_grid,
    nearest_grid,
    read_record,
    shares_of_bits,
    split_layers,
)

Json = dict[str, Any]
GRIDS = ("2/32", "4/16", "4/32", "4/64", "8/64")


def entry(name: str, kind: str = "attention", chosen: tuple[int, int] = (4, 32), **changes: Any) -> Json:
    said = {"name": name, "class": kind, "shape": [8, 64], "bits": chosen[0], "block": chosen[1], "symmetric": True}
    return {**said, "kl": {grid: 0.5 / int(grid[0]) for grid in GRIDS}, **changes}


def save(folder: Path, entries: list[Json], **changes: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    said = {"sensitivity": "fisher", "kl_of_choice": 0.25, "weights": entries}
    (folder / FILE).write_text(json.dumps({**said, **changes}))
    return folder


def llama(layers: int = 2) -> list[Json]:
    """Rows in an order that is not that of use, as OPT has them."""
    found = [entry("model.embed_tokens.weight", "embedding", (8, 64), shape=[100, 64])]
    for layer in range(layers):
        found += [
            entry(f"model.layers.{layer}.mlp.down_proj.weight", "ffn"),
            entry(f"model.layers.{layer}.mlp.gate_proj.weight", "ffn"),
            *(entry(f"model.layers.{layer}.self_attn.{name}_proj.weight") for name in "ovkq"),
        ]
    return found


def test_the_file_is_read_as_quantize_writes_it(tmp_path: Path) -> None:
    choosing = pytest.importorskip("compress.quantize.choosing")
    from compress.models.quantized import Scheme

    schemes = [Scheme(bits, 32, True, (8, 64)) for bits in (4, 8)]
    name = "model.layers.3.mlp.up_proj.weight"
    written = choosing._record("kl", {name: schemes}, {name: [0.5, 0.125]}, {name: 1})
    assert choosing.RECORD == FILE
    (tmp_path / FILE).write_text(json.dumps(written))
    record = read_record(tmp_path)
    assert record is not None
    assert (record.sensitivity, record.total) == ("kl", 0.125)
    (weight,) = record.weights
    assert (weight.kind, weight.size, weight.chosen, weight.kl) == ("ffn", 512, (8, 32), {(4, 32): 0.5, (8, 32): 0.125})


def test_rows_stand_in_the_order_of_use_and_what_is_outside_the_layers_apart(tmp_path: Path) -> None:
    record = read_record(save(tmp_path, llama(3)))
    assert record
    rows, outside = split_layers(record.weights)
    assert rows.labels == ("q", "k", "v", "o", "gate", "down")
    assert rows.layers == (0, 1, 2)
    assert len(rows.cells) == 18
    assert rows.cells[4, 2].name == "model.layers.2.mlp.gate_proj.weight"
    assert [label for label, _ in outside] == ["embedding"]


def test_leaves_of_one_name_are_told_apart_by_their_path(tmp_path: Path) -> None:
    names = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    classes = ("attention", "attention", "ffn", "ffn")
    entries = [
        entry(f"transformer.h.{layer}.{name}.weight", kind)
        for layer in (0, 4)
        for name, kind in zip(names, classes, strict=True)
    ]
    entries += [entry(f"transformer.{name}.weight", "embedding") for name in ("wte", "wpe")]
    record = read_record(save(tmp_path, entries))
    assert record
    rows, outside = split_layers(record.weights)
    assert rows.labels == ("c_attn", "attn.c_proj", "c_fc", "mlp.c_proj")
    assert rows.layers == (0, 4)
    assert [label for label, _ in outside] == ["wte", "wpe"]


def test_the_common_grid_is_4_bits_in_blocks_of_32_where_half_of_the_weights_have_it(tmp_path: Path) -> None:
    entries = llama()
    for one in entries[:7]:
        one["kl"] = {"8/64": 0.1, "4/128": 0.2}
    record = read_record(save(tmp_path, entries))
    assert record
    assert common_grid(record.weights) == (4, 128)  # 6 of 13 have 4/32
    entries[6] = entry("model.layers.0.self_attn.q_proj.weight")
    record = read_record(save(tmp_path, entries))
    assert record
    assert common_grid(record.weights) == (4, 32)
    assert nearest_grid(record.weights[0], (4, 32)) == (4, 128)
    assert nearest_grid(record.weights[0], (2, 32)) == (4, 128)
    assert nearest_grid(record.weights[-1], (4, 128)) == (4, 64)
    assert nearest_grid(record.weights[-1], (4, 24)) == (4, 32)


def test_shares_are_of_numbers_not_of_weights(tmp_path: Path) -> None:
    record = read_record(save(tmp_path, llama(1)))
    assert record
    assert shares_of_bits(record.weights) == {4: 3072 / 9472, 8: 6400 / 9472}


def test_no_file_and_no_weights_are_no_record(tmp_path: Path) -> None:
    assert read_record(tmp_path) is None
    assert read_record(save(tmp_path, [])) is None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"kl": {"4": 1.0}}, "not enough values to unpack (expected 2, got 1)"),
        ({"kl": {"0/32": 1.0}}, "'0/32' is no bits/block"),
        ({"kl": {}}, "weight w needs bits, a block, a shape and finite values of KL"),
        ({"kl": {"4/32": float("nan")}}, "weight w needs bits, a block, a shape and finite values of KL"),
        ({"bits": 0}, "weight w needs bits, a block, a shape and finite values of KL"),
        ({"kl": None}, "'NoneType' object has no attribute 'items'"),
    ],
)
def test_damaged_files_are_refused_by_name(tmp_path: Path, change: Json, said: str) -> None:
    save(tmp_path, [entry("w", **change)])
    with pytest.raises(ArtifactError) as caught:
        read_record(tmp_path)
    assert str(caught.value) == f"{tmp_path / FILE}: not readable ({said}); quantize the model again"
