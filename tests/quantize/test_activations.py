"""Stages that scale channels, and 8-bit inputs: folders, `scaled`, ranges, and what does not go together."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from transformers import StableLmConfig, StableLmForCausalLM

from compress.artifact import list_files, sha256_of
from compress.contract import Context, Outcome
from compress.errors import StageError
from compress.models.folder import load_model, save_model
from compress.models.layers import hooked
from compress.models.quantized import QuantizedFile, dequantize, read_schemes
from compress.models.rounded_inputs import round_inputs
from compress.quantize.options import QuantizeOptions
from compress.quantize.stage import run
from tests.prune.tiny_stage import Text, write_source

FEW = {"windows": 4, "length": 16}


@pytest.fixture(scope="module")
def tied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_source(tmp_path_factory.mktemp("tied"), num_hidden_layers=1)


@pytest.fixture(scope="module")
def untied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_source(tmp_path_factory.mktemp("untied"), tied=False, num_hidden_layers=1)


def quantize(source: Path, target: Path, data: Any = None, **options: Any) -> Outcome:
    scratch = target.with_name(f"{target.name}.scratch")
    for folder in (target, scratch):
        folder.mkdir(exist_ok=True)
    settings = QuantizeOptions.model_validate({"bits": 8, **options})
    if settings.reads_text:
        settings = QuantizeOptions.model_validate({"bits": 8, "calibration": FEW, **options})
        data = data or Text()
    return run(settings, Context(source, target, scratch, 0, data=data))


@pytest.fixture
def few_scales(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let AWQ search less."""
    monkeypatch.setattr("compress.quantize.awq._POINTS", 4)


def windows(folder: Path) -> torch.Tensor:
    return torch.from_numpy(Text()("calibration", folder).windows(16, 4)[0].copy())


def kl(before: Any, after: Any, folder: Path) -> float:
    with torch.no_grad():
        truth, said = (model(input_ids=windows(folder)).logits.double().log_softmax(-1) for model in (before, after))
    return float((truth.exp() * (truth - said)).sum(-1).mean())


CASES: list[tuple[dict[str, Any], bool]] = [
    ({"bits": 4, "method": "awq"}, True),
    ({"activations": "dynamic"}, True),
    ({"activations": "dynamic", "smooth": False}, False),
    ({"activations": "static"}, True),
    ({"activations": "static", "smooth": False, "method": "gptq"}, False),
    ({"bits": 4, "smooth": True}, True),
    ({"bits": 4, "weights": {"*mlp*": {"activations": "dynamic"}}}, True),
]


@pytest.mark.parametrize(("options", "scaled"), CASES)
def test_the_folder_holds_the_dequantized_codes_and_says_whether_channels_were_scaled(
    untied: Path, tmp_path: Path, options: dict[str, Any], scaled: bool
) -> None:
    outcome = quantize(untied, tmp_path / "q", **options)
    found = read_schemes(tmp_path / "q")
    assert found.scaled == scaled == ("relative_squared_error" not in outcome.facts)
    before, after = load_model(untied), load_model(tmp_path / "q")
    with QuantizedFile(tmp_path / "q") as file:
        for name, weight in after.named_parameters():
            if weight.ndim == 2:
                np.testing.assert_array_equal(weight.detach().numpy(), dequantize(file.read(name)))
    norms = "model.layers.0.input_layernorm.weight"
    assert torch.equal(before.get_parameter(norms), after.get_parameter(norms)) == (not scaled or "weights" in options)
    assert 0 < kl(before, after, untied) < (0.3 if options.get("bits") == 4 else 0.01)


def test_the_table_of_an_untied_model_has_no_rounded_inputs(untied: Path, tmp_path: Path) -> None:
    quantize(untied, tmp_path / "q", activations="dynamic", smooth=False)
    found = read_schemes(tmp_path / "q").weights
    assert (found["model.embed_tokens.weight"].activations, found["model.embed_tokens.weight"].block) == ("none", 32)
    others = {scheme for name, scheme in found.items() if "embed_tokens" not in name}
    assert {(scheme.bits, scheme.symmetric, scheme.activations) for scheme in others} == {(8, True, "dynamic")}
    assert all(scheme.block == scheme.shape[1] for scheme in others)


