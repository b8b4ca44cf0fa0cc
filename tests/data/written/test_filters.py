"""Each filter drops what it should, in the order of the recipe, and says why and how many."""

from __future__ import annotations

import numpy as np
import pytest

from compress.data.sources import Document
from compress.data.written.documents import Item
from compress.data.written.filters import Chain, open_judges
from compress.data.written.options import Filter
from compress.data.written.scores import Scores
from compress.data.written.store import Store
from compress.data.written.texts import Writer
from compress.errors import StageError
from compress.models.encoder import open_encoder
from compress.models.folder import load_tokenizer
from tests.data.written.tiny_teacher import make_source, make_teacher
from tests.models.tiny_encoder import make_encoder_folder

LONG = "Once there was a fox who ran to the old barn and slept there until the sun rose and it was a warm day again"


def item(text, name, prompt="", ended=True):
    segments = ((prompt, False), (text, True)) if prompt else ((text, True),)
    return Item(Document(segments), name, "", ended)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    return make_teacher(tmp_path_factory.mktemp("model") / "plain")


@pytest.fixture
def scores(teacher, tmp_path, monkeypatch):
    monkeypatch.setenv("COMPRESS_CACHE", str(tmp_path))
    store = Store({"of": "a test"})
    with store.lock():
        pass
    return Scores(store, Writer(teacher, make_source({"openings": "bos"}, documents=1)))


def run(scores, items, *filters, seeds=()):
    """Return the names of what is kept, and what each filter reports."""
    options = [Filter.model_validate(each, strict=True) for each in filters]
    judges = open_judges(options, scores._writer, scores, lambda: seeds)
    chain = Chain(list(zip(options, judges, strict=True)), 0)
    return [each.name for each in chain.keep(items, 0)], chain.to_json()


@pytest.mark.parametrize(
    ("unit", "bounds", "kept", "reason"),
    [
        ("words", {"min": 3, "max": 3}, ["b"], "2 words, less than 3"),
        ("characters", {"max": 5}, ["a"], "9 characters, more than 5"),
        ("tokens", {"min": 1}, ["a", "b"], None),
    ],
)
def test_length(scores, unit, bounds, kept, reason):
    found, said = run(scores, [item("a fox", "a"), item("a red fox", "b")], {"length": {"unit": unit} | bounds})
    assert found == kept
    assert [sample["reason"] for sample in said[0]["dropped"]] == ([reason] if reason else [])
    assert (said[0]["before"], said[0]["after"]) == (2, len(kept))


def test_what_did_not_end_is_dropped(scores):
    found, said = run(scores, [item("a fox", "a"), item("a fo", "b", ended=False)], {"finished": {}})
    assert found == ["a"]
    assert said[0]["dropped"][0]["reason"] == "it did not end by itself"


def test_repetition(scores):
    items = [item(LONG, "a"), item("the dog ran and " * 9, "b")]
    assert run(scores, items, {"repetition": {}})[0] == ["a"]
    assert run(scores, items, {"repetition": {"scale": 100.0}})[0] == ["a", "b"]


def test_a_filter_does_not_see_what_one_before_it_dropped(scores):
    items = [item("a fox", "a", ended=False), item("A fox!", "b"), item("a fox", "c")]
    assert run(scores, items, {"finished": {}}, {"exact_duplicates": {}})[0] == ["b"]
    found, said = run(scores, items, {"exact_duplicates": {}}, {"finished": {}})
    assert found == []
    assert [(each["before"], each["after"]) for each in said] == [(3, 1), (1, 0)]
    assert {sample["reason"] for sample in said[0]["dropped"]} == {"the same as text a"}


def test_short_answers_to_other_questions_are_no_duplicates(scores):
    items = [
        item("Paris.", "a", "Capital of France?"),
        item("Paris.", "b", "Largest city of France?"),
        item("Paris.", "c", "capital of France"),
    ]
    assert run(scores, items, {"exact_duplicates": {}}, {"near_duplicates": {}})[0] == ["a", "b"]


