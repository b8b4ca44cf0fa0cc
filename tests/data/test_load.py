"""Parts, slices, tokens and masks: exactly the ids that a hand would write."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from compress.data.corpus import Example
from compress.data.load import RecipeData, joining_token
from compress.data.options import DataOptions, Source
from compress.errors import ArtifactError, StageError
from compress.models.folder import load_tokenizer
from compress.models.scratch import train_tokenizer

TEMPLATE = (
    "{% for turn in messages %}<{{ turn.role }}>{{ turn.content }}{% if turn.role == 'assistant' %}</s>{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)
CHAT = [
    {"role": "user", "content": "hi there"},
    {"role": "assistant", "content": "hello you"},
    {"role": "user", "content": "bye"},
    {"role": "assistant", "content": "see you"},
    {"role": "user", "content": "never answered"},
]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A folder with a byte-level tokenizer, <s> 1 and </s> 2, and a chat template; without weights."""
    folder = tmp_path_factory.mktemp("model")
    train_tokenizer(["hello you, see the story of a bird"] * 4, 300, folder)
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "bos_token_id": 1, "eos_token_id": 2}))
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    return folder


def data_of(tmp_path, train, join=None, seed=0, **parts):
    return RecipeData(DataOptions(train=train, join=join, **parts), seed)


def rows(path, *entries):
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    return str(path)


def text_source(tmp_path, documents, name="train.txt"):
    (tmp_path / name).write_text("|".join(documents))
    return Source(files=[str(tmp_path / name)], separator="|")


def only(source):
    """Data with nothing taken out of train."""
    return DataOptions(train=source, validation=source, calibration=source)


def encode(model, text):
    return load_tokenizer(model).encode(text, add_special_tokens=False).ids


@pytest.mark.parametrize(("join", "front"), [(None, [1]), ("bos", [1]), ("eos", [2]), ("none", [])])
def test_documents_are_joined_and_cut_into_windows(tmp_path, model, join, front):
    source = text_source(tmp_path, ["a bird", "you see", "a story"])
    data = RecipeData(DataOptions(evaluation=source, join=join), 0)
    corpus = data("evaluation", model)
    parts = [front + encode(model, text) for text in ("a bird", "you see", "a story")]
    flat = [token for part in parts for token in part]
    assert corpus.ids.tolist() == flat
    assert corpus.counted.all()
    assert corpus.starts.tolist() == [0, *np.cumsum([len(part) for part in parts]).tolist()]
    assert corpus.byte_counts.tolist() == [6, 7, 7]
    assert [ids.tolist() for ids, _, _ in corpus.documents()] == parts
    ids, counted = corpus.windows(4)
    assert ids.tolist() == [flat[start : start + 4] for start in range(0, len(flat) - 3, 4)]
    assert counted.shape == ids.shape
    assert corpus.windows(4, 1)[0].tolist() == [flat[:4]]
    assert corpus.windows(1000)[0].shape == (0, 1000)


def test_a_prompt_is_read_and_its_completion_learned(tmp_path, model):
    source = Source(files=[rows(tmp_path / "a.jsonl", {"q": "hi", "a": " you"})], prompt="q", completion="a")
    corpus = RecipeData(DataOptions(evaluation=source), 0)("evaluation", model)
    prompt, completion = encode(model, "hi"), encode(model, " you")
    assert corpus.ids.tolist() == [1, *prompt, *completion]
    assert corpus.counted.tolist() == [False] * (1 + len(prompt)) + [True] * len(completion)


def test_of_a_chat_the_answers_alone_are_learned(tmp_path, model):
    source = Source(files=[rows(tmp_path / "a.jsonl", {"m": CHAT})], messages="m")
    corpus = RecipeData(DataOptions(evaluation=source), 0)("evaluation", model)
    parts = [
        ("<user>hi there<assistant>", False),
        ("hello you</s>", True),
        ("<user>bye<assistant>", False),
        ("see you</s>", True),
    ]
    encoded = [(encode(model, text), learned) for text, learned in parts]
    assert encoded[1][0][-1] == 2
    assert corpus.ids.tolist() == [1, *(token for ids, _ in encoded for token in ids)]
    assert corpus.counted.tolist() == [False, *(learned for ids, learned in encoded for _ in ids)]


