"""What the stage refuses, with the exact message, and before weights are read wherever that can be."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from compress.contract import Context
from compress.errors import StageError
from compress.models.families import count_parameters
from compress.models.folder import load_model, read_config
from compress.prune import stage
from compress.prune.stage import prove_reload, run
from tests.prune.tiny_stage import IDS, Text, context_of, options_of, run_stage, write_source
from tests.references.tiny_families import tiny_model


def test_one_window_is_enough_and_none_is_refused(tmp_path):
    source = write_source(tmp_path / "source")
    facts = run(options_of({"layers": 1, "ffn": 8}), context_of(source, tmp_path / "one", Text(20))).facts
    assert facts["calibration_tokens"] == 16
    with pytest.raises(StageError) as caught:
        run(options_of({"layers": 1}), context_of(source, tmp_path / "none", Text(15)))
    assert str(caught.value) == (
        "prune: the calibration text has no window of 16 tokens; give more text, or a smaller calibration.length"
    )


REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "layers": (
        "llama",
        {"remove": {"layers": 4}},
        "remove.layers 4 would remove 4 of 4 layers; at least 1 must stay: use a count of at most 3",
    ),
    "long windows": (
        "llama",
        {"remove": {"layers": 1}, "calibration": {"length": 65}},
        "calibration.length 65 is longer than the model's context of 64 tokens; use at most 64",
    ),
    "target": (
        "llama",
        {"keep": {"parameters": 100_000}},
        "keep: the model has 34,304 parameters, which is not more than the 100,000 to keep; nothing to remove",
    ),
    "taylor of an encoder": (
        "bert",
        {"remove": {"ffn": 8, "heads": 1}, "score": "taylor"},
        "score.ffn taylor needs the loss of a causal language model, and BertForMaskedLM is none; use activation; "
        "score.heads taylor needs the loss of a causal language model, and BertForMaskedLM is none; use activation; "
        "score.hidden taylor needs the loss of a causal language model, and BertForMaskedLM is none; use activation",
    ),
    "perplexity of an encoder": (
        "roberta",
        {"remove": {"layers": 1}, "score": {"layers": "perplexity", "ffn": "taylor"}},
        "score.layers perplexity needs the loss of a causal language model, and RobertaForMaskedLM is none; "
        "use block_influence",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_illegal_requests_are_refused_before_weights_are_read(case, tmp_path):
    name, options, message = REFUSED[case]
    source = write_source(tmp_path / "source", name)
    (source / "model.safetensors").unlink()
    context = context_of(source, tmp_path / "target")
    with pytest.raises(StageError) as caught:
        run(options_of(**options), context)
    if case == "target":
        message = message.replace("34,304", f"{sum(count_parameters(read_config(source)).values()):,}")
    assert str(caught.value) == f"prune {source}: {message}"
    assert list(context.target.iterdir()) == []


def test_an_encoder_may_name_a_loss_for_what_is_not_cut(tmp_path):
    model, _ = run_stage(tmp_path, {"ffn": 8}, name="bert", score={"layers": "perplexity", "heads": "taylor"})
    assert model.config.intermediate_size == 40


def test_a_quantized_folder_is_refused(tmp_path):
    source = write_source(tmp_path / "source")
    (source / "quantization.safetensors").touch()
    with pytest.raises(StageError) as caught:
        run(options_of({"layers": 1}), context_of(source, tmp_path / "target"))
    assert str(caught.value) == (
        f"prune {source}: its weights are quantized, and a cut would lose the codes; prune before quantize"
    )


@pytest.mark.parametrize("axis", ["layers", "vocab"])
def test_data_is_needed(axis, tmp_path):
    source = write_source(tmp_path / "source", tokenizer=True)
    with pytest.raises(StageError) as caught:
        run(options_of({axis: 1}), Context(source, tmp_path, tmp_path, 0))
    assert str(caught.value) == (
        "prune: needs calibration text to take scores on; give the recipe data.calibration or data.train"
    )


def test_a_vocabulary_that_cannot_be_cut_so_far_is_refused(tmp_path):
    source = write_source(tmp_path / "source", tokenizer=True)
    (source / "model.safetensors").unlink()
    message = rf"^prune {source}: remove\.vocab would leave 8 of 408 tokens, and \d+ must stay"
    with pytest.raises(StageError, match=message):
        run(options_of({"vocab": 400}), context_of(source, tmp_path / "target"))


def test_weights_that_are_no_numbers_are_refused(tmp_path):
    model = tiny_model("llama", dtype=torch.float32)
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[0, 0] = torch.nan
    model.save_pretrained(tmp_path / "source")
    with pytest.raises(StageError) as caught:
        run(options_of({"ffn": 8}), context_of(tmp_path / "source", tmp_path / "target"))
    assert str(caught.value) == (
        "prune: scores are not finite; the weights or the calibration text give no finite activations"
    )


@pytest.mark.parametrize("where", ["prove_group", "Cut"])
def test_a_model_that_is_not_what_the_table_says_is_refused(where, tmp_path, monkeypatch):
    def refuse(*_args: object) -> None:
        raise ValueError("the table is wrong")

    monkeypatch.setattr(stage, where, refuse)
    source = write_source(tmp_path / "source")
    with pytest.raises(StageError) as caught:
        run(options_of({"ffn": 8}), context_of(source, tmp_path / "target"))
    assert str(caught.value) == f"prune {source}: the table is wrong"


def test_a_folder_that_reloads_to_another_model_is_noticed(tmp_path):
    source = write_source(tmp_path / "source")
    with torch.no_grad():
        logits = load_model(source)(IDS).logits
    prove_reload(source, IDS, logits)
    for given, message in (
        (logits / 1.1, r"the reloaded model differs from the pruned one by 0\.1 of the largest logit, at most 1e-05"),
        (logits * torch.nan, r"the reloaded model differs from the pruned one by nan"),
        (logits[..., 1:], r"gives logits of shape \(1, 10, 64\), expected \(1, 10, 63\)"),
    ):
        with pytest.raises(StageError, match=message):
            prove_reload(source, IDS, given)


def test_a_folder_with_a_wrong_config_does_not_reload(tmp_path):
    source = write_source(tmp_path / "source")
    config = read_config(source)
    (source / "config.json").write_text(json.dumps({**config, "intermediate_size": 40}))
    with pytest.raises(StageError, match="the pruned model does not reload"):
        prove_reload(source, IDS, torch.zeros(1, 10, 64))
