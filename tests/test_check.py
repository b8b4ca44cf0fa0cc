"""What is refused before anything runs: models, data, lengths, tokens, plans."""

# ruff: noqa: E501 - the tables hold whole messages

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from compress.check import check
from compress.errors import RecipeError
from compress.models.origin import EMBEDDED
from compress.recipe import read_recipe
from tests.tiny_check import CONFIG, TEXT, model, notes, said


@pytest.fixture
def place(tmp_path) -> Path:
    model(tmp_path / "model")
    return tmp_path


def test_a_good_recipe_has_no_notes(place):
    text = TEXT + "  - prune: {remove: {layers: 1}}\n  - quantize: {id: int4, bits: 4, block: 16}\n  - export:\n"
    assert notes(place, text) == []


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("prune: {remove: {layers: 2}}", "5: stages[0].prune: remove.layers 2 would remove 2 of 2 layers; at least 1 must stay: use a count of at most 1"),
        ("prune: {remove: {layers: 1}, calibration: {length: 512}}", "5: stages[0].prune: calibration.length 512 is longer than the model's context of 256 tokens; use at most 256"),
        ("quantize: {bits: 4, block: 32}", "5: stages[0].quantize: quantize.block 32 does not divide the width 48 of the tied embedding; the nearest block that does is 16"),
        ("distill: {tokens: 9, length: 512}", "26: stages[0].distill.length is 512, the context of 'start' is 256 tokens; use at most 256"),
        ("train: {tokens: 9, length: 512}", "24: stages[0].train.length is 512, the context of 'start' is 256 tokens; use at most 256"),
    ],
)  # fmt: skip
def test_a_stage_that_cannot_work_is_refused(place, line, expected):
    assert said(place, f"{TEXT}  - {line}\n") == [f"8:{expected}"]


def test_a_plan_sees_what_the_stages_before_it_leave(place):
    text = TEXT + "  - prune: {id: a, remove: {layers: 1}}\n  - prune: {id: b, remove: {layers: 1}}\n"
    assert said(place, text) == [
        "9:5: stages[1].prune: remove.layers 1 would remove 1 of 1 layers; at least 1 must stay: leave it out"
    ]


def test_train_and_distill_start_from_a_quantized_model_and_leave_one(place):
    text = TEXT + "  - quantize: {bits: 4, block: 16}\n"
    for word in ("train", "distill"):
        found = said(place, f"{text}  - {word}: {{tokens: 9}}\n  - prune: {{remove: {{layers: 1}}}}\n")
        assert [line.partition(" and prune")[0] for line in found] == [f"10:5: stages[2].prune: '{word}' is quantized,"]


@pytest.mark.parametrize("line", ["prune: {remove: {layers: 1}}", "quantize: {id: again, bits: 8, block: 16}"])
def test_nothing_that_loses_its_codes_starts_from_a_quantized_model(place, line):
    word = line.partition(":")[0]
    expected = f"stages[1].{word}: 'quantize' is quantized, and {word} would lose its codes; use the model that it was made from, or one of train, distill, export"
    assert said(place, f"{TEXT}  - quantize: {{bits: 4, block: 16}}\n  - {line}\n") == [f"9:5: {expected}"]
    (place / "model" / "quantization.safetensors").touch()
    found = said(place, f"{TEXT}  - {line}\n")
    assert found == [
        f"8:5: {expected.replace('[1]', '[0]').replace('quantize' + chr(39) + ' is', 'start' + chr(39) + ' is')}"
    ]


@pytest.mark.parametrize("word", ["train", "distill"])
def test_what_writes_no_text_learns_no_next_token(word, place):
    model(place / "bert", model_type="bert", architectures=["BertForMaskedLM"])
    text = TEXT.replace("{model: model}", "{model: bert}") + f"  - {word}: {{tokens: 9}}\n"
    needs = "needs a causal language model; leave it out"
    assert said(place, text) == [f"8:5: stages[0].{word}: 'start' is a BertForMaskedLM, and {word} {needs}"]
    if word == "distill":
        other = text + "student: {model: model}\n"
        assert said(place, other) == [f"8:5: stages[0].distill: 'teacher' is a BertForMaskedLM, and distill {needs}"]


