from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from compress.artifact import list_files, sha256_of
from compress.contract import Context
from compress.data.corpus import Corpus
from compress.errors import StageError
from compress.models.families import FAMILIES
from compress.models.folder import load_model, read_config
from compress.prune.options import PruneOptions
from compress.prune.stage import prove_reload, run
from tests.references.tiny_families import tiny_model


def _corpus(tokens: int = 400, seed: int = 0) -> Corpus:
    ids = np.random.default_rng(seed).integers(3, 64, tokens)
    return Corpus(ids, np.ones(tokens, bool), np.array([0, tokens]), np.array([tokens]), (), "random")


def _source(folder: Path, name: str = "llama", tied: bool = True, **changes: object) -> Path:
    tiny_model(name, tied, torch.float32, **changes).save_pretrained(folder)
    (folder / "tokenizer_config.json").write_text("{}")
    return folder


def _context(source: Path, target: Path, corpus: Corpus | None = None, progress=None) -> Context:
    target.mkdir(parents=True)

    def data(part: str, folder: Path, tokens: int | None = None) -> Corpus:
        assert (part, folder) == ("calibration", source)
        return corpus or _corpus()

    extra = {"progress": progress} if progress else {}
    return Context(source, target, target.parent / "scratch", seed=0, data=data, **extra)


def _options(windows: int = 10, length: int = 16, **remove: int | float) -> PruneOptions:
    return PruneOptions.model_validate({"remove": remove, "calibration": {"windows": windows, "length": length}})


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_every_family_is_cut_and_reloads(name, tied, tmp_path):
    source = _source(tmp_path / "source", name, tied)
    context = _context(source, tmp_path / "target")
    outcome = run(_options(layers=2, ffn=0.25), context)
    config = read_config(context.target)
    assert (config["num_hidden_layers"], config["intermediate_size"]) == (2, 36)
    model = load_model(context.target)
    assert outcome.facts["parameters"]["after"]["total"] == sum(each.numel() for each in model.parameters())
    generated = model.generate(torch.tensor([[1, 5, 9]]), max_new_tokens=4, do_sample=False, pad_token_id=0)
    assert generated.shape[1] > 3


def test_the_layers_with_the_least_influence_go_first(tmp_path):
    model = tiny_model("llama", dtype=torch.float32)
    with torch.no_grad():
        for index in (1, 2):
            model.model.layers[index].self_attn.o_proj.weight *= 0.01 * index
            model.model.layers[index].self_attn.o_proj.bias *= 0.01 * index
            model.model.layers[index].mlp.down_proj.weight *= 0.01 * index
            model.model.layers[index].mlp.down_proj.bias *= 0.01 * index
    model.save_pretrained(tmp_path / "source")
    context = _context(tmp_path / "source", tmp_path / "target")
    layers = run(_options(layers=2), context).facts["layers"]
    assert (layers["kept"], layers["removed"]) == ([0, 3], [1, 2])
    assert layers["scores"][1] < layers["scores"][2] < min(layers["scores"][0], layers["scores"][3])
    reloaded = load_model(context.target)
    assert torch.equal(reloaded.model.layers[1].mlp.up_proj.weight, model.model.layers[3].mlp.up_proj.weight)


def test_columns_that_never_speak_are_cut_without_a_change(tmp_path):
    model = tiny_model("llama", dtype=torch.float32)
    with torch.no_grad():
        for layer in model.model.layers:
            layer.mlp.down_proj.weight[:, ::4] = 0
    model.save_pretrained(tmp_path / "source")
    context = _context(tmp_path / "source", tmp_path / "target")
    facts = run(_options(ffn=12), context).facts["ffn"]
    assert facts["kept"] == [36] * 4
    assert facts["kept_energy"] == [1.0] * 4
    ids = torch.arange(3, 13)[None]
    with torch.no_grad():
        difference = (load_model(context.target)(ids).logits - model(ids).logits).abs().max()
    assert difference < 1e-4


def test_columns_are_chosen_on_the_uncut_model(tmp_path):
    source = _source(tmp_path / "source")
    both = run(_options(layers=2, ffn=12), _context(source, tmp_path / "both")).facts
    alone = run(_options(ffn=12), _context(source, tmp_path / "alone")).facts
    kept = both["layers"]["kept"]
    assert both["ffn"]["lowest_kept_score"] == [alone["ffn"]["lowest_kept_score"][layer] for layer in kept]
    cut, uncut = load_model(tmp_path / "both"), load_model(tmp_path / "alone")
    for index, layer in enumerate(kept):
        assert torch.equal(cut.model.layers[index].mlp.down_proj.weight, uncut.model.layers[layer].mlp.down_proj.weight)


