"""What the stage says of a cut and writes into pruning.safetensors: by which scores, what was kept, how it was mended."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
import pytest
import torch

from compress.artifact import sha256_of
from compress.models.families import count_parameters, shape_of
from compress.models.folder import load_model, read_config
from compress.models.pruning_record import read_record
from compress.prune.cut import Kept
from compress.prune.facts import facts_of
from compress.prune.plan import windows_of
from compress.prune.rounds import Tally
from compress.prune.stage import run
from tests.prune.tiny_stage import IDS, Text, context_of, options_of, run_stage, write_source
from tests.references.tiny_families import tiny_model

REPAIRS = ("none", "least_squares", "gauss_newton")
# Enough of it that fits do better than none on the tokens that they hold out.
LONG = {"windows": 24, "length": 16}


def test_each_repair_is_what_it_says_and_comes_closer_on_the_calibration_text(tmp_path):
    model = tiny_model("llama", dtype=torch.float32)
    ids = torch.from_numpy(Text()("calibration", tmp_path).windows(16, 24)[0].copy())
    errors, plain = [], []
    for number, repair in enumerate(REPAIRS, 1):
        cut, outcome = run_stage(tmp_path, {"ffn": 12}, repair=repair, calibration=LONG)
        assert outcome.facts["repair"] == repair
        kept = read_record(tmp_path / f"target-{number}")["ffn"].kept[0]
        uncut = model.model.layers[0].mlp.down_proj.weight[:, kept]
        plain.append(torch.equal(cut.model.layers[0].mlp.down_proj.weight, uncut))
        with torch.no_grad():
            errors.append(float((cut(ids).logits - model(ids).logits).square().mean()))
    assert plain == [True, False, False]
    assert errors[0] > errors[1] > errors[2]


@pytest.mark.parametrize(("windows", "made"), [(31, "least_squares"), (32, "gauss_newton")])
def test_the_default_goes_through_the_activation_where_there_is_text_enough(windows, made, tmp_path):
    """16 tokens for each of 32 channels; what is asked for by name is made with any text."""
    source = write_source(tmp_path / "source")
    hashes = {}
    for number, repair in enumerate(("auto", made)):
        options = options_of({"ffn": 12}, repair=repair, calibration={"windows": windows, "length": 16})
        context = context_of(source, tmp_path / f"{number}", Text(600))
        assert run(options, context).facts["repair"] == made
        hashes[repair] = sha256_of(context.target / "model.safetensors")
    assert hashes["auto"] == hashes[made]


def test_large_models_take_fewer_windows_unless_told():
    sizes = {"model_type": "llama", "num_attention_heads": 4, "vocab_size": 1000}

    def windows(width: int, layers: int, **calibration: int) -> int:
        config = {**sizes, "hidden_size": width, "intermediate_size": 3 * width, "num_hidden_layers": layers}
        return windows_of(options_of({"ffn": 1}, calibration=calibration), config)

    counts = [windows(64, 2), windows(512, 8), windows(1024, 12), windows(2048, 22), windows(4096, 32)]
    assert counts == sorted(counts, reverse=True)
    assert (counts[0], counts[-1]) == (256, 8)
    assert 8 < counts[2] < 256
    assert windows(4096, 32, windows=300) == 300


def test_the_layers_with_the_least_influence_go_first(tmp_path):
    model = tiny_model("llama", dtype=torch.float32)
    with torch.no_grad():
        for index in (1, 2):
            for module in (model.model.layers[index].self_attn.o_proj, model.model.layers[index].mlp.down_proj):
                module.weight *= 0.01 * index
                module.bias *= 0.01 * index
    model.save_pretrained(tmp_path / "source")
    reloaded, outcome = run_stage(tmp_path, {"layers": 2}, repair="none")
    layers = outcome.facts["layers"]
    assert (layers["before"], layers["after"], layers["score"]) == (4, 2, "block_influence")
    assert (layers["kept"], layers["removed"]) == ([0, 3], [1, 2])
    assert layers["scores"][1] < layers["scores"][2] < min(layers["scores"][0], layers["scores"][3])
    assert torch.equal(reloaded.model.layers[1].mlp.up_proj.weight, model.model.layers[3].mlp.up_proj.weight)


@pytest.mark.parametrize("repair", ["none", "gauss_newton"])
def test_columns_that_never_speak_are_cut_without_a_change(repair, tmp_path):
    model = tiny_model("llama", dtype=torch.float32)
    with torch.no_grad():
        for layer in model.model.layers:
            layer.mlp.down_proj.weight[:, ::4] = 0
    model.save_pretrained(tmp_path / "source")
    cut, outcome = run_stage(tmp_path, {"ffn": 12}, repair=repair)
    assert outcome.facts["ffn"] == {"score": "activation", "before": 48, "after": 36, "kept_share": [1.0] * 4}
    with torch.no_grad():
        difference = (cut(IDS).logits - model(IDS).logits).abs().max()
    assert difference < 1e-3


def test_columns_are_chosen_on_the_model_that_the_round_begins_with(tmp_path):
    _, both = run_stage(tmp_path, {"layers": 2, "ffn": 12}, repair="none")
    _, alone = run_stage(tmp_path, {"ffn": 12}, repair="none")
    together, single = (read_record(tmp_path / f"target-{number}") for number in (1, 2))
    assert np.array_equal(together["ffn"].scores, single["ffn"].scores)
    left = both.facts["layers"]["kept"]
    assert np.array_equal(together["ffn"].kept[left], single["ffn"].kept[left])
    assert both.facts["ffn"]["kept_share"] == [alone.facts["ffn"]["kept_share"][layer] for layer in left]


def test_facts_say_what_was_cut(tmp_path):
    model, outcome = run_stage(tmp_path, {"layers": 1, "ffn": 8, "heads": {"kv_groups": 1}, "hidden": 4})
    facts = outcome.facts
    assert (facts["family"], facts["calibration_tokens"], facts["repair"]) == ("llama", 64, "least_squares")
    assert sorted(facts["layers"]["kept"] + facts["layers"]["removed"]) == [0, 1, 2, 3]
    heads = facts["heads"]
    assert {key: heads[key] for key in ("before", "after", "kv_heads_before", "kv_heads_after")} == {
        "before": 4, "after": 2, "kv_heads_before": 2, "kv_heads_after": 1,
    }  # fmt: skip
    record = read_record(tmp_path / "target-1")
    for axis in ("ffn", "heads"):
        squares, kept = record[axis].scores ** 2, record[axis].kept
        shares = [squares[i][kept[i]].sum() / squares[i].sum() for i in facts["layers"]["kept"]]
        assert facts[axis]["kept_share"] == pytest.approx(shares, rel=1e-5)
    share = record["hidden"].scores[record["hidden"].kept].sum()
    assert facts["hidden"]["kept_share"] == pytest.approx(share, rel=1e-5)
    numbers = [*facts["layers"]["scores"], *facts["ffn"]["kept_share"], facts["hidden"]["kept_share"]]
    assert all(float(f"{number:.6g}") == number for number in numbers)
    before, after = facts["parameters"]["before"], facts["parameters"]["after"]
    assert before == {**count_parameters(read_config(tmp_path / "source")), "total": before["total"]}
    assert after["ffn"] == 3 * (3 * 28 * 40 + 2 * 40 + 28)
    assert (before["head"], after["head"]) == (0, 0)
    assert after["total"] == sum(after[kind] for kind in after if kind != "total")
    assert sum(each.numel() for each in model.parameters()) == after["total"]


def test_the_record_holds_scores_and_what_was_kept(tmp_path):
    model, outcome = run_stage(tmp_path, {"layers": 2, "ffn": 12, "heads": 2}, repair="none")
    record, source = read_record(tmp_path / "target-1"), load_model(tmp_path / "source")
    assert list(record) == ["layers", "ffn", "heads"]
    assert {axis: entry.score for axis, entry in record.items()} == {
        "layers": "block_influence", "ffn": "activation", "heads": "activation",
    }  # fmt: skip
    assert {axis: entry.scores.shape for axis, entry in record.items()} == {
        "layers": (4,), "ffn": (4, 48), "heads": (4, 4),
    }  # fmt: skip
    left = outcome.facts["layers"]["kept"]
    assert np.flatnonzero(record["layers"].kept).tolist() == left
    assert record["ffn"].kept.sum(1).tolist() == [36 if layer in left else 0 for layer in range(4)]
    assert record["heads"].kept.sum(1).tolist() == [2 if layer in left else 0 for layer in range(4)]
    for position, layer in enumerate(left):
        kept = torch.from_numpy(record["ffn"].kept[layer])
        assert record["ffn"].scores[layer][~kept.numpy()].max() <= record["ffn"].scores[layer][kept.numpy()].min()
        rows = source.model.layers[layer].mlp.up_proj.weight[kept]
        assert torch.equal(model.model.layers[position].mlp.up_proj.weight, rows)


@pytest.mark.parametrize(
    ("score", "names"),
    [
        ("magnitude", ("magnitude", "magnitude", "magnitude", "magnitude")),
        ("taylor", ("taylor", "taylor", "taylor", "taylor")),
        ("random", ("random", "random", "random", "random")),
        ({"layers": "perplexity", "heads": "taylor"}, ("perplexity", "activation", "taylor", "activation")),
    ],
    ids=["magnitude", "taylor", "random", "one each"],
)
def test_scores_are_those_that_were_asked_for(score, names, tmp_path):
    _, outcome = run_stage(tmp_path, {"layers": 1, "ffn": 12, "heads": 2, "hidden": 4}, score=score)
    axes = ("layers", "ffn", "heads", "hidden")
    assert tuple(outcome.facts[axis]["score"] for axis in axes) == names
    assert tuple(read_record(tmp_path / "target-1")[axis].score for axis in axes) == names


def test_shares_of_nothing_are_whole_and_layers_without_a_score_count_nothing():
    before = shape_of({**read_config_of_llama(), "intermediate_size": 2})
    after = dataclasses.replace(before, layers=3, ffn=1, hidden=16)
    tally = Tally(before)
    tally.add({"layers": torch.tensor([3.0, 1.0, 2.0, 4.0]).double()}, Kept(layers=[0, 2, 3]))
    ffn = torch.tensor([[0.0, 0.0], [3.0, 4.0], [1.0, 1.0]]).double()
    hidden = torch.arange(32.0).double()
    tally.add({"ffn": ffn, "hidden": hidden}, Kept(ffn=[[0], [1], [0]], hidden=list(range(16, 32))))
    names = {"layers": "block_influence", "ffn": "magnitude", "hidden": "random"}
    config = read_config_of_llama()
    facts = facts_of(tally, names, config, config, (before, after))
    assert facts["ffn"]["kept_share"] == [1.0, 0.64, 0.5]
    assert facts["hidden"] == {"score": "random", "before": 32, "after": 16, "kept_share": 0.758065}
    assert facts["layers"]["scores"] == [3, 1, 2, 4]
    assert facts["parameters"]["before"] == facts["parameters"]["after"]
    assert json.loads(json.dumps(facts, allow_nan=False)) == facts


def read_config_of_llama() -> dict[str, Any]:
    written: dict[str, Any] = tiny_model("llama").config.to_dict()
    return written
