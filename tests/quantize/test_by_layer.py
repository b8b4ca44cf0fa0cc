"""What is rounded by us, and what by AutoRound: a stand-in shows who is asked for what."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from compress.contract import silent
from compress.models.folder import load_model
from compress.models.quantized import QuantizedWeight, dequantize
from compress.models.scheme import Scheme
from compress.quantize import by_layer
from compress.quantize.by_layer import Calibration, embedding_and_head, round_on_text
from compress.quantize.grids import Grids
from compress.quantize.options import QuantizeOptions
from compress.quantize.rtn import Rounded, round_to_nearest
from compress.quantize.schemes import assign
from compress.quantize.stage import list_matrices
from tests.prune.tiny_stage import write_source
from tests.references.tiny_families import tiny_model

IDS = torch.randint(3, 64, (8, 8), generator=torch.Generator().manual_seed(6))
EMBEDDING = "model.embed_tokens.weight"


class Learner:
    """Rounds what it is asked for to the nearest of a coarser scale, so that its codes are known again."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []

    def __call__(
        self, folder: Path, windows: Tensor, schemes: Mapping[str, Scheme], seed: int, iterations: int
    ) -> dict[str, Rounded]:
        self.asked.append(
            {"folder": folder, "names": list(schemes), "seed": seed, "iterations": iterations, "windows": windows}
        )
        weights = dict(load_model(folder).named_parameters())
        return {name: self.rounded(weights[name], scheme) for name, scheme in schemes.items()}

    @staticmethod
    def rounded(weight: Tensor, scheme: Scheme) -> Rounded:
        found = round_to_nearest(weight.detach(), scheme.bits, scheme.block, scheme.symmetric)
        return Rounded(found.codes, found.scales * 1.5, found.zeros)


@pytest.fixture
def learner(monkeypatch: pytest.MonkeyPatch) -> Learner:
    found = Learner()
    monkeypatch.setattr(by_layer, "autoround", found)
    return found


def round_model(
    source: Path, scratch: Path, progress: Any = silent, **options: Any
) -> tuple[Any, dict[str, QuantizedWeight]]:
    model = load_model(source)
    settings = QuantizeOptions.model_validate({"bits": 4, "method": "autoround", **options})
    schemes = assign(settings, list_matrices(model)[0]).schemes
    calibration = Calibration(IDS, source, scratch, seed=5)
    return model, round_on_text(model, Grids(schemes), settings, calibration, progress)


def check_model_is_what_is_stored(model: Any, stored: Mapping[str, QuantizedWeight]) -> None:
    for name, entry in stored.items():
        np.testing.assert_array_equal(model.get_parameter(name).detach().numpy(), dequantize(entry))


def same(first: Mapping[str, QuantizedWeight], second: Mapping[str, QuantizedWeight]) -> bool:
    return set(first) == set(second) and all(
        np.array_equal(entry.codes, second[name].codes) and np.array_equal(entry.scales, second[name].scales)
        for name, entry in first.items()
    )


@pytest.mark.parametrize("tied", [True, False])
def test_autoround_is_asked_for_projections_and_the_embedding_is_ours(
    tmp_path: Path, learner: Learner, tied: bool
) -> None:
    source = write_source(tmp_path / "m", tied=tied, num_hidden_layers=2)
    model, stored = round_model(source, tmp_path / "s", autoround={"iterations": 9})
    (asked,) = learner.asked
    assert set(asked["names"]) == set(stored) - {EMBEDDING}
    assert ("lm_head.weight" in asked["names"]) == (not tied)
    assert (asked["folder"], asked["seed"], asked["iterations"]) == (source, 5, 9)
    assert torch.equal(asked["windows"], IDS)
    assert set(stored) == {matrix.name for matrix in list_matrices(model)[0]}
    check_model_is_what_is_stored(model, stored)
    floats = dict(load_model(source).named_parameters())
    for name in asked["names"]:
        expected = Learner.rounded(floats[name], stored[name].scheme)
        np.testing.assert_array_equal(stored[name].scales, expected.scales.numpy())
    # rounded for its uses, which is not to the nearest
    nearest = round_to_nearest(floats[EMBEDDING].detach(), 4, 32, True)
    assert not np.array_equal(stored[EMBEDDING].scales, nearest.scales.numpy())


