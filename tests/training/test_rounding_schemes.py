"""Folders of every kind that `quantize` writes come out of training's door as they went in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from compress.artifact import list_files, sha256_of
from compress.contract import Context
from compress.models.folder import load_model
from compress.models.quantized import QuantizedFile, read_schemes
from compress.quantize.options import QuantizeOptions
from compress.quantize.stage import run
from compress.training.rounding import measure_inputs, open_student, rounded_weights, write_student
from tests.prune.tiny_stage import Text, write_source

IDS = torch.arange(3, 27).reshape(2, 12)
FEW = {"calibration": {"windows": 4, "length": 16}}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_source(tmp_path_factory.mktemp("source"), tied=False, num_hidden_layers=1)


def quantize(source: Path, target: Path, **options: Any) -> Path:
    target.mkdir()
    run(QuantizeOptions.model_validate(options), Context(source, target, target, 0, data=Text()))
    return target


def write(model: Any, source: Path, target: Path) -> Path:
    target.mkdir()
    write_student(model, target, source)
    return target


def hashes(folder: Path) -> dict[str, str]:
    return {str(name): sha256_of(folder / name) for name in list_files(folder)}


def train(model: Any) -> None:
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(3):
        optimizer.zero_grad()
        model(input_ids=IDS, labels=IDS).loss.backward()
        optimizer.step()


KINDS: dict[str, dict[str, Any]] = {
    "static": {"bits": 8, "activations": "static", **FEW},
    "static, not smoothed": {"bits": 8, "activations": "static", "smooth": False, **FEW},
    "dynamic, not smoothed": {"bits": 8, "activations": "dynamic", "smooth": False},
    "dynamic": {"bits": 8, "activations": "dynamic", **FEW},
    "two bits": {"bits": 2, "block": 16},
    "two bits with zero points": {"bits": 2, "symmetric": False},
    "an output channel": {"bits": 4, "block": None, "symmetric": False},
    "mixed": {"bits": 4, "weights": {"*q_proj*": {"bits": 2}, "*mlp*": {"activations": "dynamic"}}, **FEW},
}


@pytest.mark.parametrize("kind", KINDS)
def test_untrained_the_folder_comes_out_byte_for_byte(source: Path, tmp_path: Path, kind: str) -> None:
    folder = quantize(source, tmp_path / "q", **KINDS[kind])
    for number, origin in enumerate((None, source)):
        model = open_student(folder, learn_zero_points=True, origin=origin)
        measure_inputs(model, IDS)
        assert hashes(write(model, folder, tmp_path / str(number))) == hashes(folder)


@pytest.mark.parametrize("kind", ["static", "two bits with zero points"])
def test_trained_the_scheme_the_ranges_and_what_was_scaled_stay(source: Path, tmp_path: Path, kind: str) -> None:
    folder = quantize(source, tmp_path / "q", **KINDS[kind])
    model = open_student(folder, learn_zero_points=True, origin=source)
    train(model)
    target = write(model, folder, tmp_path / "trained")
    assert read_schemes(target) == read_schemes(folder)
    assert read_schemes(target).scaled == (kind == "static")
    with QuantizedFile(folder) as before, QuantizedFile(target) as after:
        for name in before.schemes.weights:
            assert before.read(name).input_range == after.read(name).input_range
            assert not (before.read(name).scales == after.read(name).scales).all()


def test_where_channels_were_scaled_latent_weights_are_the_stored_ones(source: Path, tmp_path: Path) -> None:
    for smooth in (True, False):
        folder = quantize(source, tmp_path / str(smooth), bits=8, activations="static", smooth=smooth, **FEW)
        assert read_schemes(folder).scaled == smooth
        stored, model = load_model(folder), open_student(folder, origin=source)
        same = [torch.equal(latent, stored.get_parameter(name)) for name, _, latent in rounded_weights(model)]
        assert len(same) == 9
        assert all(same) if smooth else not any(same)


def test_an_origin_of_another_shape_does_not_matter_where_it_is_not_read(source: Path, tmp_path: Path) -> None:
    folder = quantize(source, tmp_path / "q", bits=8, activations="dynamic", **FEW)
    other = write_source(tmp_path / "other", tied=False, num_hidden_layers=1, intermediate_size=40)
    model = open_student(folder, origin=other)
    assert hashes(write(model, folder, tmp_path / "again")) == hashes(folder)