def test_distill_needs_the_tokenizer_of_the_teacher(place):
    # a row more is padding
    model(place / "other", vocab_size=65)
    text = TEXT + "  - distill: {tokens: 9}\nstudent: {model: other}\n"
    assert notes(place, text) == []
    tokenizer = json.loads((place / "other" / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = 1, 0
    (place / "other" / "tokenizer.json").write_text(json.dumps(tokenizer))
    assert said(place, text) == [
        "8:5: stages[0].distill: teacher and student have different tokenizers: 'a' is 0 for the teacher and 1 for the student; 'b' is 1 for the teacher and 0 for the student. Start from a student with the teacher's tokenizer"
    ]
    own = text.replace("{model: other}", "{init: scratch, layers: 1, hidden: 8, ffn: 8, heads: 2, vocab: 300}")
    assert said(place, own) == [
        "8:5: stages[0].distill: student.vocab makes a tokenizer of its own, but distill needs the teacher's; leave student.vocab out"
    ]
    (place / "other" / "tokenizer.json").write_text("[]")
    assert said(place, text) == ["8:5: stages[0].distill: ./other/tokenizer.json: a JSON object is needed, found list"]


def test_distill_looks_at_the_context_of_the_teacher_too(place):
    model(place / "other", max_position_embeddings=512)
    text = TEXT + "  - distill: {tokens: 9, length: 300}\nstudent: {model: other}\n"
    assert said(place, text) == [
        "8:26: stages[0].distill.length is 300, the context of 'teacher' is 256 tokens; use at most 256"
    ]


@pytest.mark.parametrize(
    ("remove", "add", "expected"),
    [
        ("config.json", "", "teacher.model: ./model: no config.json there; a model folder is needed"),
        ("tokenizer.json", "", "teacher.model: ./model: no tokenizer.json there; save the tokenizer in the fast format: AutoTokenizer.from_pretrained(folder).save_pretrained(folder)"),
        ("model.safetensors", "", "teacher.model: ./model: no model*.safetensors there; save the weights as safetensors"),
        ("model.safetensors", "pytorch_model.bin", "teacher.model: ./model: the weights are there as .bin only; save them as safetensors: AutoModelForCausalLM.from_pretrained(folder).save_pretrained(folder)"),
        ("model.safetensors", "model.onnx", "teacher.model: ./model: this is an ONNX folder; a recipe starts from a torch folder (model.safetensors)"),
    ],
)  # fmt: skip
def test_a_folder_that_is_no_model_is_refused(place, remove, add, expected):
    (place / "model" / remove).unlink()
    if add:
        (place / "model" / add).touch()
    assert said(place, TEXT + "  - export:\n") == [f"3:11: {expected}"]


def test_a_missing_shard_and_a_broken_config_are_refused(place):
    index = place / "model" / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "model.safetensors", "b": "model-2.safetensors"}}))
    assert said(place, TEXT + "  - export:\n") == [
        "3:11: teacher.model: ./model: model-2.safetensors of model.safetensors.index.json is missing; copy the model again"
    ]
    (place / "model" / "config.json").write_text("{")
    assert "config.json: not JSON" in said(place, TEXT + "  - export:\n")[0]


def test_a_revision_beside_a_folder_is_refused(place):
    assert said(place, TEXT.replace("{model: model}", "{model: model, revision: main}") + "  - export:\n") == [
        "3:25: teacher.revision is for models of the hub; ./model is a folder"
    ]


