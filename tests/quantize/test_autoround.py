"""What AutoRound leaves is read into our grid. A stand-in shows the reading; the package itself runs where it is installed."""

from __future__ import annotations

import importlib.util
import random
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from compress.errors import MissingExtra, StageError
from compress.models.grid import Grid, in_blocks, max_abs_grid, min_max_grid, round_to_codes, values
from compress.models.scheme import Scheme
from compress.quantize import autoround as file
from compress.quantize.autoround import as_rounded, autoround
from compress.quantize.rtn import Rounded

IDS = torch.randint(0, 64, (8, 16), generator=torch.Generator().manual_seed(0))
LAYER = "model.layers.0."
SCHEMES = {
    f"{LAYER}self_attn.q_proj.weight": Scheme(4, 32, True, (96, 96)),
    f"{LAYER}self_attn.k_proj.weight": Scheme(4, 64, True, (96, 96)),
    f"{LAYER}mlp.down_proj.weight": Scheme(4, 64, False, (96, 160)),
    f"{LAYER}mlp.up_proj.weight": Scheme(8, 96, True, (160, 96)),
    f"{LAYER}mlp.gate_proj.weight": Scheme(2, 16, True, (160, 96)),
    "lm_head.weight": Scheme(4, 32, True, (64, 96)),
}
installed = importlib.util.find_spec("auto_round") is not None


def make_folder(folder: Path, tied: bool = False, ffn: int = 160) -> Path:
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=96,
        intermediate_size=ffn,
        num_hidden_layers=1,
        num_attention_heads=3,
        num_key_value_heads=3,
        max_position_embeddings=32,
        initializer_range=0.3,
        tie_word_embeddings=tied,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def dequantized(rounded: Rounded, bits: int, width: int) -> Tensor:
    found = values(rounded.codes.float(), Grid(bits, rounded.scales, rounded.zeros.float()))
    return found.reshape(len(found), -1)[:, :width]


def matrix(rows: int, width: int) -> Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(3))


class Learner:
    """Rounds plainly, and leaves behind what AutoRound 0.16 does: float weights, `scale`, `zp`."""

    given: dict[str, Any]

    def __init__(self, model: Any, **given: Any) -> None:
        self.model, Learner.given = model, given

    def quantize(self) -> tuple[Any, dict[str, Any]]:
        random.seed(1)
        np.random.seed(1)
        torch.manual_seed(1)
        for path, entry in Learner.given["layer_config"].items():
            if entry["bits"] < 16:
                self._round(self.model.get_submodule(path), entry)
        return self.model, {}

    def _round(self, module: Any, entry: dict[str, Any]) -> None:
        width = module.weight.shape[1]
        blocks = in_blocks(module.weight.detach(), width if entry["group_size"] == -1 else entry["group_size"])
        grid = (max_abs_grid if entry["sym"] else min_max_grid)(blocks, entry["bits"])
        found = values(round_to_codes(blocks, grid), grid)
        module.weight = torch.nn.Parameter(found.reshape(len(blocks), -1)[:, :width])
        module.scale = grid.scales
        module.zp = 2 ** (entry["bits"] - 1) if entry["sym"] else grid.zeros


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> type[Learner]:
    module = ModuleType("auto_round")
    module.__spec__ = ModuleSpec("auto_round", None)
    module.AutoRound = Learner  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "auto_round", module)
    return Learner


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(
    "scheme",
    [
        Scheme(4, 32, True, (6, 64)),
        Scheme(4, 32, False, (6, 64)),
        Scheme(4, 32, False, (6, 40)),
        Scheme(2, 16, True, (6, 64)),
        Scheme(8, 64, True, (6, 64)),
    ],
)
def test_codes_of_any_scheme_come_back_from_weights_and_scales(scheme: Scheme, sign: int) -> None:
    blocks = in_blocks(matrix(*scheme.shape), scheme.block)
    grid = (max_abs_grid if scheme.symmetric else min_max_grid)(blocks, scheme.bits)
    if scheme.symmetric:
        grid = Grid(scheme.bits, grid.scales * sign, grid.zeros)
    codes = round_to_codes(blocks, grid)
    weight = values(codes, grid).reshape(6, -1)[:, : scheme.shape[1]]
    found = as_rounded(weight, grid.scales.unsqueeze(-1), None if scheme.symmetric else grid.zeros.flatten(), scheme)
    assert torch.equal(found.codes, codes.to(torch.uint8))
    assert torch.equal(found.scales, grid.scales)
    assert torch.equal(found.zeros, grid.zeros.to(torch.uint8))
    assert torch.equal(dequantized(found, scheme.bits, scheme.shape[1]), weight)


def test_weights_that_the_scales_do_not_stand_for_are_refused() -> None:
    scheme = Scheme(4, 8, True, (2, 8))
    weight = torch.arange(-8.0, 8).reshape(2, 8)
    assert as_rounded(weight, torch.ones(2, 1), 8, scheme).codes.flatten().tolist() == list(range(16))
    weight[0, 3] += 0.25
    with pytest.raises(
        ValueError, match=r"^weights are not what 4 bits with these scales stand for: off by up to 0\.25$"
    ):
        as_rounded(weight, torch.ones(2, 1), 8, scheme)


