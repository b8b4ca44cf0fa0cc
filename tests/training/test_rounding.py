"""A quantized folder is trained through its rounding: what is trained is what ships, and untrained nothing changes."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from compress.artifact import list_files, sha256_of
from compress.contract import Context
from compress.errors import StageError
from compress.models import quantized
from compress.models.folder import load_model, save_model
from compress.models.quantized import QuantizedFile, dequantize
from compress.quantize.options import QuantizeOptions
from compress.quantize.stage import run
from compress.training.rounding import (
    is_grid_parameter,
    is_rounded,
    measure_inputs,
    open_student,
    rounded_weights,
    typical_step,
    write_student,
)
from tests.references.tiny_families import tiny_model

IDS = torch.arange(24).reshape(2, 12) % 60


@pytest.fixture(scope="module")
def tied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tied")
    save_model(tiny_model("llama", dtype=torch.float32), folder, folder)
    return folder


def quantize(source: Path, target: Path, **options: Any) -> Path:
    """Quantize; the width 48 of the feed-forward layer makes short last blocks of 32."""
    target.mkdir(parents=True, exist_ok=True)
    run(QuantizeOptions(**{"bits": 4, **options}), Context(source, target, target, 0))
    return target


@pytest.fixture(scope="module")
def int4(tied: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return quantize(tied, tmp_path_factory.mktemp("int4"), symmetric=False)


def write(model: Any, source: Path, target: Path) -> Path:
    target.mkdir()
    write_student(model, target, source)
    return target


def train(model: Any, steps: int = 4, rate: float = 3e-3) -> None:
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate)
    for _ in range(steps):
        optimizer.zero_grad()
        model(input_ids=IDS, labels=IDS).loss.backward()
        optimizer.step()
    model.eval()


def weight_at(model: nn.Module, name: str) -> torch.Tensor:
    module, _, attribute = name.rpartition(".")
    found: torch.Tensor = getattr(model.get_submodule(module), attribute)
    return found.detach()


def hashes(folder: Path) -> dict[str, str]:
    return {str(name): sha256_of(folder / name) for name in list_files(folder)}


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [4, 8])
def test_untrained_the_folder_comes_out_as_it_was(tied: Path, tmp_path: Path, bits: int, symmetric: bool) -> None:
    source = quantize(tied, tmp_path / "source", bits=bits, symmetric=symmetric, leave_out=("*.layers.0.*.q_proj*",))
    for number, origin in enumerate((None, tied, source)):
        model = open_student(source, learn_zero_points=True, origin=origin)
        measure_inputs(model, IDS)
        assert hashes(write(model, source, tmp_path / str(number))) == hashes(source)


@pytest.mark.parametrize(("bits", "symmetric"), [(4, True), (4, False), (8, True)])
def test_what_is_trained_is_what_is_written(tied: Path, tmp_path: Path, bits: int, symmetric: bool) -> None:
    source = quantize(tied, tmp_path / "source", bits=bits, symmetric=symmetric)
    model = open_student(source, learn_zero_points=True)
    measure_inputs(model, IDS)
    train(model)
    target = write(model, source, tmp_path / "target")
    shipped = load_model(target)
    before = dict(load_model(source).named_parameters())
    with QuantizedFile(target) as file, QuantizedFile(source) as old, torch.no_grad():
        assert file.schemes == old.schemes
        for name, parameter in shipped.named_parameters():
            assert torch.equal(parameter, weight_at(model, name))
            assert not torch.equal(parameter, before[name])
            if parameter.ndim == 2:
                np.testing.assert_array_equal(parameter.numpy(), dequantize(file.read(name)))
                assert not np.array_equal(file.read(name).codes, old.read(name).codes)
                assert not np.array_equal(file.read(name).scales, old.read(name).scales)
        assert torch.equal(shipped(input_ids=IDS).logits, model(input_ids=IDS).logits)


def test_symmetric_grids_with_a_negative_scale_keep_their_sign(tied: Path, tmp_path: Path) -> None:
    source = quantize(tied, tmp_path / "source")
    model = open_student(source)
    train(model, rate=0.03)
    with QuantizedFile(source) as old, QuantizedFile(write(model, source, tmp_path / "target")) as new:
        signs = [(np.sign(old.read(name).scales), np.sign(new.read(name).scales)) for name in old.schemes.weights]
    assert any((before < 0).any() for before, _ in signs)
    assert all((before == after).all() for before, after in signs)


def test_zero_points_move_only_where_they_are_learned(int4: Path, tmp_path: Path) -> None:
    changed = {}
    for learned in (False, True):
        model = open_student(int4, learn_zero_points=learned)
        train(model, steps=8, rate=0.03)
        assert any(name.endswith("zero_changes") for name, _ in model.named_parameters()) == learned
        with QuantizedFile(int4) as old, QuantizedFile(write(model, int4, tmp_path / str(learned))) as new:
            names = old.schemes.weights
            changed[learned] = sum((old.read(name).zero_points != new.read(name).zero_points).sum() for name in names)
    assert changed[False] == 0
    assert changed[True] > 10


def test_a_tied_embedding_is_one_weight_rounded_once_a_pass(int4: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from compress.training import rounding

    calls: list[tuple[int, ...]] = []
    real = rounding.round_to_grid

    def counted(latent: torch.Tensor, *more: Any) -> torch.Tensor:
        calls.append(tuple(latent.shape))
        return real(latent, *more)

    monkeypatch.setattr(rounding, "round_to_grid", counted)
    model = open_student(int4).train()
    names = [name for name, _, _ in rounded_weights(model)]
    assert len(names) == len(set(names)) == 4 * 7 + 1
    assert model.lm_head.weight is model.model.embed_tokens.weight
    calls.clear()
    model(input_ids=IDS, labels=IDS).loss.backward()
    assert calls.count((64, 32)) == 1
    model(input_ids=IDS, labels=IDS).loss.backward()  # accumulated: the graph of the pass before is gone
    assert calls.count((64, 32)) == 2
    embedding = model.model.embed_tokens.parametrizations.weight
    assert embedding is model.lm_head.parametrizations.weight
    assert bool(embedding.original.grad.any())
    assert bool(embedding[0].scale_changes.grad.any())


def test_an_untied_head_has_a_rounding_of_its_own(tmp_path: Path) -> None:
    folder = tmp_path / "untied"
    folder.mkdir()
    save_model(tiny_model("llama", dtype=torch.float32, tie_word_embeddings=False), folder, folder)
    source = quantize(folder, tmp_path / "source")
    model = open_student(source)
    assert model.lm_head.parametrizations.weight is not model.model.embed_tokens.parametrizations.weight
    train(model)
    shipped = load_model(write(model, source, tmp_path / "target"))
    assert torch.equal(shipped.lm_head.weight, weight_at(model, "lm_head.weight"))
    assert not torch.equal(shipped.lm_head.weight, shipped.model.embed_tokens.weight)


def test_a_changed_weight_is_seen_without_a_pass(int4: Path) -> None:
    model = open_student(int4)
    before = model.lm_head.weight
    assert model.lm_head.weight is before
    with torch.no_grad():
        model.lm_head.parametrizations.weight.original.add_(0.1)
    assert not torch.equal(model.lm_head.weight, before)


def test_latent_weights_start_from_the_origin_and_round_to_its_codes(tied: Path, int4: Path) -> None:
    floats = dict(load_model(tied).named_parameters())
    known, plain = open_student(int4, origin=tied), open_student(int4)
    for (name, rounding, latent), (_, _, rounded) in zip(rounded_weights(known), rounded_weights(plain), strict=True):
        step = rounding.start_scales.abs().max()
        assert bool(((latent - floats[name]).abs() <= 0.0011 * step + 1e-6).float().mean() > 0.9)
        assert torch.equal(rounded, weight_at(known, name))
        assert not torch.equal(latent, rounded)


def test_codes_that_another_method_chose_stay_beside_an_origin(tied: Path, int4: Path, tmp_path: Path) -> None:
    """GPTQ and its like do not choose the code nearest to the float weight."""
    random = np.random.default_rng(0)
    with QuantizedFile(int4) as file:
        stored = {name: file.read(name) for name in file.schemes.weights}
    for name, entry in stored.items():
        codes = quantized.unpack(entry.codes, 4, 32).astype(np.int64) + random.integers(-1, 2, (1, 1, 32))
        zeros = quantized.unpack(entry.zero_points, 4, entry.scheme.groups)
        stored[name] = quantized.store(entry.scheme, codes.clip(0, 15).astype(np.uint8), entry.scales, zeros)
    model = load_model(int4)
    with torch.no_grad():
        for name, entry in stored.items():
            model.get_parameter(name).copy_(torch.from_numpy(dequantize(entry)))
    save_model(model, tmp_path, int4)
    quantized.write(tmp_path, stored)
    opened = open_student(tmp_path, origin=tied)
    for name, rounding, latent in rounded_weights(opened):
        width = rounding.scheme.shape[1]
        found, wanted = (quantized.unpack(one.codes, 4, 32) for one in (rounding.to_stored(latent), stored[name]))
        np.testing.assert_array_equal(
            found.reshape(len(found), -1)[:, :width], wanted.reshape(len(found), -1)[:, :width]
        )


def test_an_origin_that_is_another_model_is_refused(int4: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    save_model(tiny_model("llama", dtype=torch.float32, intermediate_size=40), other, other)
    said = r"other: model\.layers\.0\.mlp\.\w+\.weight is \(.*\) there and \(.*\) in the quantized model; the model that it"
    with pytest.raises(StageError, match=said):
        open_student(int4, origin=other)


def test_float_folders_open_and_are_written_as_they_are(tied: Path, tmp_path: Path) -> None:
    model = open_student(tied, learn_zero_points=True, origin=tied)
    assert not is_rounded(model)
    assert not list(rounded_weights(model))
    target = write(model, tied, tmp_path / "target")
    assert not quantized.is_quantized(target)
    assert sha256_of(target / "model.safetensors") == sha256_of(tied / "model.safetensors")
    with pytest.raises(ValueError, match="no quantized weights"):
        typical_step(model)


def test_parameters_of_the_grid_are_known_by_name_and_the_step_is_the_median_scale(int4: Path) -> None:
    model = open_student(int4, learn_zero_points=True)
    assert is_rounded(model)
    names = [name for name, _ in model.named_parameters()]
    grid = [name for name in names if is_grid_parameter(name)]
    assert len(grid) == 2 * 29
    assert len([name for name in names if name.endswith(".original")]) == 29
    assert not is_grid_parameter("model.scale_changes")
    with QuantizedFile(int4) as file:
        scales = np.concatenate([np.abs(file.read(name).scales).ravel() for name in file.schemes.weights])
    assert typical_step(model) == pytest.approx(float(np.median(scales)), rel=0.01)


def test_two_trainings_write_the_same_bytes_and_a_resume_goes_on_where_it_was(int4: Path, tmp_path: Path) -> None:
    straight, again, first = (open_student(int4, learn_zero_points=True) for _ in range(3))
    for model in (straight, again, first):
        measure_inputs(model, IDS)
    for model in (straight, again):
        train_plainly(model, 4)
    train_plainly(first, 2)
    state = copy.deepcopy({name: value.detach() for name, value in first.state_dict().items()})
    resumed = open_student(int4, learn_zero_points=True)
    resumed.load_state_dict(state, strict=False)
    train_plainly(resumed, 2)
    written = [
        hashes(write(model, int4, tmp_path / name)) for model, name in ((straight, "a"), (again, "b"), (resumed, "c"))
    ]
    assert written[0] == written[1] == written[2]
    assert written[0] != hashes(int4)


def train_plainly(model: Any, steps: int) -> None:
    """Take steps that need no state of an optimizer."""
    model.train()
    for _ in range(steps):
        model.zero_grad()
        model(input_ids=IDS, labels=IDS).loss.backward()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.sub_(parameter.grad.sign() * 1e-3)
    model.eval()


def test_bf16_trains_the_same_rounded_weights(int4: Path) -> None:
    model = open_student(int4).train()
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(input_ids=IDS, labels=IDS).loss
        assert model.lm_head.weight.dtype == torch.float32
    loss.backward()
    assert all(bool(parameter.grad.isfinite().all()) for parameter in model.parameters())
    assert re.search("Parametrized", type(model.lm_head).__name__)


def test_the_size_of_an_input_is_the_root_of_its_mean_square_over_the_geometric_mean(int4: Path) -> None:
    model, plain = open_student(int4), load_model(int4)
    measure_inputs(model, IDS)
    states = plain(input_ids=IDS, output_hidden_states=True).hidden_states
    layer = plain.model.layers[1]
    inputs = {"lm_head": states[-1], "model.layers.1.self_attn.k_proj": layer.input_layernorm(states[1])}
    for name, found in inputs.items():
        squares = found.detach().double().numpy().reshape(-1, 32) ** 2
        size = np.sqrt(squares.mean(0))
        rounding = model.get_submodule(name).parametrizations.weight[0]
        np.testing.assert_allclose(rounding.input_sizes.numpy(), size / np.exp(np.log(size).mean()), rtol=1e-4)
    sizes = [rounding.input_sizes for _, rounding, _ in rounded_weights(model)]
    assert all(float(size.log().mean().abs()) < 1e-5 for size in sizes)
    assert all(float(size.std()) > 0.01 for size in sizes)


def test_measured_twice_is_measured_once_and_a_gradient_is_divided_by_the_size(int4: Path) -> None:
    plain, model = open_student(int4), open_student(int4)
    for _ in range(2):
        measure_inputs(model, IDS)
    for one in (plain, model):
        one(input_ids=IDS, labels=IDS).loss.backward()
    pairs = zip(rounded_weights(plain), rounded_weights(model), strict=True)
    for (name, _, latent), (_, rounding, learned) in pairs:
        assert torch.equal(weight_at(plain, name), weight_at(model, name))
        torch.testing.assert_close(learned.detach() / rounding.input_sizes, latent.detach())
        torch.testing.assert_close(learned.grad * rounding.input_sizes, latent.grad)


def test_an_input_that_is_never_there_has_a_size_and_a_float_model_is_left_alone(tied: Path, int4: Path) -> None:
    model = open_student(int4)
    model.model.layers[0].input_layernorm.weight.data[:] = torch.tensor([0.0, *[1.0] * 31])
    measure_inputs(model, IDS)
    size = model.model.layers[0].self_attn.q_proj.parametrizations.weight[0].input_sizes
    assert float(size[0] / size.max()) == pytest.approx(1e-3, rel=1e-4)
    floats, before = load_model(tied), load_model(tied)
    measure_inputs(floats, IDS)
    assert all(torch.equal(a, b) for a, b in zip(floats.parameters(), before.parameters(), strict=True))