def test_data_files_are_looked_for_one_by_one(place):
    (place / "a.txt").touch()
    (place / "b.csv").touch()
    (place / "folder").mkdir()
    text = TEXT.replace("train: {builtin: stories}", "train: {files: [a.txt, no.txt, b.rst, folder]}")
    (place / "b.rst").touch()
    found = said(place, text + "  - export:\n")
    assert [line.partition(";")[0] for line in found] == [
        "5:26: data file ./no.txt: there is no such file",
        "5:34: data file ./b.rst: format '.rst' is not read",
        "5:41: data file ./folder: this is a folder",
    ]
    text = TEXT.replace("train: {builtin: stories}", "train: {files: [a.txt, b.csv]}")
    assert said(place, text + "  - export:\n") == [
        "5:11: data files ./a.txt, ./b.csv: one source holds one format; make a source of each"
    ]


def test_a_token_that_the_model_does_not_have_is_refused(place):
    (place / "model" / "config.json").write_text(json.dumps(CONFIG | {"bos_token_id": None}))
    text = TEXT + "  - export:\nbenchmark: {perplexity: {join: bos}}\n"
    assert said(place, text) == [
        "9:26: benchmark.perplexity.join is bos, but teacher (./model) has no BOS token; use another"
    ]
    assert notes(place, text.replace("join: bos", "join: eos")) == []


def test_messages_need_a_chat_template(place):
    (place / "chat.jsonl").touch()
    text = TEXT.replace("train: {builtin: stories}", "train: {files: chat.jsonl, messages: turns}") + "  - export:\n"
    assert said(place, text) == [
        "5:30: data.train.messages needs a chat template, and teacher (./model) has none; use prompt and completion"
    ]
    (place / "model" / "tokenizer_config.json").write_text('{"chat_template": "x"}')
    assert notes(place, text) == []


def test_a_column_that_is_not_there_is_refused(place):
    (place / "a.tsv").write_text("sentence\tclass\nx\t1\n")
    (place / "b.tsv").write_text("sentence\tlabel\nx\t1\n")
    (place / "c.jsonl").write_text('{"text": "x"}\n')
    (place / "d.txt").write_text("x")
    (place / "e.csv").write_text("text,label\n")

    def evaluation(source):
        return TEXT.replace("{builtin: stories, seed: 1}", source) + "  - export:\n"

    assert notes(place, evaluation("{files: [a.tsv], text: sentence, label: class}")) == []
    assert notes(place, evaluation("{files: e.csv, label: label}")) == []
    assert said(place, evaluation("{files: [a.tsv, b.tsv], text: sentence, label: class}")) == [
        "6:55: data.evaluation.label: ./b.tsv has no column 'class'; the columns are 'sentence', 'label'"
    ]
    assert said(place, evaluation("{files: c.jsonl, text: words, label: class}")) == [
        "6:32: data.evaluation.text: ./c.jsonl has no column 'words'; the columns are 'text'",
        "6:45: data.evaluation.label: ./c.jsonl has no column 'class'; the columns are 'text'",
    ]
    assert said(place, evaluation("{files: d.txt, label: class}")) == [
        "6:16: data file ./d.txt: a text file has no column 'class'; labels stand in tables"
    ]
    for beside, problem in (
        ("files: c.jsonl, messages: x", "label stands beside text, the column of whole texts, not beside messages"),
        (
            "files: c.jsonl, prompt: x, completion: y",
            "label stands beside text, the column of whole texts, not beside prompt",
        ),
        (
            "files: d.txt, separator: x",
            "label cannot stand beside separator: labels are a column, and a text file has none",
        ),
    ):
        (found,) = said(place, evaluation(f"{{{beside}, label: class}}"))
        assert found.endswith(problem)


def test_labels_are_for_the_evaluation(place):
    (place / "a.tsv").write_text("text\tclass\nx\t1\n")
    text = TEXT.replace("{builtin: stories}", "{files: a.tsv, label: class}", 1) + "  - export:\n"
    assert said(place, text) == [
        "5:25: data.train.label: labels are read of data.evaluation alone, to measure accuracy; leave it out"
    ]


