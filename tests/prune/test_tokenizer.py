"""A cut tokenizer: every text still encodes, tokens are built as before, ids move together, transformers opens it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from compress.errors import ArtifactError
from compress.models.folder import load_tokenizer
from compress.models.vocabulary import read_map
from compress.prune import tokenizer as cutting
from compress.prune.spelling import merge_pairs, spelling_of
from compress.prune.tokenizer import cut_tokenizer, named_ids, remap_ids, write_tokenizer
from compress.prune.vocabulary import choose_tokens, least_tokens
from tests.prune.tiny_tokenizers import (
    KINDS,
    SIZE,
    TEXT,
    as_json,
    byte_fallback,
    byte_level,
    counted,
    half,
    loss,
    random_texts,
)
from tests.references.vocabulary import slow_encode


@pytest.fixture(params=KINDS)
def library(request) -> Tokenizer:
    return KINDS[request.param]()


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_any_text_encodes_as_well_as_before(library, share):
    least = least_tokens(as_json(library))
    keep = least + int(share * (library.get_vocab_size() - least))
    kept = choose_tokens(as_json(library), counted(library), keep)
    cut = Tokenizer.from_str(json.dumps(cut_tokenizer(as_json(library), kept)))
    assert len(kept) == keep == cut.get_vocab_size()
    for text in random_texts(400):
        assert loss(cut, text) == loss(library, text)
        assert max(cut.encode(text).ids, default=0) < keep


@pytest.mark.parametrize("kind", ["byte-level", "byte-fallback"])
def test_what_encoded_without_loss_is_the_text_itself(kind):
    library = KINDS[kind]()
    kept = choose_tokens(as_json(library), counted(library), least_tokens(as_json(library)))
    cut = Tokenizer.from_str(json.dumps(cut_tokenizer(as_json(library), kept)))
    for text in random_texts(200, seed=1):
        text = text.replace("▁", "")
        assert cut.decode(cut.encode(text, add_special_tokens=False).ids, skip_special_tokens=False) == text


def test_a_cut_tokenizer_encodes_like_the_slow_one(library):
    cut = cut_tokenizer(as_json(library), choose_tokens(as_json(library), counted(library), half(library)))
    fast = Tokenizer.from_str(json.dumps(cut))
    for text in [*TEXT, *(text for text in random_texts(40, seed=2) if text.strip())]:
        assert fast.encode(text, add_special_tokens=False).ids == slow_encode(cut, text)


@pytest.mark.parametrize("kind", ["byte-level", "byte-fallback"])
def test_every_kept_token_is_built_as_before(kind):
    library = KINDS[kind]()
    kept = choose_tokens(as_json(library), counted(library), half(library))
    entry = cut_tokenizer(as_json(library), kept)
    vocabulary = entry["model"]["vocab"]
    assert all({left, right, left + right} <= vocabulary.keys() for left, right in merge_pairs(entry["model"]))
    before, after = spelling_of(as_json(library)), spelling_of(entry)
    assert len(after.needs) > 20
    assert {index: tuple(kept[part] for part in parts) for index, parts in after.needs.items()} == {
        kept.index(index): before.needs[index] for index in before.needs if index in kept
    }


def test_keeping_all_is_the_identity(library):
    size = library.get_vocab_size()
    kept = choose_tokens(as_json(library), counted(library), size)
    assert kept == list(range(size))
    assert cut_tokenizer(as_json(library), kept) == as_json(library)


@pytest.mark.parametrize("strings", [True, False])
def test_merges_may_stand_as_strings(strings):
    entry = as_json(byte_level())
    merges = [tuple(merge) for merge in merge_pairs(entry["model"])]
    entry["model"]["merges"] = [" ".join(merge) if strings else list(merge) for merge in merges]
    kept = choose_tokens(entry, [0] * SIZE, 390)
    cut = cut_tokenizer(entry, kept)["model"]["merges"]
    assert len(cut) < len(merges)
    assert all(isinstance(merge, str if strings else list) for merge in cut)
    assert Tokenizer.from_str(json.dumps(cut_tokenizer(entry, kept))).get_vocab_size() == 390


def test_every_id_of_the_tokenizer_moves_along():
    entry = as_json(byte_fallback())
    entry["post_processor"] = {
        "type": "Sequence",
        "processors": [
            {"type": "RobertaProcessing", "sep": ["</s>", 2], "cls": ["<s>", 1], "trim_offsets": True, "add_prefix_space": True},
            {"type": "TemplateProcessing", "single": [], "pair": [], "special_tokens": {"a": {"id": "a", "ids": [270, 1], "tokens": ["a", "b"]}}},
        ],
    }  # fmt: skip
    assert cutting.named_by_tokenizer(entry) == {1, 2, 270}
    kept = [0, 1, 2, *range(10, 266), 270]
    cut = cut_tokenizer(entry, [1, 2, 0, 270, 300])
    assert [token["id"] for token in cut["added_tokens"]] == [2, 0, 1]
    assert cut["padding"]["pad_id"] == 1
    assert cut["post_processor"]["processors"][0]["sep"] == ["</s>", 1]
    assert cut["post_processor"]["processors"][0]["cls"] == ["<s>", 0]
    assert cut["post_processor"]["processors"][1]["special_tokens"]["a"]["ids"] == [3, 0]
    with pytest.raises(ValueError, match=r"tokenizer\.json names token 270 \(a\), which has to stay"):
        cut_tokenizer(entry, kept[:-1])


def test_ids_of_the_configs_move_along():
    config = {
        "vocab_size": 9, "bos_token_id": 1, "eos_token_id": [2, 5], "pad_token_id": -1, "decoder_start_token_id": None,
        "sep_token_id": 3, "suppress_tokens": [1, 3, 7], "begin_suppress_tokens": [3], "bad_words_ids": [[5, 7], [3, 5]],
        "forced_decoder_ids": [[1, 5], [2, 3]], "sequence_bias": [[[5], -1.0], [[3], 2.0]], "forced_eos_token_id": 5,
        "text_config": {"eos_token_id": 7, "layers": 3, 5: 1}, "hidden_size": 5,
    }  # fmt: skip
    assert remap_ids(config, [1, 2, 5, 7]) == {
        "vocab_size": 9, "bos_token_id": 0, "eos_token_id": [1, 2], "pad_token_id": -1, "decoder_start_token_id": None,
        "sep_token_id": None, "suppress_tokens": [0, 3], "begin_suppress_tokens": None, "bad_words_ids": [[2, 3]],
        "forced_decoder_ids": [[1, 2]], "sequence_bias": [[[2], -1.0]], "forced_eos_token_id": 2,
        "text_config": {"eos_token_id": 3, "layers": 3, 5: 1}, "hidden_size": 5,
    }  # fmt: skip


@pytest.fixture
def folder(library, tmp_path) -> Path:
    source = tmp_path / "source"
    source.mkdir()
    library.save(str(source / "tokenizer.json"))
    size = library.get_vocab_size()
    config = {
        "model_type": "llama",
        "vocab_size": size,
        "bos_token_id": 1,
        "eos_token_id": [1, 9999],
        "pad_token_id": None,
    }
    (source / "config.json").write_text(json.dumps(config))
    (source / "generation_config.json").write_text(json.dumps({"eos_token_id": size - 1}))
    content = library.id_to_token(1)
    settings = {"eos_token": content, "added_tokens_decoder": {"1": {"content": content, "special": True}}, "x": 1}
    (source / "tokenizer_config.json").write_text(json.dumps(settings))
    (source / "added_tokens.json").write_text(json.dumps({content: 1}))
    (source / "special_tokens_map.json").write_text(json.dumps({"eos_token": content}))
    (source / "chat_template.jinja").write_text("{{ messages }}")
    for stale in ("vocab.json", "merges.txt", "tokenizer.model", "vocab.txt"):
        (source / stale).write_text("{}")
    return source


def test_the_written_tokenizer_opens_with_transformers(library, folder, tmp_path):
    target = tmp_path / "target"
    target.mkdir()
    size = library.get_vocab_size()
    assert named_ids(folder) >= {1, size - 1}
    assert named_ids(folder) <= {0, 1, 2, 3, size - 1}
    kept = choose_tokens(as_json(library), counted(library), half(library), named_ids(folder))
    write_tokenizer(folder, target, kept)
    assert {path.name for path in target.iterdir()} == {
        "tokenizer.json", "tokenizer_config.json", "added_tokens.json", "special_tokens_map.json", "chat_template.jinja",
        "vocabulary_map.json",
    }  # fmt: skip
    shutil.copyfile(folder / "config.json", target / "config.json")
    theirs, ours = AutoTokenizer.from_pretrained(target), load_tokenizer(target)
    assert len(theirs) == ours.get_vocab_size() == len(kept)
    assert theirs.eos_token_id == kept.index(1)
    assert theirs.chat_template == "{{ messages }}"
    for text in [*TEXT, *random_texts(50, seed=4)]:
        assert theirs(text, add_special_tokens=False)["input_ids"] == ours.encode(text, add_special_tokens=False).ids
    settings = json.loads((target / "tokenizer_config.json").read_text())
    assert settings["added_tokens_decoder"] == {
        str(kept.index(1)): {"content": library.id_to_token(1), "special": True}
    }
    assert settings["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert list(json.loads((target / "added_tokens.json").read_text()).values()) == [kept.index(1)]


def test_a_cut_of_a_cut_maps_to_the_first(library, folder, tmp_path):
    entry, counts, size = as_json(library), counted(library), library.get_vocab_size()
    once, twice = tmp_path / "once", tmp_path / "twice"
    once.mkdir()
    twice.mkdir()
    kept = choose_tokens(entry, counts, size - 20, named_ids(folder))
    write_tokenizer(folder, once, kept)
    config = remap_ids(json.loads((folder / "config.json").read_text()), kept) | {"vocab_size": len(kept)}
    (once / "config.json").write_text(json.dumps(config))
    second = choose_tokens(
        json.loads((once / "tokenizer.json").read_text()), [counts[i] for i in kept], size - 40, named_ids(once)
    )
    write_tokenizer(once, twice, second)
    first, last = read_map(once), read_map(twice)
    assert (first.size, last.size, first.tokenizer_sha256) == (size, size, last.tokenizer_sha256)
    assert list(last.kept) == [kept[index] for index in second]
    names = {index: text for text, index in library.get_vocab().items()}
    assert load_tokenizer(twice).get_vocab() == {names[index]: place for place, index in enumerate(last.kept)}


def test_the_same_cut_gives_the_same_bytes(library, folder, tmp_path):
    kept = choose_tokens(as_json(library), counted(library), half(library), named_ids(folder))
    written = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write_tokenizer(folder, tmp_path / name, kept)
        written.append({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()})
    assert written[0] == written[1]


def test_a_tokenizer_that_gives_other_ids_is_not_written(tmp_path, monkeypatch):
    library = byte_level()
    library.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "config.json").write_text(json.dumps({"vocab_size": SIZE}))
    (tmp_path / "to").mkdir()
    monkeypatch.setattr(cutting, "load_tokenizer", lambda folder: byte_level())
    with pytest.raises(
        ArtifactError, match=r"the cut tokenizer gives other ids than it holds; leave remove\.vocab out"
    ):
        write_tokenizer(tmp_path, tmp_path / "to", choose_tokens(as_json(library), [0] * SIZE, 400))


@pytest.mark.parametrize(("name", "keep"), [("stories260K", 380), ("stories3M", 3850), ("minilm-sst2", 12000)])
def test_real_tokenizers_lose_nothing(assets, name, keep):
    source = assets / "models" / name
    library = load_tokenizer(source)
    entry = json.loads((source / "tokenizer.json").read_text(encoding="utf-8"))
    text = (assets / "data" / "tinystories-train.txt").read_text(encoding="utf-8")[:200_000]
    counts = np.bincount(
        library.encode(text, add_special_tokens=False).ids, minlength=library.get_vocab_size()
    ).tolist()
    kept = choose_tokens(entry, counts, keep)
    cut = Tokenizer.from_str(json.dumps(cut_tokenizer(entry, kept)))
    assert cut.get_vocab_size() == keep
    for each in [*random_texts(150, seed=5), text[:3000]]:
        assert loss(cut, each) == loss(library, each)
    used = len(library.encode(text, add_special_tokens=False).ids)
    assert used <= len(cut.encode(text, add_special_tokens=False).ids) < used * 1.2
