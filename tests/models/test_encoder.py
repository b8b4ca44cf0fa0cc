"""Encoders: padding, the context behind a padding id, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from compress.errors import ArtifactError
from compress.models.decoder import open_decoder
from compress.models.encoder import open_encoder, refuse_encoder
from compress.models.kind import class_name, is_causal, is_classifier, is_known
from tests.models.tiny_decoder import make_torch_folder
from tests.models.tiny_encoder import CONTEXT, PREFIXES, make_encoder_folder


@pytest.mark.parametrize("family", sorted(PREFIXES))
def test_reads_its_whole_context_and_right_padding_changes_nothing(tmp_path: Path, family: str) -> None:
    encoder = open_encoder(make_encoder_folder(tmp_path / family, family), threads=1)
    assert encoder.context == CONTEXT
    ids = np.random.default_rng(1).integers(4, encoder.vocabulary, (3, CONTEXT), dtype=np.int64)
    lengths = np.array([CONTEXT, 7, 1])
    padded = np.where(np.arange(CONTEXT) < lengths[:, None], ids, encoder.pad)
    together = encoder.outputs(padded, lengths)
    assert (together.shape, together.dtype) == ((3, 2), np.float32)
    for row, length in enumerate(lengths):
        np.testing.assert_allclose(together[row], encoder.outputs(ids[row : row + 1, :length])[0], atol=1e-5)
    with pytest.raises(ValueError, match=f"{CONTEXT + 1} tokens are more than the context of {CONTEXT}"):
        encoder.outputs(np.zeros((1, CONTEXT + 1), dtype=np.int64))


def test_without_a_head_there_are_hidden_states(tmp_path: Path) -> None:
    encoder = open_encoder(make_encoder_folder(tmp_path / "base", head="Model"))
    assert encoder.outputs(np.full((2, 5), 7)).shape == (2, 5, 32)


def test_one_kind_is_not_opened_as_the_other(tmp_path: Path) -> None:
    encoder = make_encoder_folder(tmp_path / "encoder")
    said = f"{encoder}: BertForSequenceClassification is no causal language model"
    with pytest.raises(ArtifactError) as caught:
        open_decoder(encoder)
    assert str(caught.value) == said
    config = json.loads((encoder / "config.json").read_text()) | {"model_type": "electra"}
    (encoder / "config.json").write_text(json.dumps(config | {"architectures": ["ElectraForPreTraining"]}))
    with pytest.raises(ArtifactError) as caught:
        open_encoder(encoder)
    assert str(caught.value) == f"{encoder}: ElectraForPreTraining is not in the family table"
    assert refuse_encoder(make_torch_folder(tmp_path / "decoder")) == ""
    with pytest.raises(ArtifactError, match="no such folder"):
        refuse_encoder(tmp_path / "none")


@pytest.mark.parametrize(
    ("family", "named", "causal", "classifier", "known"),
    [
        ("llama", "LlamaForCausalLM", True, False, True),
        ("llama", "LlamaForSequenceClassification", False, True, False),
        ("gpt2", "GPT2LMHeadModel", True, False, True),
        ("gpt2", "GPT2Model", True, False, False),
        ("gpt2", "GPT2ForSequenceClassification", False, True, False),
        ("mixtral", "MixtralForCausalLM", True, False, False),
        ("gemma3", "Gemma3ForConditionalGeneration", True, False, False),
        ("t5", "T5ForConditionalGeneration", False, False, False),
        ("bert", "BertForSequenceClassification", False, True, True),
        ("bert", "BertModel", False, False, True),
        ("bert", "BertLMHeadModel", True, False, False),
        ("roberta", "RobertaForMaskedLM", False, False, True),
        ("electra", "ElectraForSequenceClassification", False, True, False),
    ],
)
def test_the_class_says_the_kind(family: str, named: str, causal: bool, classifier: bool, known: bool) -> None:
    config = {"model_type": family, "architectures": [named], "is_encoder_decoder": family == "t5"}
    assert class_name(config) == named
    assert (is_causal(config), is_classifier(config), is_known(config)) == (causal, classifier, known)


def test_a_config_without_a_class_is_of_its_familys_first_kind() -> None:
    assert [is_causal({"model_type": name}) for name in ("llama", "bert", "unheard-of")] == [True, False, True]
    assert is_causal({})
    assert class_name({"model_type": "distilbert"}) == "DistilBertForMaskedLM"
    assert class_name({}) == ""