def test_an_encoder_need_not_fit_the_windows_of_the_benchmark(place):
    config = CONFIG | {"model_type": "bert", "architectures": ["BertForMaskedLM"], "max_position_embeddings": 128}
    (place / "model" / "config.json").write_text(json.dumps(config))
    text = TEXT + "  - prune: {remove: {layers: 1}, calibration: {length: 64}}\n"
    assert notes(place, text) == []
    assert [line.split(":")[2] for line in said(place, text.replace("64}", "200}"))] == [" stages[0].prune"]


def test_the_benchmark_must_fit_the_least_context(place):
    text = TEXT + "  - export:\nbenchmark: {perplexity: {length: 300}, latency: {prompt: 250, new: 10}}\n"
    assert said(place, text) == [
        "9:26: benchmark.perplexity.length is 300, the context of 'teacher' is 256 tokens; use at most 256",
        "9:40: benchmark.latency: prompt + new is 260, the context of 'teacher' is 256 tokens; use fewer",
    ]


def test_what_is_wrong_in_the_text_and_in_what_it_asks_for_is_said_together(place):
    text = TEXT.replace("name: tiny", "name: Tiny").replace("{builtin: stories}", "{files: no.txt}", 1)
    text += "  - prune: {remove: {layers: 9}}\n  - quantize: {bits: 3}\n  - export: {from: prun}\n"
    text += "benchmark: {perplexity: {length: 999}}\n"
    assert [line.split(":")[0] for line in said(place, text)] == ["2", "5", "8", "9", "10", "11"]


def test_a_wrong_part_hides_what_follows_from_it_alone(place):
    text = TEXT.replace("{model: model}", "{model: ./none}") + "  - distill: {tokens: 9}\n  - quantize: {bits: 4}\n"
    assert said(place, text) == ["3:11: teacher.model: there is no folder ./none"]
    text = TEXT.replace("{model: model}", "{modell: model}") + "  - distill: {tokens: 9}\n  - quantize: {bits: 3}\n"
    assert said(place, text) == [
        "3:11: teacher has no option 'modell'. Did you mean 'model'?",
        "9:16: stages[1].quantize.bits must be 2, 4 or 8, or {budget: …}, got 3",
    ]


def test_a_model_of_the_hub_is_noted_where_the_hub_cannot_be_asked(place):
    text = TEXT.replace("{model: model}", "{model: some/model}").replace(
        "{builtin: stories}", "{dataset: some/data}", 1
    )
    started = time.monotonic()
    assert notes(place, text + "  - distill: {tokens: 9, length: 100000}\n") == [
        "data.train: some/data is a dataset of the hub; it is first looked at in the run",
        "teacher: some/model is no folder, so it is a model of the hub; its config.json cannot be read now, and what depends on it was not checked",
    ]
    assert time.monotonic() - started < 5


def test_text_that_is_learned_and_measured_is_noted(place):
    assert notes(place, TEXT.replace(", seed: 1", "") + "  - export:\n") == [
        "data.train and data.evaluation are the same text: what is measured on it looks better than it is"
    ]
    assert notes(place, TEXT.replace("  evaluation: {builtin: stories, seed: 1}\n", "") + "  - export:\n") == [
        "no data.evaluation: quality is not measured"
    ]


def test_a_recipe_can_be_checked_twice(place):
    (place / "r.yaml").write_text(TEXT + "  - prune: {remove: {layers: 9}}\n", encoding="utf-8")
    recipe = read_recipe(place / "r.yaml")
    for _ in range(2):
        with pytest.raises(RecipeError, match=r"1 error\. Nothing was run"):
            check(recipe)


def test_the_embedded_teacher_is_a_whole_model(tmp_path):
    assert (EMBEDDED["storyteller"] / "model.safetensors").is_file()
    text = TEXT.replace("{model: model}", "{builtin: storyteller}") + "  - prune: {remove: {layers: 1}}\n"
    assert notes(tmp_path, text) == []