def test_what_is_learned_is_read_and_the_rest_stays_in_float(tmp_path: Path, stand_in: type[Learner]) -> None:
    found = autoround(make_folder(tmp_path / "m"), IDS, SCHEMES, seed=3, iterations=7)
    assert list(found) == list(SCHEMES)
    for name, scheme in SCHEMES.items():
        assert found[name].codes.shape == (scheme.shape[0], scheme.groups, scheme.block)
    entries = stand_in.given["layer_config"]
    assert entries[f"{LAYER}mlp.up_proj"] == {"bits": 8, "group_size": -1, "sym": True}
    assert entries[f"{LAYER}mlp.down_proj"] == {"bits": 4, "group_size": 64, "sym": False}
    assert {path for path, entry in entries.items() if entry == {"bits": 16}} == {
        f"{LAYER}self_attn.{name}" for name in ("v_proj", "o_proj")
    }
    assert (stand_in.given["seed"], stand_in.given["iters"], stand_in.given["amp"]) == (3, 7, False)
    assert torch.equal(torch.cat([batch["input_ids"] for batch in stand_in.given["dataset"]]), IDS)


def test_every_generator_keeps_its_state(tmp_path: Path, stand_in: type[Learner]) -> None:
    folder = make_folder(tmp_path / "m")
    states = []
    for _ in range(2):
        states.append((random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()))
        autoround(folder, IDS, SCHEMES)
    assert states[0] == states[1]


def test_a_weight_that_it_left_in_float_is_an_error(
    tmp_path: Path, stand_in: type[Learner], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Learner, "_round", lambda *_: None)
    message = rf"^{LAYER}self_attn\.q_proj\.weight: AutoRound left it in float; leave it out, or use another method$"
    with pytest.raises(StageError, match=message):
        autoround(make_folder(tmp_path / "m"), IDS, SCHEMES)


@pytest.mark.parametrize(
    ("names", "scheme", "message"),
    [
        (
            ("model.embed_tokens.weight", "lm_head.weight"),
            Scheme(4, 32, True, (64, 96)),
            "AutoRound learns projections alone, no embeddings and no head that shares their weight; "
            "not model.embed_tokens.weight, lm_head.weight",
        ),
        (
            tuple(f"{LAYER}mlp.{name}_proj.weight" for name in ("gate", "up", "down")),
            Scheme(4, 32, True, (172, 96)),
            f"AutoRound takes matrices whose sides are multiples of 32; {LAYER}mlp.gate_proj.weight, {LAYER}mlp.up_proj.weight, "
            f"{LAYER}mlp.down_proj.weight are not: leave them out (leave_out), or use another method",
        ),
        (
            (f"{LAYER}self_attn.q_proj.weight",),
            Scheme(8, 32, False, (96, 96)),
            f"AutoRound takes 8 bits without zero points alone; set symmetric: true for {LAYER}self_attn.q_proj.weight",
        ),
    ],
)
def test_what_the_package_cannot_do_is_refused(
    tmp_path: Path, stand_in: type[Learner], names: tuple[str, ...], scheme: Scheme, message: str
) -> None:
    with pytest.raises(StageError) as caught:
        autoround(make_folder(tmp_path / "m", tied=True), IDS, dict.fromkeys(names, scheme))
    assert str(caught.value) == message


def test_a_missing_package_is_one_line_with_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file, "_PACKAGE", "auto_round_that_is_not_installed")
    with pytest.raises(MissingExtra) as caught:
        autoround(tmp_path / "never read", IDS, SCHEMES)
    assert str(caught.value) == (
        "method autoround needs an extra that is not installed. Install it: pip install 'compress-workbench[autoround]'"
    )


@pytest.mark.skipif(not installed, reason="auto-round is not installed: pip install 'compress-workbench[autoround]'")
@pytest.mark.filterwarnings("ignore")
def test_the_package_learns_on_ids_alone_and_its_weights_are_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_network(*_: Any) -> None:
        raise OSError("the network was asked for")

    monkeypatch.setattr("socket.socket.connect", no_network)
    monkeypatch.setattr("socket.getaddrinfo", no_network)
    left: list[Any] = []
    monkeypatch.setattr(
        file, "_read", lambda model, name, scheme, read=file._read: left.append(model) or read(model, name, scheme)
    )
    folder = make_folder(tmp_path / "m")
    first, second = (autoround(folder, IDS, SCHEMES, seed=1, iterations=3) for _ in range(2))
    for name, scheme in SCHEMES.items():
        own = left[0].get_parameter(name).detach()
        assert torch.equal(dequantized(first[name], scheme.bits, scheme.shape[1]), own)
        assert torch.equal(first[name].codes, second[name].codes)
        assert torch.equal(first[name].scales, second[name].scales)
