"""What `compress check` says of data that the teacher is to write."""

# ruff: noqa: E501 - the tables hold whole messages

from __future__ import annotations

import json

import pytest

from tests.tiny_check import CONFIG, TEXT, model, notes, said

DATA = "  train: {builtin: stories}\n"
GOOD = "from: teacher, documents: 9, new_tokens: 100, prompts: {openings: {builtin: stories, tokens: 8}}"
STEP = "  - prune: {remove: {layers: 1}}\n"


@pytest.fixture
def place(tmp_path):
    model(tmp_path / "model")
    classes = {"id2label": {"0": "bad", "1": "good"}}
    model(tmp_path / "judge", model_type="bert", architectures=["BertForSequenceClassification"], **classes)
    (tmp_path / "table.jsonl").write_text(json.dumps({"ask": "x"}) + "\n")
    return tmp_path


def recipe(written: str, text: str = TEXT) -> str:
    return text.replace(DATA, f"  train: {{{written}}}\n") + STEP


def test_a_good_source_has_no_notes(place):
    quality = "filters: [{quality: {model: judge, label: good, min: 0.5}}]"
    assert notes(place, recipe(f"{GOOD}, {quality}")) == []


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ("new_tokens: 250", "5:37: data.train.new_tokens: 250 new tokens after 8 of an opening do not fit into the teacher's context of 256 tokens; use fewer"),
        ("filters: [{quality: {model: model, label: 0, min: 0}}]", "5:143: data.train.filters[0].quality.model: ./model is a LlamaForCausalLM, and quality asks a classifier of texts"),
        ("filters: [{quality: {model: judge, label: great, min: 0}}]", "5:157: data.train.filters[0].quality.label: quality.label 'great' is no class of ./judge; it has 0 bad, 1 good"),
        ("filters: [{quality: {model: gone, label: 0, min: 0}}]", "5:143: data.train.filters[0].quality.model: ./gone: no config.json there; a model folder is needed"),
        ("filters: [finish]", "5:132: data.train.filters[0] has no option 'finish'. Did you mean 'finished'?"),
        ("filters: [{lenght: {min: 0}}]", "5:133: data.train.filters[0] has no option 'lenght'. Did you mean 'length'?"),
        ("chat: true", "5:122: data.train.chat is true, but the teacher (./model) has no chat template; leave it out"),
        ("form: x", "5:122: data.train has no option 'form'. Did you mean 'from'?"),
    ],
)  # fmt: skip
def test_what_cannot_be_written_is_refused(place, changed, expected):
    name = changed.partition(":")[0]
    written = GOOD.replace("new_tokens: 100", changed) if name == "new_tokens" else f"{GOOD}, {changed}"
    found = said(place, recipe(written))
    assert [line.partition(" ")[2] for line in found] == [expected.partition(" ")[2]]
    assert found[0].startswith("5:")


@pytest.mark.parametrize(
    ("prompts", "expected"),
    [
        ("openings: {files: gone.txt}", "data file ./gone.txt: there is no such file; look at the path (it is relative to the recipe file)"),
        ("instructions: {files: table.jsonl}", "data.train.prompts.instructions: ./table.jsonl has no column 'instruction'; the columns are 'ask'. Name it with instruction:"),
        ("template: 'A {x}', words: {x: gone.txt}", "data.train.prompts.words.x: words.x: there is no file ./gone.txt; give a text file with a word in each line, or a list"),
    ],
)  # fmt: skip
def test_files_of_prompts_are_looked_for(place, prompts, expected):
    found = said(place, recipe(f"from: teacher, documents: 9, new_tokens: 100, prompts: {{{prompts}}}"))
    assert [line.partition(" ")[2] for line in found] == [expected]


def test_a_teacher_is_needed_and_must_write_text(place):
    without = recipe(GOOD, TEXT.replace("teacher: {model: model}\n", "student: {model: model}\n"))
    assert said(place, without) == ["5:11: data.train: from teacher needs a teacher, the recipe has none"]
    (place / "model" / "config.json").write_text(
        json.dumps(CONFIG | {"model_type": "bert", "architectures": ["BertForMaskedLM"]})
    )
    found = said(place, recipe(GOOD))
    expected = "data.train.from: the teacher is a BertForMaskedLM, and only a causal language model writes text"
    assert f"5:11: {expected}" in found


def test_measuring_on_written_data_is_noted(place):
    text = recipe(GOOD).replace("  evaluation: {builtin: stories, seed: 1}\n", f"  evaluation: {{{GOOD}, seed: 3}}\n")
    assert notes(place, text) == [
        "data.evaluation is written by the teacher: what is measured on it says how well it is imitated, not more"
    ]
