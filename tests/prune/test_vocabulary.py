"""Which tokens stay: equal to the slow choice, whatever text needs, the same twice, and what cannot be is refused."""

# ruff: noqa: E501 - the tables hold whole messages

from __future__ import annotations

import copy
import json

import numpy as np
import pytest
from tokenizers import Tokenizer, pre_tokenizers

from compress.prune.spelling import spelling_of
from compress.prune.tokenizer import cut_tokenizer
from compress.prune.vocabulary import beginnings, choose_tokens, least_tokens, removal_order
from tests.prune.tiny_tokenizers import (
    KINDS,
    SIZE,
    TEXT,
    as_json,
    byte_level,
    counted,
)
from tests.references.vocabulary import slow_choice


@pytest.fixture(params=KINDS)
def library(request) -> Tokenizer:
    return KINDS[request.param]()


def test_a_token_whose_merges_all_stay_is_spelled_as_before(library):
    """What is used most stays, so the text of which the uses were counted needs few more tokens."""
    kept = choose_tokens(as_json(library), counted(library), library.get_vocab_size() - 20)
    cut = Tokenizer.from_str(json.dumps(cut_tokenizer(as_json(library), kept)))
    for text in TEXT[:3]:
        ids = cut.encode(text, add_special_tokens=False).ids
        assert [kept[index] for index in ids] == library.encode(text, add_special_tokens=False).ids


@pytest.mark.parametrize("kind", ["byte-level", "byte-fallback"])
@pytest.mark.parametrize("share", [0.1, 0.6, 1.0])
def test_the_choice_equals_the_slow_one(kind, share):
    library = KINDS[kind]()
    entry = as_json(library)
    size, least = library.get_vocab_size(), least_tokens(entry)
    free = [text for text, index in entry["model"]["vocab"].items() if index in spelling_of(entry).parts]
    counts = [int(count) for count in np.random.default_rng(3).integers(0, 9, size)]
    keep = size - int(share * (size - least))
    assert choose_tokens(entry, counts, keep) == slow_choice(entry, counts, keep, free)


def test_the_choice_is_the_same_twice_and_nested(library):
    entry, counts = as_json(library), counted(library)
    size = library.get_vocab_size()
    small, large = (choose_tokens(entry, counts, size - removed) for removed in (30, 15))
    assert small == choose_tokens(copy.deepcopy(entry), list(counts), size - 30)
    assert set(small) < set(large)
    assert set(range(size)) - set(small) == set(removal_order(entry, counts, 30))


def test_what_stays_in_any_case(library):
    entry = as_json(library)
    least = least_tokens(entry)
    vocabulary = entry["model"]["vocab"]
    kept = {
        text
        for text, index in vocabulary.items()
        if index in choose_tokens(entry, [0] * library.get_vocab_size(), least)
    }
    assert {token["content"] for token in entry["added_tokens"]} - vocabulary.keys() <= {"<|pad|>"}
    assert {token["content"] for token in entry["added_tokens"]} & vocabulary.keys() <= kept
    if entry["model"].get("byte_fallback"):
        assert kept == {"<unk>", "<s>", "</s>", "▁", *(f"<0x{value:02X}>" for value in range(256))}
    elif entry["model"]["type"] == "BPE":
        assert set(pre_tokenizers.ByteLevel.alphabet()) == kept - {"<s>", "</s>"}
    else:
        assert {text for text in vocabulary if len(text.removeprefix("##")) == 1} == kept - {
            "[PAD]",
            "[UNK]",
            "[CLS]",
            "[SEP]",
        }


def test_tokens_that_must_stay_take_their_parts_along():
    entry = as_json(byte_level())
    index = entry["model"]["vocab"]["Ġfriend"]
    needs = spelling_of(entry).needs
    kept = choose_tokens(entry, [0] * SIZE, least_tokens(entry, [index]), [index])
    waiting, chain = [index], set()
    while waiting:
        chain.add(waiting.pop())
        waiting = [part for each in chain for part in needs.get(each, ()) if part not in chain]
    assert len(chain) > 3
    assert set(kept) == chain | set(choose_tokens(entry, [0] * SIZE, least_tokens(entry)))


def test_rows_without_a_token_go_first():
    library = byte_level()
    entry, size = as_json(library), library.get_vocab_size()
    counts = [*counted(library), *[0] * 11]
    assert choose_tokens(entry, counts, size + 4) == list(range(size + 4))
    assert choose_tokens(entry, counts, size - 3) == choose_tokens(entry, counts[:size], size - 3)
    kept = choose_tokens(entry, counts, size + 2, always=[size + 9])
    assert kept == [*range(size), size, size + 9]
    assert cut_tokenizer(entry, kept)["model"]["vocab"] == entry["model"]["vocab"]


def test_measured_bits_decide_among_tokens_used_equally():
    library = byte_level()
    entry, size = as_json(library), library.get_vocab_size()
    first, second = removal_order(entry, [1] * size, 2)
    assert set(choose_tokens(entry, [1] * size, size - 1, extra_bits={first: 40.0, second: 20.0})) == set(
        range(size)
    ) - {second}
    bits = dict.fromkeys(spelling_of(entry).parts, 40.0)
    assert choose_tokens(entry, [1] * size, size - 50, extra_bits=bits) == choose_tokens(entry, [1] * size, size - 50)


REFUSED = [
    ({"type": "Unigram"}, "the tokenizer is Unigram, and only BPE and WordPiece tokenizers can be cut; leave remove.vocab out"),
    ({"type": "WordLevel"}, "the tokenizer is WordLevel, and only BPE and WordPiece tokenizers can be cut; leave remove.vocab out"),
    ({"type": "BPE", "end_of_word_suffix": "</w>"}, "the tokenizer marks the pieces of words (end_of_word_suffix '</w>'), and such merges cannot be cut; "
        "leave remove.vocab out"),
]  # fmt: skip


@pytest.mark.parametrize(("model", "message"), REFUSED)
def test_tokenizers_that_cannot_be_cut_are_refused(model, message):
    for refusing in (
        lambda: choose_tokens({"model": model}, [0], 1),
        lambda: cut_tokenizer({"model": model}, [0]),
        lambda: least_tokens({"model": model}),
    ):
        with pytest.raises(ValueError) as refused:  # noqa: PT011 - the message is compared below
            refusing()
        assert str(refused.value) == message


def test_too_few_and_too_many_tokens_are_refused():
    entry = as_json(byte_level())
    for keep, size, message in (
        (258, SIZE, "remove.vocab would leave 258 of 408 tokens, and 259 must stay for any text to be encoded (special "
            "tokens, bytes, characters); remove at most 149"),
        (409, SIZE, "409 tokens cannot be kept of 408; keep at most 408"),
        (100, 200, "the tokenizer gives id 407, and the model has 200 tokens; give it its own tokenizer"),
    ):  # fmt: skip
        with pytest.raises(ValueError) as refused:  # noqa: PT011 - the message is compared below
            choose_tokens(entry, [0] * size, keep)
        assert str(refused.value) == message


def test_every_token_begins_with_one_that_stays(library):
    entry, size = as_json(library), library.get_vocab_size()
    kept = choose_tokens(entry, counted(library), least_tokens(entry))
    tokens = spelling_of(entry).tokens
    found = beginnings(entry, kept, size + 2)
    assert found[-2:] == [-1, -1]
    assert [found[index] for index in kept] == list(range(len(kept)))
    for index, place in enumerate(found[:size]):
        first = tokens[kept[place]]
        assert tokens[index].startswith(first) or first == f"<0x{tokens[index].encode()[0]:02X}>"