def test_a_template_that_writes_bos_gets_no_second_one(tmp_path, model):
    folder = shutil.copytree(model, tmp_path / "model")
    (folder / "chat_template.jinja").write_text("<s>" + TEMPLATE)
    source = Source(files=[rows(tmp_path / "a.jsonl", {"m": CHAT[:2]})], messages="m")
    corpus = RecipeData(DataOptions(evaluation=source), 0)("evaluation", folder)
    assert corpus.ids.tolist()[:2] == [1, *encode(model, "<user>")[:1]]


def test_a_changed_template_or_special_token_is_no_old_corpus(tmp_path, model):
    source = Source(files=[rows(tmp_path / "a.jsonl", {"m": CHAT[:2]})], messages="m")
    data = RecipeData(DataOptions(evaluation=source), 0)
    other = shutil.copytree(model, tmp_path / "other")
    (other / "chat_template.jinja").write_text(TEMPLATE.replace("<", "["))
    third = shutil.copytree(model, tmp_path / "third")
    (third / "config.json").write_text(json.dumps({"model_type": "llama", "eos_token_id": 2}))
    corpora = [data("evaluation", folder) for folder in (model, other, third)]
    assert len({corpus.fingerprint for corpus in corpora}) == 3
    assert corpora[0].ids.tolist() != corpora[1].ids.tolist()
    assert corpora[2].ids[0] == 2
    assert data("evaluation", model) is corpora[0]


def test_a_template_that_refuses_and_a_model_without_one_are_named(tmp_path, model):
    folder = shutil.copytree(model, tmp_path / "model")
    (folder / "chat_template.jinja").write_text("{{ raise_exception('roles must alternate') }}")
    source = Source(files=[rows(tmp_path / "a.jsonl", {"m": CHAT[:2]})], messages="m")
    data = RecipeData(DataOptions(evaluation=source), 0)
    with pytest.raises(StageError, match=r"data\.evaluation: row 1: the chat template refuses .* roles must alternate"):
        data("evaluation", folder)
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(StageError, match=r"data\.evaluation: row 1: messages need a model with a chat template"):
        data("evaluation", folder)


def slices(data, model):
    parts = {}
    for part in ("train", "validation", "calibration"):
        corpus = data(part, model)
        parts[part] = [tuple(ids.tolist()) for ids, _, _ in corpus.documents()]
    return parts


def test_slices_are_disjoint_complete_and_seeded(tmp_path, model):
    documents = [f"story {index}" for index in range(100)]
    source = text_source(tmp_path, documents)
    parts = slices(data_of(tmp_path, source), model)
    assert [len(parts[part]) for part in ("train", "validation", "calibration")] == [90, 5, 5]
    together = [document for part in parts.values() for document in part]
    assert sorted(together) == sorted((1, *encode(model, text)) for text in documents)
    assert slices(data_of(tmp_path, source), model) == parts
    other = slices(data_of(tmp_path, source, seed=1), model)
    assert set(other["validation"]) != set(parts["validation"])


def test_a_part_with_a_source_of_its_own_is_not_taken_out_of_train(tmp_path, model):
    source = text_source(tmp_path, [f"story {index}" for index in range(100)])
    own = text_source(tmp_path, ["a", "b"], "own.txt")
    parts = slices(data_of(tmp_path, source, validation=own), model)
    assert parts["validation"] == [(1, *encode(model, "a")), (1, *encode(model, "b"))]
    assert [len(parts[part]) for part in ("train", "calibration")] == [95, 5]
    assert not set(parts["train"]) & set(parts["calibration"])


@pytest.mark.parametrize("text", ["the bird sees you.\n" * 1500, "the bird sees you. " * 1500, "bird" * 8000])
def test_one_long_text_is_cut_into_pieces_for_its_slices(tmp_path, model, text):
    (tmp_path / "long.txt").write_text(text)
    parts = slices(data_of(tmp_path, Source(files=[str(tmp_path / "long.txt")])), model)
    assert all(parts[part] for part in ("train", "validation", "calibration"))
    tokens = sum(len(document) - 1 for part in parts.values() for document in part)
    assert tokens == pytest.approx(len(encode(model, text)), rel=0.02)


