"""Learning rate and number format where the recipe leaves them open."""

from __future__ import annotations

import pytest
import torch

from compress.models.folder import load_model
from compress.train.options import TrainOptions
from compress.train.stage import run
from compress.training import defaults
from compress.training.defaults import kind_of, resolve_precision, resolved
from compress.training.windows import load_examples
from tests.training.tiny_fit import LENGTH, context, write_model

OPTIONS = TrainOptions(tokens=60 * 4 * LENGTH, length=LENGTH, batch=4, checkpoints=0, learning_rate=1e-2)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("models") / "source")


def test_a_model_that_guesses_is_fresh_and_one_that_learned_is_trained(source, tmp_path):
    ctx = context(tmp_path, source)
    examples = load_examples(ctx, OPTIONS)
    fresh = load_model(source)
    assert kind_of(fresh, examples, source) == "fresh"
    assert not fresh.training
    run(OPTIONS, ctx)
    trained = load_model(ctx.target)
    assert kind_of(trained, examples, ctx.target) == "trained"
    open_rate = OPTIONS.model_copy(update={"learning_rate": None})
    rates = {
        (optimizer, kind): resolved(
            open_rate.model_copy(update={"optimizer": optimizer}), model, examples, source
        ).learning_rate
        for optimizer in ("muon", "adamw")
        for kind, model in (("fresh", fresh), ("trained", trained))
    }
    assert all(rates[name, "fresh"] > rates[name, "trained"] for name in ("muon", "adamw"))
    assert resolved(OPTIONS, fresh, examples, source).learning_rate == 1e-2
    assert resolved(OPTIONS, fresh, examples, source).optimizer == "muon"


def test_a_quantized_model_goes_by_adamw(source, tmp_path, monkeypatch):
    monkeypatch.setattr(defaults, "is_rounded", lambda _: True)
    monkeypatch.setattr(defaults, "typical_step", lambda _: 0.5)
    examples = load_examples(context(tmp_path, source), OPTIONS)
    found = resolved(OPTIONS.model_copy(update={"learning_rate": None}), load_model(source), examples, source)
    assert (found.optimizer, found.learning_rate) == ("adamw", 2.5e-3 * 0.5)
    assert (
        resolved(OPTIONS.model_copy(update={"optimizer": "muon"}), load_model(source), examples, source).optimizer
        == "muon"
    )


def test_what_was_cut_from_a_model_is_trained_however_little_is_left(source, tmp_path):
    ctx = context(tmp_path, source)
    examples = load_examples(ctx, OPTIONS)
    cut = tmp_path / "cut"
    cut.mkdir()
    assert kind_of(load_model(source), examples, cut) == "fresh"
    (cut / "vocabulary_map.json").write_text("{}")
    assert kind_of(load_model(source), examples, cut) == "trained"


@pytest.mark.parametrize(
    ("parameters", "avx512", "amx", "expected"),
    [
        (defaults._BF16_PARAMETERS, True, False, "bf16"),
        (defaults._BF16_PARAMETERS, False, True, "bf16"),
        (defaults._BF16_PARAMETERS, False, False, "fp32"),
        (defaults._BF16_PARAMETERS - 1, True, True, "fp32"),
    ],
)
def test_bf16_is_for_cpus_that_multiply_it_and_models_that_gain_from_it(monkeypatch, parameters, avx512, amx, expected):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    model = torch.nn.Linear(parameters, 1, bias=False, device="meta")
    assert resolve_precision(OPTIONS, model, "cpu") == expected
    assert resolve_precision(OPTIONS.model_copy(update={"precision": "fp32"}), model, "cpu") == "fp32"
    assert resolve_precision(OPTIONS.model_copy(update={"precision": "bf16"}), model, "cpu") == "bf16"
