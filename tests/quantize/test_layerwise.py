from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from compress.contract import silent
from compress.errors import StageError
from compress.models.families import family_of, parameters_of
from compress.models.family import Family
from compress.models.grid import in_blocks, min_max_grid, round_to_codes
from compress.models.layers import hooked, layers_of, stream_in, stream_out
from compress.models.quantized import QuantizedWeight, dequantize, store
from compress.models.scheme import Scheme
from compress.quantize.finished import Finished
from compress.quantize.gptq import gptq
from compress.quantize.layerwise import Layerwise, Method, Round, Target
from compress.quantize.targets import RIDGE
from tests.references import gptq as reference
from tests.references.tiny_families import CONFIGS, DECODERS, tiny_model

# GPT-2 keeps its weights the other way round, and is refused.
FAMILIES = [name for name in CONFIGS if name != "gpt2"]
CAUSAL = [name for name in DECODERS if name != "gpt2"]
# Two batches of eight, and one that is left over.
IDS = torch.randint(3, 64, (17, 10), generator=torch.Generator().manual_seed(5))
USED = IDS[:16]
FEW = IDS[:9]


def make(name: str, tied: bool = True, **changes: Any) -> Any:
    return tiny_model(name, tied, torch.float32, **changes)


def make_short(name: str, tied: bool = True) -> Any:
    """Return a model of two layers, one of each kind."""
    key = {"gpt_neo": "num_layers", "distilbert": "n_layers"}.get(name, "num_hidden_layers")
    kinds = {"layer_types": ["sliding_attention", "full_attention"]} if name in ("qwen2", "gemma3_text") else {}
    patterns = {"attention_types": [[["global", "local"], 1]]} if name == "gpt_neo" else {}
    return make(name, tied, **{key: 2}, **kinds, **patterns)


def plain(_name: str, weight: Tensor, _moments: Tensor, bits: int = 4) -> QuantizedWeight:
    """Round to the grid of every block's range: quick, and coarse."""
    blocks = in_blocks(weight, 16)
    grid = min_max_grid(blocks, bits)
    codes = round_to_codes(blocks, grid).to(torch.uint8)
    scheme = Scheme(bits, 16, False, (weight.shape[0], weight.shape[1]))
    return store(scheme, codes.numpy(), grid.scales.numpy(), grid.zeros.to(torch.uint8).numpy())


def by_gptq(_name: str, weight: Tensor, moments: Tensor) -> QuantizedWeight:
    rounded = gptq(weight, moments, (4, 16, False))
    scheme = Scheme(4, 16, False, (weight.shape[0], weight.shape[1]))
    return store(scheme, rounded.codes.numpy(), rounded.scales.numpy(), rounded.zeros.numpy())


def rounded_layers(
    model: Any, folder: Path, round_one: Round, target: Target = "stream", ids: Tensor = FEW
) -> Layerwise:
    work = Layerwise(model, ids, Method(round_one, target))
    work.run(Finished(folder), silent)
    return work


@dataclass
class Seen:
    """What modules were given, and what they gave, by name, token by token."""

    given: dict[str, Tensor] = field(default_factory=dict)
    gave: dict[str, Tensor] = field(default_factory=dict)


