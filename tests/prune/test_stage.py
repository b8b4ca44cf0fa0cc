"""The verb `prune` from folder to folder: every family on every axis at once, reloaded; rounds, targets, tokens, the same bytes."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
import pytest
import torch

from compress.artifact import sha256_of
from compress.models.families import count_parameters, parameter_shapes, shape_of
from compress.models.folder import load_model, load_tokenizer, read_config
from compress.models.pruning_record import read_record
from compress.prune.plan import plan, sizes_after
from compress.prune.stage import run
from tests.prune.tiny_stage import IDS, Text, context_of, every_axis, hashes, options_of, run_stage, write_source
from tests.prune.tiny_tokenizers import SIZE, TEXT
from tests.references.tiny_families import ARCHITECTURES, CONFIGS, DECODERS, ENCODERS, tiny_model


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("name", CONFIGS)
def test_every_family_is_cut_on_every_axis_at_once_and_reloads(name, tied, tmp_path):
    source, text = write_source(tmp_path / "source", name, tied, tokenizer=True), Text(parts=("train", "calibration"))
    context = context_of(source, tmp_path / "target", text)
    options = options_of(every_axis(name), repair="gauss_newton")
    outcome = run(options, context)
    config, before = read_config(context.target), read_config(source)
    assert shape_of(config) == sizes_after(options, before)
    planned = plan(options, before)
    assert {key: config[key] for key in planned if isinstance(planned[key], int)} == {
        key: value for key, value in planned.items() if isinstance(value, int)
    }
    assert text.asked == [("train", source), ("calibration", context.target)]
    model = load_model(context.target)
    assert type(model).__name__ == ARCHITECTURES[name][0]
    assert {path: tuple(each.shape) for path, each in model.named_parameters(remove_duplicate=False)} == (
        parameter_shapes(config)
    )
    facts = outcome.facts
    assert json.loads(json.dumps(facts, allow_nan=False)) == facts
    assert facts["parameters"]["after"]["total"] == sum(each.numel() for each in model.parameters())
    assert {axis for axis in facts if isinstance(facts[axis], dict)} == {
        "layers", "ffn", "heads", "hidden", "vocab", "parameters",
    }  # fmt: skip
    ids = torch.tensor([load_tokenizer(context.target).encode(TEXT[0]).ids])
    if name in DECODERS:
        said = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=3, do_sample=False, pad_token_id=0
        )
        assert said.shape[1] > ids.shape[1]
        assert int(said.max()) < SIZE - 40
    assert torch.isfinite(model(input_ids=ids)[0]).all()


@pytest.mark.parametrize("head", [1, 2, 3])
@pytest.mark.parametrize("name", ENCODERS)
def test_encoders_keep_their_architecture_and_their_labels(name, head, tmp_path):
    architecture = ARCHITECTURES[name][head]
    source = write_source(tmp_path / "source", name, architectures=[architecture], num_labels=5)
    context = context_of(source, tmp_path / "target")
    run(options_of({"layers": 1, "ffn": 12, "heads": 1}), context)
    model, config = load_model(context.target), read_config(context.target)
    assert type(model).__name__ == config["architectures"][0] == architecture
    assert len(config["id2label"]) == 5
    output = model(input_ids=IDS)[0]
    assert output.shape == {1: (1, 5), 2: (1, 10, 5), 3: (1, 10, 24)}[head]


@pytest.mark.parametrize("name", ["gemma3_text", "gpt2"])
def test_the_same_run_writes_the_same_bytes(name, tmp_path):
    source = write_source(tmp_path / "source", name, tokenizer=True)
    written = []
    for target in ("one", "two"):
        context = context_of(source, tmp_path / target)
        outcome = run(options_of(every_axis(name)), context)
        written.append((outcome.facts, hashes(context.target)))
    assert written[0] == written[1]
    assert {"model.safetensors", "pruning.safetensors", "tokenizer.json", "vocabulary_map.json"} <= set(written[0][1])


@pytest.mark.parametrize("name", ["llama", "gpt_neo", "smollm3", "bert"])
def test_three_rounds_end_at_the_same_sizes_and_reload(name, tmp_path):
    source = write_source(tmp_path / "source", name, tokenizer=True)
    once, thrice = (
        run(options_of(every_axis(name), rounds=rounds), context_of(source, tmp_path / f"{rounds}"))
        for rounds in (1, 3)
    )
    assert shape_of(read_config(tmp_path / "3")) == shape_of(read_config(tmp_path / "1"))
    assert thrice.facts["parameters"] == once.facts["parameters"]
    records = [read_record(tmp_path / target) for target in ("1", "3")]
    for axis, entry in records[1].items():
        assert entry.kept.sum() == records[0][axis].kept.sum()
        assert np.isfinite(entry.scores[entry.kept]).all()
    assert json.loads(json.dumps(thrice.facts, allow_nan=False)) == thrice.facts


def test_the_seed_changes_random_scores_alone(tmp_path):
    source = write_source(tmp_path / "source")
    hashes = {}
    for score in ("random", "activation"):
        for seed in (0, 1):
            context = dataclasses.replace(context_of(source, tmp_path / f"{score}{seed}"), seed=seed)
            run(options_of({"ffn": 12}, score=score, repair="none"), context)
            hashes[score, seed] = sha256_of(context.target / "model.safetensors")
    assert hashes["random", 0] != hashes["random", 1]
    assert hashes["activation", 0] == hashes["activation", 1]


@pytest.mark.parametrize("keep", [{"parameters": 0.6}, {"parameters": 20_000}, {"size_mb": 0.08}])
def test_a_target_is_met(keep, tmp_path):
    total = sum(each.numel() for each in tiny_model("llama").parameters())
    most = {"parameters": keep.get("parameters", 0)}["parameters"] or int(keep["size_mb"] * 1e6 / 4)
    most = round(most * total) if isinstance(most, float) else most
    model, outcome = run_stage(tmp_path, keep=keep)
    found = sum(each.numel() for each in model.parameters())
    assert 0.93 * most < found <= most
    assert outcome.facts["parameters"]["after"]["total"] == found
    weights = (tmp_path / "target-1" / "model.safetensors").stat().st_size
    assert weights < 4 * most + 12_000


def test_a_target_that_cuts_groups_and_heads_of_those_that_stay_is_met(tmp_path):
    """Groups go, and so do heads of the groups that stay: the sizes are the planned ones."""
    sizes = {"num_attention_heads": 16, "num_key_value_heads": 4, "head_dim": 8, "intermediate_size": 64}
    source = write_source(tmp_path / "source", "mistral", **sizes)
    total = sum(count_parameters(read_config(source)).values())
    options = options_of(keep={"parameters": 0.24})
    planned = sizes_after(options, read_config(source))
    assert (planned.heads, planned.kv_heads) == (6, 2)
    context = context_of(source, tmp_path / "target")
    outcome = run(options, context)
    assert shape_of(read_config(context.target)) == planned
    assert outcome.facts["parameters"]["after"]["total"] <= round(0.24 * total)


def test_special_tokens_follow_a_cut_vocabulary(tmp_path):
    """Ids are renumbered once: with a special token behind the removed ones a second time would give another token."""
    source = write_source(tmp_path / "source", tokenizer=True, bos_token_id=0, eos_token_id=[1, 406], pad_token_id=407)
    generation = json.loads((source / "generation_config.json").read_text())
    generation |= {"suppress_tokens": [405, 407], "pad_token_id": 407}
    (source / "generation_config.json").write_text(json.dumps(generation))
    context = context_of(source, tmp_path / "target")
    outcome = run(options_of({"vocab": 60}), context)
    kept = json.loads((context.target / "vocabulary_map.json").read_text())
    assert outcome.facts["vocab"]["after"] == SIZE - 60
    library, cut = load_tokenizer(source), load_tokenizer(context.target)

    def same(before: int) -> int:
        found: int = cut.token_to_id(library.id_to_token(before))
        return found

    for config in (read_config(context.target), json.loads((context.target / "generation_config.json").read_text())):
        assert config["pad_token_id"] == same(407) == SIZE - 61
        assert config["eos_token_id"] == [1, same(406)]
        assert config["bos_token_id"] == 0
    suppressed = json.loads((context.target / "generation_config.json").read_text())["suppress_tokens"]
    assert same(407) in suppressed
    model, uncut = load_model(context.target), load_model(source)
    rows = torch.stack([uncut.model.embed_tokens.weight[index] for index in _kept_of(kept)])
    assert torch.equal(model.model.embed_tokens.weight, rows)


def _kept_of(entry: Any) -> list[int]:
    found: list[int] = entry["kept"] if isinstance(entry, dict) else entry
    return found


def test_tokens_alone_are_not_scored_and_not_repaired(tmp_path):
    source = write_source(tmp_path / "source", tokenizer=True)
    context = context_of(source, tmp_path / "target")
    facts = run(options_of({"vocab": 60}), context).facts
    assert facts["repair"] == "none"
    assert facts["vocab"]["score"] == "usage"
    uses = np.bincount(Text()("calibration", source).ids, minlength=SIZE)
    record = read_record(context.target)
    assert list(record) == ["vocab"]
    assert record["vocab"].kept.sum() == SIZE - 60
    assert record["vocab"].scores.tolist() == uses.tolist()
    assert facts["vocab"]["kept_share"] == pytest.approx(uses[record["vocab"].kept].sum() / uses.sum(), rel=1e-5)
    ids = torch.tensor([load_tokenizer(context.target).encode(TEXT[0]).ids])
    uncut = torch.from_numpy(np.flatnonzero(record["vocab"].kept))
    with torch.no_grad():
        found = load_model(context.target)(ids).logits
        expected = load_model(source)(uncut[ids]).logits[..., uncut]
    assert torch.allclose(found, expected, atol=1e-4)


def test_half_precision_weights_are_read_as_float32(tmp_path):
    tiny_model("llama", dtype=torch.float16).save_pretrained(tmp_path / "source")
    model, _ = run_stage(tmp_path, {"ffn": 8})
    assert read_config(tmp_path / "target-1")["dtype"] == "float32"
    assert model.dtype == torch.float32


def test_progress_counts_windows_and_layers(tmp_path):
    said: list[tuple[float, float, str]] = []
    source = write_source(tmp_path / "source")
    context = context_of(
        source,
        tmp_path / "target",
        progress=lambda done, total, unit="", note="": said.append((done, total, unit)),
    )
    run(options_of({"ffn": 8}, calibration={"windows": 10, "length": 16}), context)
    assert said == [(8, 10, "windows"), (10, 10, "windows"), *((layer, 4, "layers") for layer in (1, 2, 3, 4))]
