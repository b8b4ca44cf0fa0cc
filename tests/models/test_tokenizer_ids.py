"""Two tokenizers are the same where every text gives the same ids; where not, what differs is named."""

from __future__ import annotations

import copy
import json

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from compress.models.tokenizer_ids import difference, ids_of

TEXTS = ["the red fox ran to the old barn", "a blue bird sang in the tall tree <s>", "Über  den  Bäumen"]


def trained(size: int = 300, texts: list[str] | None = None) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=["<s>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts or TEXTS * 3, trainer)
    return tokenizer


@pytest.fixture(scope="module")
def plain() -> dict:
    return json.loads(trained().to_str())


def changed(change) -> dict:
    tokenizer = trained()
    change(tokenizer)
    return json.loads(tokenizer.to_str())


def encoded(tokenizer: dict) -> list[list[int]]:
    found = Tokenizer.from_str(json.dumps(tokenizer))
    found.no_truncation()
    return [each.ids for each in found.encode_batch(TEXTS, add_special_tokens=False)]


SAME = {
    "post-processor": lambda each: setattr(
        each, "post_processor", processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 0)])
    ),
    "decoder": lambda each: setattr(each, "decoder", decoders.ByteFallback()),
    "truncation": lambda each: each.enable_truncation(3),
    "offsets": lambda each: setattr(
        each, "pre_tokenizer", pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=False)
    ),
}
OTHER = {
    "normalizer": lambda each: setattr(each, "normalizer", normalizers.Lowercase()),
    "pre_tokenizer": lambda each: setattr(each, "pre_tokenizer", pre_tokenizers.ByteLevel(add_prefix_space=True)),
    "settings of the model": lambda each: setattr(each.model, "ignore_merges", True),
}


@pytest.mark.parametrize("name", SAME)
def test_what_changes_no_id_is_the_same_tokenizer(plain, name):
    other = changed(SAME[name])
    assert other != plain
    assert difference(plain, other) == difference(other, plain) == ""
    assert encoded(plain) == encoded(other)


def test_merges_as_text_and_older_files_are_the_same(plain):
    other = copy.deepcopy(plain)
    other["model"]["merges"] = [" ".join(pair) for pair in plain["model"]["merges"]]
    del other["pre_tokenizer"]["use_regex"]
    del other["model"]["ignore_merges"]
    assert difference(plain, other) == ""
    assert encoded(plain) == encoded(other)


@pytest.mark.parametrize("name", OTHER)
def test_what_makes_other_ids_of_the_same_tokens_is_named(plain, name):
    assert difference(plain, changed(OTHER[name])) == f"they have the same tokens, but differ in {name}"


def test_the_order_of_merges_counts(plain):
    other = copy.deepcopy(plain)
    other["model"]["merges"].reverse()
    assert difference(plain, other) == "they have the same tokens, but differ in the order of merges"
    assert encoded(plain) != encoded(other)


def test_how_an_added_token_is_found_counts(plain):
    pair = [copy.deepcopy(plain), copy.deepcopy(plain)]
    for each, strips in zip(pair, (True, False), strict=True):
        each["added_tokens"][0]["lstrip"] = strips
    assert difference(*pair) == "they have the same tokens, but differ in added token '<s>'"
    assert encoded(pair[0]) != encoded(pair[1])


def test_scores_of_pieces_count():
    one, two = ({"model": {"type": "Unigram", "vocab": [["a", -1.0], ["b", score]]}} for score in (-2.0, -3.0))
    assert ids_of(one) == {"a": 0, "b": 1}
    assert difference(one, two) == "they have the same tokens, but differ in the scores of pieces"
    assert difference(one, one) == ""


def test_sizes_and_up_to_three_tokens_are_named(plain):
    other = json.loads(trained(290).to_str())
    lost = [text for text in plain["model"]["vocab"] if text not in other["model"]["vocab"]]
    said = difference(plain, other)
    assert said.startswith("the teacher's has 300 tokens, the student's 290; ")
    assert said.count("is a token of the teacher alone") == 3
    assert lost[0] in said
    assert said.endswith("; and 7 more")


def test_tokens_that_stand_for_different_ids_are_named(plain):
    other = copy.deepcopy(plain)
    vocabulary = other["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    a, b = plain["model"]["vocab"]["a"], plain["model"]["vocab"]["b"]
    assert (
        difference(plain, other)
        == f"'a' is {a} for the teacher and {b} for the student; 'b' is {b} for the teacher and {a} for the student"
    )


def test_tokens_added_in_the_teacher_alone_keep_it_from_nothing(plain):
    chat = changed(lambda each: each.add_special_tokens([AddedToken("<|turn|>")]))
    assert difference(chat, plain) == ""
    assert (
        difference(plain, chat)
        == "the teacher's has 300 tokens, the student's 301; '<|turn|>' (300) is a token of the student alone"
    )


def test_files_with_nothing_in_them_are_the_same():
    assert difference({}, {"model": None, "added_tokens": None}) == ""