def test_too_little_and_empty_data_are_refused(tmp_path, model):
    with pytest.raises(StageError, match=r"data\.train: 2 piece.* too few to take validation and calibration out"):
        data_of(tmp_path, text_source(tmp_path, ["a", "b"]))("train", model)
    (tmp_path / "empty.txt").write_text("")
    with pytest.raises(StageError, match=r"data\.train: there is no text in it"):
        data_of(tmp_path, Source(files=[str(tmp_path / "empty.txt")]))("validation", model)
    with pytest.raises(StageError, match=r"data\.evaluation is needed here and the recipe has none"):
        data_of(tmp_path, text_source(tmp_path, ["a"]))("evaluation", model)


def test_only_as_many_documents_are_tokenized_as_needed(tmp_path, model):
    options = only(Source(builtin="stories", documents=1200))
    data = RecipeData(options, 0)
    some, everything = data("train", model, 1000), data("train", model)
    assert 1000 <= len(some.ids) < len(everything.ids)
    assert some.ids.tolist() == everything.ids.tolist()[: len(some.ids)]
    assert len(some.questions) == len(some)


def test_fingerprints_follow_text_join_seed_and_part(tmp_path):
    source = text_source(tmp_path, [f"story {index}" for index in range(50)])
    base = data_of(tmp_path, source)
    found = [base.fingerprint(part) for part in ("train", "validation", "calibration")]
    found += [data_of(tmp_path, source, seed=1).fingerprint("train")]
    found += [data_of(tmp_path, source, join="eos").fingerprint("train")]
    own = text_source(tmp_path, ["a", "b"], "own.txt")
    found += [data_of(tmp_path, source, validation=own).fingerprint("train")]
    assert len(set(found)) == len(found)
    assert data_of(tmp_path, source).fingerprint("train") == found[0]
    evaluation = [RecipeData(DataOptions(evaluation=own), seed).fingerprint("evaluation") for seed in (0, 1)]
    assert evaluation[0] == evaluation[1]


def test_a_fingerprint_can_hold_the_tokenizers(tmp_path, model):
    data = RecipeData(DataOptions(evaluation=text_source(tmp_path, ["a"])), 0)
    other = shutil.copytree(model, tmp_path / "other")
    same = data.fingerprint("evaluation", [model])
    assert data.fingerprint("evaluation", [other, model]) == same != data.fingerprint("evaluation")
    (other / "tokenizer.json").write_text((model / "tokenizer.json").read_text() + " ")
    found = data.fingerprint("evaluation", [other, model])
    assert found == data.fingerprint("evaluation", [model, other]) != same


def test_the_joining_token_must_exist(tmp_path, model):
    assert joining_token(model, None) == 1
    folder = shutil.copytree(model, tmp_path / "model")
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
    assert joining_token(folder, None) is None
    with pytest.raises(StageError, match=r"data\.join is bos, but the model in .* has no BOS token; use another join"):
        joining_token(folder, "bos")


def test_a_broken_tokenizer_is_named(tmp_path, model):
    folder = shutil.copytree(model, tmp_path / "model")
    (folder / "tokenizer.json").write_text('{"model"')
    with pytest.raises(ArtifactError, match=r"tokenizer\.json: no tokenizer can be read from it"):
        RecipeData(DataOptions(evaluation=text_source(tmp_path, ["a"])), 0)("evaluation", folder)


def test_labelled_texts_stand_in_the_corpus_once_more(model, tmp_path):
    (tmp_path / "a.tsv").write_text("sentence\tlabel\nhello you\t1\nsee the bird \tno\n")
    source = Source(files=[str(tmp_path / "a.tsv")], text="sentence", label="label")
    data = RecipeData(DataOptions(evaluation=source), 0)
    corpus = data("evaluation", model)
    assert corpus.examples == (Example("hello you", "1"), Example("see the bird", "no"))
    assert len(corpus) == 2
    plain = source.model_copy(update={"label": None})
    assert RecipeData(DataOptions(evaluation=plain), 0)("evaluation", model).examples == ()