def test_a_tied_embedding_is_the_head_and_its_range_that_of_the_heads_inputs(tied: Path, tmp_path: Path) -> None:
    quantize(tied, tmp_path / "q", activations="static")
    with QuantizedFile(tmp_path / "q") as file:
        entry = file.read("model.embed_tokens.weight")
        assert "lm_head.weight" not in file.schemes.weights
    assert entry.scheme.activations == "static"
    with torch.no_grad():
        hidden = load_model(tied).model(input_ids=windows(tied)).last_hidden_state
    # what the head reads is not scaled: it has the embedding's weight
    assert entry.input_range == pytest.approx((float(hidden.min()), float(hidden.max())), rel=1e-3)


@pytest.mark.parametrize("smooth", [True, False])
def test_ranges_hold_the_inputs_of_the_model_as_it_is_rounded(untied: Path, tmp_path: Path, smooth: bool) -> None:
    """Of the float model with the same channel scales: those of the rounded one are a little beside."""
    quantize(untied, tmp_path / "q", activations="static", smooth=smooth)
    model = load_model(tmp_path / "q")
    with QuantizedFile(tmp_path / "q") as file:
        spans = {name: file.read(name).input_range for name in file.schemes.weights}
    assert [name for name, span in spans.items() if span is None] == ["model.embed_tokens.weight"]
    extremes: dict[str, tuple[float, float]] = {}

    def note(name: str) -> Any:
        def see(_: Any, args: tuple[torch.Tensor, ...]) -> None:
            extremes[f"{name}.weight"] = float(args[0].min()), float(args[0].max())

        return see

    linears = [(name, module) for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
    with hooked(module.register_forward_pre_hook(note(name)) for name, module in linears), torch.no_grad():
        model(input_ids=windows(untied))
    assert len(extremes) == 8
    for name, found in extremes.items():
        span = spans[name]
        assert span is not None
        width = span[1] - span[0]
        assert found == pytest.approx((min(span[0], found[0]), max(span[1], found[1])), abs=0.05 * width)
        assert span == pytest.approx(found, abs=0.05 * width) or 0.0 in span


def test_smoothing_loses_less_where_a_channel_sticks_out(tmp_path: Path) -> None:
    source = write_source(tmp_path / "m", tied=False, num_hidden_layers=1)
    model = load_model(source)
    with torch.no_grad():
        layer = model.model.layers[0]
        layer.input_layernorm.weight[3] *= 100
        for part in (layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj):
            part.weight[:, 3] /= 100
    save_model(model, source, source)
    lost = {}
    for smooth in (True, False):
        folder = tmp_path / str(smooth)
        quantize(source, folder, activations="dynamic", smooth=smooth)
        after = load_model(folder)
        with round_inputs(after, folder):
            lost[smooth] = kl(model, after, source)
    assert 0 < lost[True] < 0.5 * lost[False]


def test_plain_dynamic_activations_need_no_text(untied: Path, tmp_path: Path) -> None:
    quantize(untied, tmp_path / "q", activations="dynamic", smooth=False)
    assert not read_schemes(tmp_path / "q").scaled
    said = "quantize: needs calibration text; give the recipe data.calibration or data.train"
    settings = QuantizeOptions.model_validate({"bits": 8, "activations": "dynamic", "calibration": FEW})
    with pytest.raises(StageError, match=f"^{re.escape(said)}$"):
        run(settings, Context(untied, tmp_path / "n", tmp_path / "s", 0))


@pytest.mark.parametrize("options", [{"bits": 4, "method": "awq"}, {"activations": "static"}])
@pytest.mark.usefixtures("few_scales")
def test_two_runs_write_the_same_bytes(tied: Path, tmp_path: Path, options: dict[str, Any]) -> None:
    for name in "ab":
        quantize(tied, tmp_path / name, **options)
    names = list_files(tmp_path / "a")
    assert names == list_files(tmp_path / "b")
    assert all(sha256_of(tmp_path / "a" / name) == sha256_of(tmp_path / "b" / name) for name in names)


class StopError(Exception):
    pass


@pytest.mark.usefixtures("few_scales")
def test_a_stopped_awq_goes_on_with_the_scales_that_it_folded(tmp_path: Path) -> None:
    source = write_source(tmp_path / "m", num_hidden_layers=2)
    options = {"bits": 4, "method": "awq", "calibration": FEW}
    settings = QuantizeOptions.model_validate(options)

    def stop(done: float, _total: float, unit: str = "", _note: str = "") -> None:
        if unit == "layers" and done == 1:
            raise StopError

    (tmp_path / "again").mkdir()
    with pytest.raises(StopError):
        run(settings, Context(source, tmp_path / "again", tmp_path / "again.scratch", 0, data=Text(), progress=stop))
    for name in ("again", "straight"):
        quantize(source, tmp_path / name, **options)
    names = list_files(tmp_path / "straight")
    assert names == list_files(tmp_path / "again")
    assert all(sha256_of(tmp_path / "again" / name) == sha256_of(tmp_path / "straight" / name) for name in names)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bits": 4, "activations": "dynamic"}, "activations dynamic need bits: 8, got 4"),
        (
            {"size_mb": 2, "activations": "static"},
            "activations static need bits: 8, so that there is no choice by weight; use one of both",
        ),
        (
            {"bits": {"budget": 5}, "activations": "dynamic"},
            "activations dynamic need bits: 8, so that there is no choice by weight; use one of both",
        ),
        (
            {"bits": 8, "activations": "dynamic", "symmetric": False},
            "activations dynamic go with weights without zero points; leave symmetric out",
        ),
        (
            {"bits": 8, "activations": "static", "block": 32},
            "activations static go with one scale for each output channel; leave block out",
        ),
        (
            {"bits": 8, "activations": "dynamic", "method": "autoround"},
            "method autoround learns weights alone, not with activations dynamic; use gptq or rtn",
        ),
        (
            {"bits": 8, "activations": "static", "method": "awq"},
            "method awq scales channels for weights alone, not with activations static; use gptq or rtn",
        ),
        (
            {"bits": 4, "method": "autoround", "weights": {"*q_proj*": {"activations": "static"}}},
            "method autoround learns weights alone, not with activations static; use gptq or rtn",
        ),
        (
            {"bits": 4, "method": "autoround", "smooth": True},
            "method autoround reads the model as it is, not smoothed; use gptq or rtn, or leave smooth out",
        ),
        (
            {"bits": 8, "activations": "dynamic", "smooth": False, "calibration": {"windows": 2}},
            "calibration: nothing here reads text; leave it out, or use method: gptq",
        ),
        (
            {"bits": 8, "weights": {"*": {"activations": "dynamic", "bits": 4}}},
            "activations dynamic need bits: 8, got 4",
        ),
        (
            {"bits": 8, "weights": {"*": {"activations": "static", "block": 16}}},
            "activations static go with one scale for each output channel and no zero points; leave block and symmetric out",
        ),
        (
            {"bits": 8, "weights": {"*": {"activations": "static", "symmetric": False}}},
            "activations static go with one scale for each output channel and no zero points; leave block and symmetric out",
        ),
        ({"bits": 8, "weights": {"*": {}}}, "needs at least one of bits, block, symmetric, activations"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        QuantizeOptions.model_validate(options)
    (one,) = caught.value.errors()
    assert str(one["msg"]).removeprefix("Value error, ") == message


@pytest.mark.parametrize(
    ("own", "found"),
    [({"bits": 4}, "bits: 4"), ({"block": 32}, "block: 32"), ({"symmetric": False}, "symmetric: false")],
)
def test_a_grid_of_its_own_beside_rounded_inputs_is_refused_and_not_passed_over(
    tied: Path, tmp_path: Path, own: dict[str, Any], found: str
) -> None:
    name = "model.layers.0.self_attn.k_proj.weight"
    words = f"quantize.weights: {found} for {name} does not go with activations: dynamic; add activations: none there"
    with pytest.raises(StageError, match=f"^{re.escape(f'{tied}: {words}')}$"):
        quantize(tied, tmp_path / "a", activations="dynamic", weights={"*k_proj*": own})
    quantize(tied, tmp_path / "b", activations="dynamic", weights={"*k_proj*": {**own, "activations": "none"}})
    scheme = read_schemes(tmp_path / "b").weights[name]
    assert (scheme.activations, scheme.bits, scheme.symmetric) == ("none", own.get("bits", 8), "symmetric" not in own)


def test_models_whose_layers_are_not_known_are_refused_where_they_would_be_smoothed(tmp_path: Path) -> None:
    config = StableLmConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        tie_word_embeddings=False,
    )
    source = tmp_path / "m"
    source.mkdir()
    save_model(StableLmForCausalLM(config), source, source)
    words = f"{source}: smooth does not know the layers of 'stablelm' models; use smooth: false"
    for options in ({"activations": "static"}, {"smooth": True}):
        with pytest.raises(StageError, match=f"^{re.escape(words)}$"):
            quantize(source, tmp_path / "a", **options)
    quantize(source, tmp_path / "b", activations="static", smooth=False)
    found = read_schemes(tmp_path / "b").weights
    assert {name for name, scheme in found.items() if scheme.activations == "none"} == {"model.embed_tokens.weight"}
