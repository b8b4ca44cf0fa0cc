from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from compress.benchmark import classification
from compress.benchmark.classification import class_names, class_number, measure_classification, read_texts
from compress.benchmark.options import AccuracyOptions
from compress.contract import Measurement
from compress.data.corpus import Corpus, Example
from compress.data.load import RecipeData
from compress.data.options import DataOptions, Source
from compress.models.encoder import open_encoder
from compress.models.folder import load_tokenizer
from tests.models.tiny_encoder import CONTEXT, make_encoder_folder
from tests.prune.tiny_tokenizers import TEXT, random_texts
from tests.references import classification as reference

TEXTS = [*TEXT, *random_texts(40), "fox " * 60]
EMPTY = np.zeros(0, dtype=np.int64)


def corpus_of(*examples: Example) -> Corpus:
    return Corpus(EMPTY, np.zeros(0, dtype=np.bool_), EMPTY, EMPTY, (), "", examples)


def measured(folder: Path, *examples: Example, **options: Any) -> Measurement:
    return measure_classification(folder, corpus_of(*examples), AccuracyOptions(**options))


def change(folder: Path, **changes: Any) -> Path:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))
    return folder


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_encoder_folder(
        tmp_path_factory.mktemp("classifier") / "bert", id2label={0: "bad", 1: "fair", 2: "good"}
    )


def balance(folder: Path) -> Any:
    """Shift the head's bias so that no class wins on all texts, and return the model in float64."""
    exact = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    encoder = open_encoder(folder)
    middle = np.median(classification.classify(encoder, read_texts(folder, TEXTS, CONTEXT).sequences), axis=0)
    head = exact.classifier.out_proj if hasattr(exact.classifier, "out_proj") else exact.classifier
    with torch.no_grad():
        head.bias -= torch.from_numpy(middle)
    exact.save_pretrained(folder)
    return exact.to(torch.float64)


@pytest.mark.parametrize("family", ["bert", "distilbert", "roberta"])
def test_equals_one_by_one(tmp_path: Path, family: str) -> None:
    folder = make_encoder_folder(tmp_path / family, family, num_labels=3)
    exact = balance(folder)
    tokenizer = load_tokenizer(folder)
    classes = [reference.predicted(exact, tokenizer, text, CONTEXT) for text in TEXTS]
    assert set(classes) == {0, 1, 2}
    labels = [(number if index % 3 else number + 1) % 3 for index, number in enumerate(classes)]
    examples = [Example(text, label) for text, label in zip(TEXTS, labels, strict=True)]
    found = measured(folder, *examples)
    assert found.value == reference.accuracy(exact, tokenizer, TEXTS, labels, CONTEXT)
    assert 0.5 < (found.value or 0) < 0.8
    long = sum(len(tokenizer.encode(text, add_special_tokens=False).ids) > CONTEXT - 2 for text in TEXTS)
    assert found.conditions["examples"] == len(TEXTS)
    assert found.conditions["truncated_at_context"] == long >= 1
    assert found.conditions["chance"] == 1 / 3
    assert found.conditions["context"] == CONTEXT


def test_batches_change_nothing(bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, sequences = open_encoder(bert), read_texts(bert, TEXTS, CONTEXT).sequences
    together = classification.classify(encoder, sequences)
    assert together.shape == (len(TEXTS), 3)
    monkeypatch.setattr(classification, "_BATCH_TOKENS", 1)
    np.testing.assert_allclose(classification.classify(encoder, sequences), together, atol=1e-5)


def test_labels_are_numbers_or_names(bert: Path) -> None:
    logits = classification.classify(open_encoder(bert), read_texts(bert, TEXT, CONTEXT).sequences)
    names = ["bad", "fair", "good"]
    for labels in (logits.argmax(-1).tolist(), [names[number] for number in logits.argmax(-1)]):
        found = measured(bert, *(Example(text, label) for text, label in zip(TEXT, labels, strict=True)))
        assert found.value == 1.0
    only = measured(bert, Example(TEXT[0], 0), Example(TEXT[1], 0), Example(TEXT[2], 9), examples=2)
    assert (only.conditions["examples"], only.conditions["examples_asked"]) == (2, 2)
    assert only.conditions["most_frequent"] == 1.0


@pytest.mark.parametrize(
    ("label", "expected"), [(1, 1), ("one", 1), ("1", 1), ("0", 2), (3, None), (-1, None), ("One", None), ("", None)]
)
def test_a_name_goes_before_a_number(label: int | str, expected: int | None) -> None:
    assert class_number(label, {0: "nought", 1: "one", 2: "0"}) == expected


def test_classes_without_names_are_numbered() -> None:
    assert class_names({"id2label": {"1": "good"}}, 2) == {0: "LABEL_0", 1: "good"}
    assert class_names({}, 1) == {0: "LABEL_0"}


def test_reasons(bert: Path, tmp_path: Path) -> None:
    assert measured(bert).reason == "the evaluation data has no labels; name their column with label:"
    strange = measured(bert, Example("fox", "bad"), Example("fox", "great"))
    assert strange.reason == "label 'great' of the evaluation data is none of the model's: 0 bad, 1 fair, 2 good"
    masked = make_encoder_folder(tmp_path / "masked", head="ForMaskedLM")
    assert measured(masked, Example("fox", 0)).reason == "BertForMaskedLM is no classifier of texts"
    one = make_encoder_folder(tmp_path / "one", num_labels=1)
    reason = "BertForSequenceClassification has one output: it gives a number, no class"
    assert measured(one, Example("fox", 0)).reason == reason
    change(one, problem_type="multi_label_classification")
    reason = "accuracy is that of one class for each text, and this model's problem_type is multi_label_classification"
    assert measured(one, Example("fox", 0)).reason == reason
    small = make_encoder_folder(tmp_path / "small", vocab_size=20)
    assert measured(small, Example(TEXT[0], 0)).reason.endswith(
        "the model has tokens 0 to 19: the tokenizer is not its own"
    )
    (small / "tokenizer.json").unlink()
    assert measured(small, Example(TEXT[0], 0)).reason == "the folder has no tokenizer.json"
    (small / "model.onnx").touch()
    reason = "BertForSequenceClassification is not run from an ONNX file"
    assert measured(small, Example(TEXT[0], 0)).reason == reason
    (small / "model.onnx").unlink()
    change(small, model_type="electra", architectures=["ElectraForSequenceClassification"])
    reason = "ElectraForSequenceClassification is not in the family table"
    assert measured(small, Example(TEXT[0], 0)).reason == reason


def test_broken_weights_have_no_accuracy(bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = np.full((1, 3), np.nan, dtype=np.float32)
    monkeypatch.setattr(classification, "classify", lambda *_: broken)
    assert measured(bert, Example("fox", 0)).reason == "not finite: the model's logits are broken"


def test_the_same_value_again(bert: Path) -> None:
    examples = [Example(text, index % 3) for index, text in enumerate(TEXTS)]
    assert measured(bert, *examples) == measured(bert, *examples)


def test_sst2_has_the_accuracy_that_stands_beside_the_model(assets: Path) -> None:
    folder = assets / "models" / "minilm-sst2"
    source = Source(files=[str(assets / "data" / "sst2" / "dev.tsv")], text="sentence", label="label")
    corpus = RecipeData(DataOptions(evaluation=source), 0)("evaluation", folder)
    found = measure_classification(folder, corpus, AccuracyOptions())
    right, _, total = (folder / "accuracy.txt").read_text().split(": ")[1].split(" ")[0].partition("/")
    assert found.conditions["examples"] == int(total)
    assert found.value == int(right) / int(total)