def test_facts_are_json_and_say_what_was_cut(tmp_path):
    facts = run(_options(layers=1, ffn=8), _context(_source(tmp_path / "source"), tmp_path / "target")).facts
    assert json.loads(json.dumps(facts, allow_nan=False)) == facts
    assert sorted(facts["layers"]["kept"] + facts["layers"]["removed"]) == [0, 1, 2, 3]
    assert facts["ffn"]["before"] == 48
    assert facts["ffn"]["kept"] == [40, 40, 40]
    assert all(float(f"{score:.6g}") == score for score in facts["layers"]["scores"])
    before, after = facts["parameters"]["before"], facts["parameters"]["after"]
    assert before["embedding"] == after["embedding"] == 64 * 32
    assert before["head"] == after["head"] == 0
    assert after["ffn"] == 3 * (3 * 32 * 40 + 2 * 40 + 32)


def test_the_same_run_writes_the_same_bytes(tmp_path):
    source = _source(tmp_path / "source", "gemma3_text")
    written = []
    for name in ("one", "two"):
        context = _context(source, tmp_path / name)
        outcome = run(_options(layers=1, ffn=0.5), context)
        written.append(
            (outcome.facts, {path.as_posix(): sha256_of(context.target / path) for path in list_files(context.target)})
        )
    assert written[0] == written[1]
    assert "model.safetensors" in written[0][1]


def test_half_precision_weights_are_read_as_float32(tmp_path):
    tiny_model("llama", dtype=torch.float16).save_pretrained(tmp_path / "source")
    context = _context(tmp_path / "source", tmp_path / "target")
    run(_options(ffn=8), context)
    assert read_config(context.target)["dtype"] == "float32"
    assert load_model(context.target).dtype == torch.float32


def test_progress_counts_the_windows(tmp_path):
    said = []
    context = _context(
        _source(tmp_path / "source"),
        tmp_path / "target",
        progress=lambda done, total, unit="", note="": said.append((done, total, unit)),
    )
    run(_options(layers=1, ffn=8), context)
    assert said == [(8, 10, "windows"), (10, 10, "windows")]


def test_one_window_is_enough_and_none_is_refused(tmp_path):
    source = _source(tmp_path / "source")
    facts = run(_options(layers=1), _context(source, tmp_path / "one", _corpus(20))).facts
    assert facts["calibration_tokens"] == 16
    with pytest.raises(StageError) as caught:
        run(_options(layers=1), _context(source, tmp_path / "none", _corpus(15)))
    assert str(caught.value) == (
        "prune: the calibration text has no window of 16 tokens; give more text, or a smaller calibration.length"
    )


def test_illegal_requests_are_refused_before_weights_are_read(tmp_path):
    source = _source(tmp_path / "source")
    (source / "model.safetensors").unlink()
    with pytest.raises(StageError) as caught:
        run(_options(layers=4), _context(source, tmp_path / "target"))
    assert str(caught.value) == (
        f"prune {source}: remove.layers 4 would remove 4 of 4 layers; at least 1 must stay: use a count of at most 3"
    )


def test_a_quantized_folder_is_refused(tmp_path):
    source = _source(tmp_path / "source")
    (source / "quantization.safetensors").touch()
    with pytest.raises(
        StageError, match="its weights are quantized, and a cut would lose the codes; prune before quantize"
    ):
        run(_options(layers=1), _context(source, tmp_path / "target"))


def test_data_is_needed(tmp_path):
    source = _source(tmp_path / "source")
    with pytest.raises(StageError, match=r"needs calibration text to take scores on"):
        run(_options(layers=1), Context(source, tmp_path, tmp_path, 0))


def test_a_folder_that_reloads_to_another_model_is_noticed(tmp_path):
    source = _source(tmp_path / "source")
    ids = torch.arange(3, 9)[None]
    with torch.no_grad():
        logits = load_model(source)(ids).logits
    prove_reload(source, ids, logits)
    with pytest.raises(
        StageError, match=r"the reloaded model differs from the pruned one by 0\.1 of the largest logit"
    ):
        prove_reload(source, ids, logits / 1.1)
    with pytest.raises(StageError, match=r"gives logits of shape \(1, 6, 64\), expected \(1, 6, 63\)"):
        prove_reload(source, ids, logits[..., 1:])


def test_a_folder_with_a_wrong_config_does_not_reload(tmp_path):
    source = _source(tmp_path / "source")
    config = read_config(source)
    (source / "config.json").write_text(json.dumps({**config, "intermediate_size": 40}))
    with pytest.raises(StageError, match="the pruned model does not reload"):
        prove_reload(source, torch.arange(3, 9)[None], torch.zeros(1, 6, 64))
