"""Bits and blocks chosen by weight: within what is allowed, from what is left open, once."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from compress.artifact import list_files, sha256_of
from compress.contract import Context, Outcome
from compress.errors import StageError
from compress.models.folder import load_model
from compress.models.quantized import QuantizedFile
from compress.models.scheme import Scheme, stored_bytes, weight_class
from compress.quantize.choosing import schemes_of
from compress.quantize.kernels import slow_reason
from compress.quantize.open_grids import BLOCKS, refuse_impossible
from compress.quantize.options import QuantizeOptions
from compress.quantize.schemes import Matrix
from compress.quantize.stage import run
from tests.prune.tiny_stage import Text, write_source
from tests.references.tiny_families import tiny_config

FEW = {"windows": 8, "length": 16}
SMALL: dict[str, Any] = {"num_hidden_layers": 1}
# All of the tiny model's matrices, the tied embedding once.
COUNT = 64 * 32 + 2 * 32 * 32 + 2 * 16 * 32 + 3 * 48 * 32


@pytest.fixture(scope="module")
def tied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_source(tmp_path_factory.mktemp("tied"), **SMALL)


@pytest.fixture(scope="module")
def chosen(tied: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("chosen") / "q"
    choose(tied, target, bits={"budget": 4.5})
    return target


def choose(source: Path, target: Path, progress: Any = None, **options: Any) -> Outcome:
    scratch = target.with_name(f"{target.name}.scratch")
    for folder in (target, scratch):
        folder.mkdir(exist_ok=True)
    said = {} if progress is None else {"progress": progress}
    settings = QuantizeOptions.model_validate({"calibration": FEW, **options})
    return run(settings, Context(source, target, scratch, 0, data=Text(), **said))


def schemes(folder: Path) -> dict[str, Scheme]:
    with QuantizedFile(folder) as file:
        return dict(file.schemes.weights)


def record(folder: Path) -> Any:
    return json.loads((folder / "sensitivity.json").read_text(encoding="utf-8"))


def bytes_of(folder: Path) -> int:
    return sum(stored_bytes(scheme) for scheme in schemes(folder).values())


def test_a_budget_is_kept_and_nearly_used_and_more_bits_cost_less(tied: Path, tmp_path: Path, chosen: Path) -> None:
    costs = []
    for budget in (3.5, 4.5, 7.0):
        folder = chosen if budget == 4.5 else tmp_path / str(budget)
        if folder is not chosen:
            facts = choose(tied, folder, bits={"budget": budget}).facts
            assert facts["bits_per_weight"] <= budget
            assert facts["precision"] == "mixed"
        assert 0.95 * budget * COUNT / 8 < bytes_of(folder) <= budget * COUNT / 8
        costs.append(record(folder)["kl_of_choice"])
    assert costs[0] > 1.5 * costs[1] > 3 * costs[2] > 0


def norms_of(folder: Path) -> int:
    """Return the bytes of what is no matrix."""
    return sum(weight.numel() * 4 for weight in load_model(folder).parameters() if weight.ndim < 2)


@pytest.mark.parametrize("sensitivity", ["fisher", "kl"])
def test_megabytes_hold_all_that_is_stored(tied: Path, tmp_path: Path, sensitivity: str) -> None:
    outcome = choose(tied, tmp_path / "q", size_mb=0.007, sensitivity=sensitivity)
    assert 0.0065 * 1e6 < bytes_of(tmp_path / "q") + norms_of(tied) <= 0.007 * 1e6
    assert sum(outcome.facts["megabytes"].values()) == pytest.approx(bytes_of(tmp_path / "q") / 1e6, rel=1e-3)
    assert record(tmp_path / "q")["sensitivity"] == sensitivity


@pytest.mark.parametrize("allowed", [{"bits": {"budget": 9}}, {"size_mb": 0.012}])
def test_what_is_left_out_counts_as_it_is_stored(tied: Path, tmp_path: Path, allowed: dict[str, Any]) -> None:
    outcome = choose(tied, tmp_path / "q", leave_out=("*up_proj*",), **allowed)
    floats = 48 * 32 * 4
    limit = 9 * COUNT / 8 if "bits" in allowed else 0.012e6 - norms_of(tied)
    assert 0.95 * limit < bytes_of(tmp_path / "q") + floats <= limit
    assert len(outcome.skipped) == 1
    assert not any("up_proj" in entry["name"] for entry in record(tmp_path / "q")["weights"])


def test_weights_with_options_of_their_own_keep_to_them_within_the_budget(tied: Path, tmp_path: Path) -> None:
    own = {
        "lm_head*": {"bits": 8},
        "*q_proj*": {"block": 64},
        "*k_proj*": {"bits": 4, "block": 16, "symmetric": False},
        "*v_proj*": {"block": 16},
        "*o_proj*": {"bits": 2, "block": 16},
    }
    choose(tied, tmp_path / "q", bits={"budget": 5.5}, weights=own)
    found = schemes(tmp_path / "q")
    assert bytes_of(tmp_path / "q") <= 5.5 * COUNT / 8
    assert found["model.embed_tokens.weight"].bits == 8
    assert found["model.layers.0.self_attn.k_proj.weight"] == Scheme(4, 16, False, (16, 32))
    assert found["model.layers.0.self_attn.o_proj.weight"] == Scheme(2, 16, True, (32, 32))
    asked = {entry["name"]: set(entry["kl"]) for entry in record(tmp_path / "q")["weights"]}
    assert asked["model.layers.0.self_attn.q_proj.weight"] == {"2/64", "4/64", "8/64"}
    # 2 bits in blocks of 16 are slow, and not taken where the bits are open
    assert asked["model.layers.0.self_attn.v_proj.weight"] == {"4/16", "8/16"}
    assert asked["model.layers.0.self_attn.o_proj.weight"] == {"2/16"}


def test_weights_whose_inputs_are_rounded_have_one_grid(tied: Path, tmp_path: Path) -> None:
    choose(tied, tmp_path / "q", bits={"budget": 5}, weights={"*q_proj*": {"activations": "dynamic"}})
    found = schemes(tmp_path / "q")
    assert found["model.layers.0.self_attn.q_proj.weight"] == Scheme(8, 32, True, (32, 32), "dynamic")
    assert {scheme.activations for name, scheme in found.items() if "q_proj" not in name} == {"none"}
    assert bytes_of(tmp_path / "q") <= 5 * COUNT / 8


def test_no_slow_grid_is_among_those_to_choose_from() -> None:
    for bits, blocks in BLOCKS.items():
        for block in blocks:
            scheme = Scheme(bits, block, True, (64, 256))
            assert slow_reason(scheme, Matrix(("a.weight",), (64, 256))) == ""


def test_a_tied_embedding_gets_no_block_that_leaves_a_short_one(tmp_path: Path) -> None:
    source = write_source(tmp_path / "m", hidden_size=48, **SMALL)
    choose(source, tmp_path / "a", bits={"budget": 5})
    asked = {entry["name"]: set(entry["kl"]) for entry in record(tmp_path / "a")["weights"]}
    assert asked["model.embed_tokens.weight"] == {"4/16"}
    assert len(asked["model.layers.0.self_attn.q_proj.weight"]) == sum(map(len, BLOCKS.values()))
    choose(source, tmp_path / "b", bits={"budget": 7}, weights={"*embed*": {"bits": 8}, "*proj*": {"bits": 4}})
    assert schemes(tmp_path / "b")["model.embed_tokens.weight"] == Scheme(8, 16, True, (64, 48))


def test_a_tied_embedding_that_no_block_divides_is_refused(tmp_path: Path) -> None:
    for width, own, advice in (
        (40, {}, "no block does; leave it out: leave_out: [model.embed_tokens.weight]"),
        (48, {"weights": {"lm_head*": {"block": 32}}}, "the nearest block that does is 16"),
    ):
        source = write_source(tmp_path / str(width), hidden_size=width, **SMALL)
        said = f"{source}: quantize.block 32 does not divide the width {width} of the tied embedding; {advice}"
        with pytest.raises(StageError, match=f"^{re.escape(said)}$"):
            choose(source, tmp_path / "q", bits={"budget": 5}, **own)


def test_zero_points_go_with_fewer_than_eight_bits(tied: Path, tmp_path: Path) -> None:
    choose(tied, tmp_path / "q", bits={"budget": 6}, symmetric=False)
    found = schemes(tmp_path / "q").values()
    assert {scheme.symmetric == (scheme.bits == 8) for scheme in found} == {True}
    assert len({scheme.bits for scheme in found}) > 1


def test_a_table_of_positions_keeps_what_is_said_of_all(tmp_path: Path) -> None:
    source = write_source(tmp_path / "m", "opt", **SMALL)
    choose(source, tmp_path / "q", bits={"budget": 6}, symmetric=False)
    positions = "model.decoder.embed_positions.weight"
    found = schemes(tmp_path / "q")
    assert found[positions] == Scheme(4, 32, False, (66, 32))
    assert positions not in {entry["name"] for entry in record(tmp_path / "q")["weights"]}
    count = sum(scheme.shape[0] * scheme.shape[1] for scheme in found.values())
    assert bytes_of(tmp_path / "q") <= 6 * count / 8


def test_the_record_says_of_each_weight_what_it_costs_and_what_it_got(tied: Path, chosen: Path) -> None:
    said = record(chosen)
    assert set(said) == {"sensitivity", "kl_of_choice", "weights"}
    found = schemes(chosen)
    assert [entry["name"] for entry in said["weights"]] == list(list_names(tied))
    total = 0.0
    for entry in said["weights"]:
        scheme = found[entry["name"]]
        assert set(entry) == {"name", "class", "shape", "bits", "block", "symmetric", "kl"}
        assert (entry["bits"], entry["block"], entry["symmetric"]) == (scheme.bits, scheme.block, scheme.symmetric)
        assert (entry["class"], tuple(entry["shape"])) == (weight_class(entry["name"]), scheme.shape)
        # 64 and 128 leave a short block in a tied embedding of 32
        blocks = {bits: [32] if "embed" in entry["name"] else of for bits, of in BLOCKS.items()}
        blocks[4] = [16, 32] if "embed" in entry["name"] else blocks[4]
        assert set(entry["kl"]) == {f"{bits}/{block}" for bits, of in blocks.items() for block in of}
        assert entry["kl"]["2/32"] > entry["kl"]["4/32"] > entry["kl"]["8/32"] > 0
        total += entry["kl"][f"{scheme.bits}/{scheme.block}"]
    assert said["kl_of_choice"] == pytest.approx(total, rel=1e-3)


def list_names(folder: Path) -> list[str]:
    return [name for name, weight in load_model(folder).named_parameters() if weight.ndim == 2]


def test_a_record_changes_nothing_but_what_it_says() -> None:
    before = {"a": Scheme(4, 32, True, (8, 64)), "b": Scheme(8, 64, True, (8, 64), "dynamic")}
    said = {"weights": [{"name": "a", "bits": 2, "block": 64, "symmetric": False, "kl": {}, "class": "ffn"}]}
    assert schemes_of(said, before) == {"a": Scheme(2, 64, False, (8, 64)), "b": before["b"]}


class StopError(Exception):
    pass


def stop_after_the_choice(_done: float, _total: float, unit: str = "", note: str = "") -> None:
    if unit == "weights" and not note.startswith("KL"):
        raise StopError


def test_a_stopped_run_takes_the_choice_it_made(tied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"bits": {"budget": 4.5}, "sensitivity": "kl"}
    straight = choose(tied, tmp_path / "straight", **options)
    with pytest.raises(StopError):
        choose(tied, tmp_path / "again", stop_after_the_choice, **options)

    def not_again(*_: Any, **__: Any) -> None:
        raise AssertionError("the choice was made")

    monkeypatch.setattr("compress.quantize.choosing.measure_curvature", not_again)
    assert choose(tied, tmp_path / "again", **options) == straight
    names = list_files(tmp_path / "straight")
    assert list_files(tmp_path / "again") == names
    for name in names:
        assert sha256_of(tmp_path / "again" / name) == sha256_of(tmp_path / "straight" / name)


@pytest.mark.parametrize("method", ["gptq", "awq"])
def test_every_method_rounds_to_the_grids_that_were_chosen(
    tied: Path, tmp_path: Path, chosen: Path, method: str
) -> None:
    choose(tied, tmp_path / "q", bits={"budget": 4.5}, method=method)
    assert schemes(tmp_path / "q") == schemes(chosen)
    model, before = load_model(tmp_path / "q"), load_model(chosen)
    assert not torch.equal(model.model.embed_tokens.weight, before.model.embed_tokens.weight)


def test_a_limit_that_cannot_be_kept_is_refused(tied: Path, tmp_path: Path) -> None:
    found = re.escape("; allow more, or leave fewer weights in float")
    smallest = r"quantize: the smallest choice takes [\d,]+ bytes, 3,100 are allowed"
    with pytest.raises(StageError, match=f"^{smallest}{found}$"):
        choose(tied, tmp_path / "a", bits={"budget": 2.55})
    floats = 48 * 32 * 4 * 3
    more = f"quantize: what is not chosen takes {floats - COUNT * 3 // 8:,} bytes more than are allowed"
    with pytest.raises(StageError, match=f"^{re.escape(more)}{found}$"):
        choose(tied, tmp_path / "b", bits={"budget": 3}, leave_out=("*mlp*",))
    assert not (tmp_path / "b" / "model.safetensors").exists()


def test_models_that_predict_no_token_are_refused(tmp_path: Path) -> None:
    source = write_source(tmp_path / "m", "bert", num_hidden_layers=1, architectures=["BertModel"])
    said = "bits chosen by weight need the loss of a language model, and BertModel is none; use bits: 2, 4 or 8"
    with pytest.raises(StageError, match=f"^{re.escape(f'{source}: {said}')}$"):
        choose(source, tmp_path / "q", bits={"budget": 5})


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"bits": {"budget": 0.5}}, "bits.budget 0.5 cannot be met; the least here is "),
        ({"size_mb": 0.001}, "size_mb 0.001 cannot be met; the least here is "),
        ({"bits": {"budget": 4}, "weights": {"*": {"bits": 8}}}, "bits.budget 4 cannot be met; the least here is "),
    ],
)
def test_what_can_never_be_met_is_said_from_the_config_with_the_least_that_can(options: Any, said: str) -> None:
    config = tiny_config("llama").to_dict()
    with pytest.raises(ValueError, match=f"^{re.escape(said)}") as refusal:
        refuse_impossible(QuantizeOptions.model_validate(options), config)
    least = float(str(refusal.value).rpartition(" ")[2])
    key = "size_mb" if "size_mb" in options else "bits"
    enough = {**options, key: least if key == "size_mb" else {"budget": least}}
    refuse_impossible(QuantizeOptions.model_validate(enough), config)