def see(model: Any, ids: Tensor = FEW[:8]) -> Seen:
    """Run the whole model."""
    seen = Seen()

    def note(name: str) -> Callable[..., None]:
        def hook(_module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            seen.given[name] = stream_in(args, kwargs).flatten(0, -2)
            seen.gave[name] = stream_out(output).flatten(0, -2)

        return hook

    layers = set(layers_of(model, family_of(model.config.to_dict())))
    wanted = [
        (name, module) for name, module in model.named_modules() if module in layers or hasattr(module, "in_features")
    ]
    with hooked(m.register_forward_hook(note(name), with_kwargs=True) for name, m in wanted), torch.no_grad():
        model(input_ids=ids)
    return seen


def matrices(model: Any) -> list[str]:
    return [row.name for row in parameters_of(model.config.to_dict()) if row.layer is not None and len(row.axes) == 2]


def final_error(rounded: Any, truth: Any) -> float:
    """Return the squared error of what leaves the last layer."""
    last = matrices(truth)[-1].partition(".1.")[0] + ".1"
    return float((see(rounded).gave[last] - see(truth).gave[last]).double().square().sum())


@dataclass
class Done:
    """A model whose layers stand in 8 bits, what it was, and what the rounding of each weight was given."""

    name: str
    model: Any = None
    truth: Any = None
    stored: Mapping[str, QuantizedWeight] = field(default_factory=dict)
    aims: dict[str, Tensor] = field(default_factory=dict)
    moments: dict[str, Tensor] = field(default_factory=dict)

    def note(self, name: str, weight: Tensor, moments: Tensor) -> QuantizedWeight:
        self.aims[name], self.moments[name] = weight.clone(), moments
        return plain(name, weight, moments, 8)


@pytest.fixture(scope="module", params=FAMILIES)
def done(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Done:
    found = Done(request.param, make(request.param), make(request.param))
    found.stored = rounded_layers(found.model, tmp_path_factory.mktemp("done"), found.note, ids=IDS).stored
    return found


def test_every_matrix_of_the_layers_is_rounded_and_nothing_else_is_touched(done: Done) -> None:
    assert set(done.stored) == set(matrices(done.model))
    before = dict(done.truth.named_parameters())
    for name, weight in done.model.named_parameters():
        expected = dequantize(done.stored[name]) if name in done.stored else before[name].detach().numpy()
        np.testing.assert_array_equal(weight.detach().numpy(), expected)
    with torch.no_grad():
        said, wanted = done.model(input_ids=USED).logits, done.truth(input_ids=USED).logits
    assert 0 < float((said - wanted).norm() / wanted.norm()) < 0.05


def test_a_weight_is_rounded_for_the_inputs_that_it_has_in_the_end(done: Done) -> None:
    after = see(done.model, USED)
    assert set(done.moments) == set(done.stored)
    for name, moments in done.moments.items():
        inputs = after.given[name.removesuffix(".weight")].double()
        torch.testing.assert_close(moments, inputs.T @ inputs, rtol=1e-4, atol=1e-3)


def test_weights_aim_at_what_the_float_model_has_there(done: Done) -> None:
    truth, rounded, before = see(done.truth, USED), see(done.model, USED), dict(done.truth.named_parameters())
    for name, aim in done.aims.items():
        path = name.removesuffix(".weight")
        wanted = wanted_of(family_of(done.model.config.to_dict()), path, truth, rounded)
        if (bias := before.get(f"{path}.bias")) is not None:
            wanted = wanted - bias.detach()
        weight = before[name].detach().double().numpy()
        expected = reference.moved(weight, rounded.given[path].double().numpy(), wanted.double().numpy(), RIDGE)
        np.testing.assert_allclose(aim.numpy(), expected, rtol=0, atol=1e-4)
        # in the first layer nothing need have been rounded before
        assert ".0." in name or np.abs(expected - weight).max() > 3e-4


def wanted_of(family: Family, path: str, truth: Seen, rounded: Seen) -> Tensor:
    """Return what a projection should give [tokens, N]."""
    start, _, rest = path.rpartition(f"{family.layers}.")
    number, _, inside = rest.partition(".")
    layer = f"{start}{family.layers}.{number}"
    if inside not in (family.attention_out, family.ffn_out) or family.residual == "norm":
        return truth.gave[path]
    if inside == family.attention_out:
        return truth.given[layer] + truth.gave[path] - rounded.given[layer]
    if family.residual == "together":
        entering = f"{layer}.{family.ffn_in[0]}"
        return truth.given[entering] + truth.gave[path] - rounded.given[entering]
    return truth.gave[layer] - (rounded.gave[layer] - rounded.gave[path])


@pytest.mark.parametrize(("name", "round_one"), [*((name, plain) for name in FAMILIES), ("llama", by_gptq)])
def test_the_stream_is_nearer_where_weights_aim_at_it(name: str, round_one: Round, tmp_path: Path) -> None:
    truth, errors = make_short(name), {}
    targets: tuple[Target, Target] = ("stream", "own")
    for target in targets:
        model = make_short(name)
        rounded_layers(model, tmp_path / target, round_one, target)
        errors[target] = final_error(model, truth)
    assert errors["stream"] < errors["own"]


@pytest.mark.parametrize("target", ["stream", "own"])
def test_where_nothing_is_stored_the_model_stays(target: Target, tmp_path: Path) -> None:
    model, before = make("llama"), make("llama").state_dict()
    work = rounded_layers(model, tmp_path, lambda *_: None, target)
    assert work.stored == {}
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())


def test_a_weight_that_is_left_out_stays_and_others_make_its_error_good_no_more(tmp_path: Path) -> None:
    model, before = make("qwen3"), make("qwen3").state_dict()
    aims: dict[str, Tensor] = {}

    def round_one(name: str, weight: Tensor, moments: Tensor) -> QuantizedWeight | None:
        aims[name] = weight.clone()
        return None if ".layers.0." in name or "up_proj" in name else plain(name, weight, moments)

    work = rounded_layers(model, tmp_path, round_one)
    left = [name for name in matrices(model) if ".layers.0." in name or "up_proj" in name]
    assert set(work.stored) == set(matrices(model)) - set(left)
    for name in left:
        assert torch.equal(model.state_dict()[name], before[name])
    # nothing was rounded before these, so that they aim at what they are
    for name in (name for name in aims if ".layers.0." in name):
        torch.testing.assert_close(aims[name], before[name], rtol=0, atol=1e-5)


def test_with_the_own_target_weights_aim_at_themselves(tmp_path: Path) -> None:
    model, before = make("gpt_neox"), make("gpt_neox").state_dict()

    def round_one(name: str, weight: Tensor, moments: Tensor) -> QuantizedWeight:
        assert torch.equal(weight, before[name])
        return plain(name, weight, moments, 2)

    assert set(rounded_layers(model, tmp_path, round_one, "own").stored) == set(matrices(model))


@pytest.mark.parametrize("name", CAUSAL)
def test_a_head_is_rounded_on_what_leaves_the_last_norm(name: str, tmp_path: Path) -> None:
    model, truth = make_short(name, tied=False), make_short(name, tied=False)
    seen: dict[str, tuple[Tensor, Tensor]] = {}

    def round_one(weight_name: str, weight: Tensor, moments: Tensor) -> QuantizedWeight | None:
        seen[weight_name] = (weight.clone(), moments)
        return None if weight_name == "model.layers.1.mlp.down_proj.weight" else plain(weight_name, weight, moments, 2)

    work = rounded_layers(model, tmp_path, round_one)
    work.round_head("lm_head.weight")
    aim, moments = seen["lm_head.weight"]
    inputs, wanted = (each.given["lm_head"].double() for each in (see(model), see(truth)))
    torch.testing.assert_close(moments, inputs.T @ inputs, rtol=1e-4, atol=1e-3)
    weight = truth.lm_head.weight.detach().double()
    expected = reference.moved(weight.numpy(), inputs.numpy(), (wanted @ weight.T).numpy(), RIDGE)
    np.testing.assert_allclose(aim.numpy(), expected, rtol=0, atol=1e-4)
    np.testing.assert_array_equal(model.lm_head.weight.detach().numpy(), dequantize(work.stored["lm_head.weight"]))


def test_a_stopped_run_goes_on_with_the_next_layer_and_gives_the_same(tmp_path: Path) -> None:
    straight = make("gemma3_text")
    expected = rounded_layers(straight, tmp_path / "straight", plain).stored

    class StopError(Exception):
        pass

    def stop(done: float, total: float, unit: str = "", note: str = "") -> None:
        if done == 2:
            raise StopError

    with pytest.raises(StopError):
        Layerwise(make("gemma3_text"), FEW, Method(plain)).run(Finished(tmp_path / "again"), stop)
    half = tmp_path / "again" / "layer-0002.unfinished"
    half.mkdir()
    (half / "quantization.safetensors").write_bytes(b"half of i")
    rounded: list[str] = []
    told: list[tuple[float, float, str]] = []

    def round_one(name: str, weight: Tensor, moments: Tensor) -> QuantizedWeight:
        rounded.append(name)
        return plain(name, weight, moments)

    model = make("gemma3_text")
    work = Layerwise(model, FEW, Method(round_one))
    work.run(Finished(tmp_path / "again"), lambda done, total, unit="", note="": told.append((done, total, unit)))
    assert {name.split(".")[2] for name in rounded} == {"2", "3"}
    assert told == [(1, 4, "layers"), (2, 4, "layers"), (3, 4, "layers"), (4, 4, "layers")]
    assert set(work.stored) == set(expected)
    for name, entry in expected.items():
        np.testing.assert_array_equal(work.stored[name].codes, entry.codes)
        np.testing.assert_array_equal(work.stored[name].scales, entry.scales)
    assert all(torch.equal(weight, model.state_dict()[name]) for name, weight in straight.state_dict().items())


@pytest.mark.parametrize("windows", [1, 7])
def test_few_windows_will_do(windows: int, tmp_path: Path) -> None:
    model = make("llama")
    work = Layerwise(model, IDS[:windows, :1], Method(plain))
    work.run(Finished(tmp_path), silent)
    assert set(work.stored) == set(matrices(model))


def test_inputs_that_are_not_finite_name_the_weight(tmp_path: Path) -> None:
    model = make("llama")
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[0, 0] = float("inf")
    said = "model.layers.1.mlp.down_proj.weight: gets inputs that are not finite; the model or the calibration text is damaged"
    with pytest.raises(StageError, match=f"^{re.escape(said)}$"):
        rounded_layers(model, tmp_path, lambda *_: None)


@pytest.mark.parametrize("family", ["llama", "gpt_neox", "opt", "gemma2", "phi3"])
def test_the_stream_after_a_layer_is_the_layers_own(family, tmp_path):
    model = tiny_model(family, dtype=torch.float32)
    work = Layerwise(model, IDS, Method(lambda *_: None))
    work.run(Finished(tmp_path), silent)
    for rounded, floats in zip(work._rounded, work._float, strict=True):
        assert torch.allclose(rounded, floats, atol=1e-5)