def test_near_duplicates_of_kept_texts_and_of_seeds(scores):
    items = [item(LONG, "a"), item(LONG.replace("warm", "cold"), "b"), item(LONG[::-1], "c")]
    found, said = run(scores, items, {"near_duplicates": {"similarity": 0.6}})
    assert found == ["a", "c"]
    assert said[0]["dropped"][0]["reason"].endswith("similar to text a")
    found, said = run(scores, items, {"near_duplicates": {"similarity": 0.6, "seeds": True}}, seeds=[LONG])
    assert found == ["c"]
    assert {sample["reason"].partition(" to ")[2] for sample in said[0]["dropped"]} == {"document 0 of the prompts"}


def test_a_perplexity_band_keeps_what_lies_in_it(scores):
    items = [item(text, str(index)) for index, text in enumerate(["The red fox", "zzqj qqzz", "A blue bird sang"])]
    values = scores._writer.perplexities([each.document for each in items])
    assert len(set(values)) == 3
    middle = sorted(values)[1]
    found, said = run(scores, items, {"perplexity": {"min": middle * 0.999, "max": middle * 1.001}})
    assert found == [str(values.index(middle))]
    assert said[0]["values"]["0.5"] == pytest.approx(middle, rel=1e-3)


def test_quality_is_the_classifiers_probability(scores, tmp_path):
    folder = make_encoder_folder(tmp_path / "judge", num_labels=3, id2label={0: "bad", 1: "fair", 2: "good"})
    texts = ["red fox", "the dog ran", "a fox and a dog ran to the barn"]
    encoder, tokenizer = open_encoder(folder), load_tokenizer(folder)
    expected = []
    for text in texts:
        ids = tokenizer.encode(text).ids[: encoder.context]
        weights = np.exp(encoder.outputs(np.array([ids])).astype(np.float64)[0])
        expected.append(weights[2] / weights.sum())
    items = [item(text, text) for text in texts]
    assert scores.qualities(items, 0, folder, "good") == pytest.approx(expected, rel=1e-4)
    assert scores.qualities(items, 0, folder, 2) == pytest.approx(expected, rel=1e-4)
    bound = sorted(expected)[1] - 1e-6
    found, said = run(scores, items, {"quality": {"model": str(folder), "label": "good", "min": bound}})
    assert set(found) == {text for text, value in zip(texts, expected, strict=True) if value >= bound}
    assert said[0]["options"]["model"] == "judge"
    with pytest.raises(
        StageError, match=r"quality\.label 'great' is no class of .*judge; it has 0 bad, 1 fair, 2 good"
    ):
        scores.qualities(items, 0, folder, "great")


def test_a_classifier_with_one_output_gives_its_number(scores, tmp_path):
    folder = make_encoder_folder(tmp_path / "grade", num_labels=1)
    expected = open_encoder(folder).outputs(np.array([load_tokenizer(folder).encode("red fox").ids]))[0, 0]
    assert scores.qualities([item("red fox", "a")], 0, folder, 0) == pytest.approx([float(expected)], rel=1e-4)


def test_scores_are_given_once(scores, monkeypatch):
    items = [item("The red fox", "a"), item("A bird", "b")]
    first = scores.perplexities(items, 3)
    monkeypatch.setattr(Writer, "perplexities", lambda *_: pytest.fail("scored again"))
    assert scores.perplexities(items[::-1], 3) == first[::-1]


def test_samples_do_not_depend_on_how_many_come_together(scores):
    items = [item(f"word{index}", str(index)) for index in range(40)]
    options = Filter.model_validate({"length": {"min": 9}}, strict=True)
    reports = []
    for size in (40, 7):
        judges = open_judges([options], scores._writer, scores, tuple)
        chain = Chain([(options, judges[0])], 5)
        for start in range(0, 40, size):
            chain.keep(items[start : start + size], start)
        reports.append(chain.to_json())
    assert reports[0] == reports[1]
    assert len(reports[0][0]["dropped"]) == 3