def test_a_stopped_run_takes_what_was_learned(
    tmp_path: Path, learner: Learner, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_source(tmp_path / "m", num_hidden_layers=1)
    straight, expected = round_model(source, tmp_path / "s")
    parts = tmp_path / "s" / "layers"
    assert sorted(path.name for path in parts.iterdir()) == ["autoround", "embedding"]

    def not_again(*_: Any, **__: Any) -> None:
        raise AssertionError("this was done")

    monkeypatch.setattr(by_layer, "autoround", not_again)
    monkeypatch.setattr(by_layer, "measure_curvature", not_again)
    model, stored = round_model(source, tmp_path / "s")
    assert same(stored, expected)
    assert all(torch.equal(weight, straight.state_dict()[name]) for name, weight in model.state_dict().items())
    check_model_is_what_is_stored(model, stored)


def test_a_stop_while_it_learns_keeps_the_embedding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_source(tmp_path / "m", num_hidden_layers=1)

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(by_layer, "autoround", stop)
    with pytest.raises(KeyboardInterrupt):
        round_model(source, tmp_path / "s")
    assert [path.name for path in (tmp_path / "s" / "layers").iterdir()] == ["embedding"]
    monkeypatch.setattr(by_layer, "autoround", Learner())
    again = round_model(source, tmp_path / "s")[1]
    assert same(again, round_model(source, tmp_path / "straight")[1])


def test_tables_that_are_no_embedding_of_tokens_are_rounded_to_nearest(tmp_path: Path, learner: Learner) -> None:
    source = write_source(tmp_path / "m", "opt", num_hidden_layers=1)
    model, stored = round_model(source, tmp_path / "s")
    positions = "model.decoder.embed_positions.weight"
    assert positions not in learner.asked[0]["names"]
    weight = dict(load_model(source).named_parameters())[positions].detach()
    np.testing.assert_array_equal(stored[positions].scales, round_to_nearest(weight, 4, 32, True).scales.numpy())
    check_model_is_what_is_stored(model, stored)


def test_without_projections_it_is_not_asked(tmp_path: Path, learner: Learner) -> None:
    source = write_source(tmp_path / "m", num_hidden_layers=1)
    _, stored = round_model(source, tmp_path / "s", leave_out=("*proj*",))
    assert set(stored) == {EMBEDDING}
    assert learner.asked == []


def test_what_is_left_out_is_not_asked_for(tmp_path: Path, learner: Learner) -> None:
    source = write_source(tmp_path / "m", num_hidden_layers=1)
    model, stored = round_model(source, tmp_path / "s", leave_out=("*embed*", "*up_proj*"))
    assert set(stored) == set(learner.asked[0]["names"])
    assert not any("up_proj" in name or "embed" in name for name in stored)
    before = load_model(source).state_dict()
    for name in (EMBEDDING, "model.layers.0.mlp.up_proj.weight"):
        assert torch.equal(model.state_dict()[name], before[name])


@pytest.mark.parametrize(("tied", "head"), [(True, EMBEDDING), (False, "lm_head.weight")])
def test_the_head_has_the_embeddings_name_where_they_are_tied(tied: bool, head: str) -> None:
    assert embedding_and_head(tiny_model("llama", tied, num_hidden_layers=1)) == (EMBEDDING, head)


def test_a_model_without_a_head_names_none() -> None:
    model = tiny_model("bert", num_hidden_layers=1, architectures=["BertModel"])
    assert embedding_and_head(model) == ("embeddings.word_embeddings.weight", "")
