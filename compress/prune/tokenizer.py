"""A tokenizer and the ids of a config, cut to the tokens that stay. No torch."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from compress.artifact import write_text
from compress.errors import ArtifactError
from compress.models.folder import copy_tokenizer, load_tokenizer, read_config, read_object
from compress.models.vocabulary import map_after
from compress.prune.spelling import Json, merge_pairs, refuse_uncuttable
from compress.prune.vocabulary import beginnings, refuse_fewer

_CONFIGS = ("config.json", "generation_config.json")
# Files that say nothing of ids. vocab.json, merges.txt and tokenizer.model would contradict the cut tokenizer.json.
_WITHOUT_IDS = ("special_tokens_map.json", "chat_template.jinja")
_LISTS = ("suppress_tokens", "begin_suppress_tokens", "bad_words_ids", "forced_decoder_ids", "sequence_bias")


def cut_tokenizer(tokenizer: Json, kept: Sequence[int]) -> Json:
    """Return a tokenizer.json with the tokens `kept` alone; the new id of each is its place in `kept`.

    Merges stay whose two parts and result stay, in their order. Ids in `kept` that have no token are rows without one.

    Raises ValueError where the tokenizer cannot be cut, or a token goes that it names itself.
    """
    refuse_uncuttable(tokenizer)
    places = {before: now for now, before in enumerate(kept)}
    cut = copy.deepcopy(tokenizer)
    model = cut["model"]
    found = sorted((places[index], text) for text, index in model["vocab"].items() if index in places)
    model["vocab"] = vocabulary = {text: now for now, text in found}
    if model["type"] == "BPE":
        stays = [
            left in vocabulary and right in vocabulary and left + right in vocabulary
            for left, right in merge_pairs(model)
        ]
        model["merges"] = [each for each, stay in zip(model["merges"], stays, strict=True) if stay]
    for entry in cut.get("added_tokens") or ():
        entry["id"] = _place(places, entry["id"], entry["content"])
    if cut.get("padding"):
        cut["padding"]["pad_id"] = _place(places, cut["padding"]["pad_id"], "padding")
    _cut_processor(cut.get("post_processor"), places)
    return cut


def _place(places: Mapping[int, int], index: int, name: str) -> int:
    if index not in places:
        raise ValueError(f"tokenizer.json names token {index} ({name}), which has to stay")
    return places[index]


def _cut_processor(processor: Json | None, places: Mapping[int, int]) -> None:
    if processor is None:
        return
    for each in processor.get("processors", ()):
        _cut_processor(each, places)
    if isinstance(named := processor.get("special_tokens"), dict):
        for name, entry in named.items():
            entry["ids"] = [_place(places, index, name) for index in entry["ids"]]
    for key in ("sep", "cls"):
        if isinstance(pair := processor.get(key), list):
            processor[key] = [pair[0], _place(places, pair[1], pair[0])]


def named_by_tokenizer(tokenizer: Json) -> set[int]:
    """Return the ids that the post-processor and the padding of a tokenizer.json put into sequences."""
    found = {tokenizer["padding"]["pad_id"]} if tokenizer.get("padding") else set()
    waiting = [tokenizer.get("post_processor") or {}]
    while waiting:
        processor = waiting.pop()
        waiting += processor.get("processors", ())
        named = processor.get("special_tokens")
        found.update(index for entry in (named.values() if isinstance(named, dict) else ()) for index in entry["ids"])
        found.update(pair[1] for key in ("sep", "cls") if isinstance(pair := processor.get(key), list))
    return found


def named_ids(folder: Path) -> set[int]:
    """Return the ids of a model folder that have to stay: those of its configs and of its tokenizer's own making.

    Ids outside the model's vocabulary, such as -1, are left out.
    """
    configs = [read_object(folder / name) for name in _CONFIGS if (folder / name).is_file()]
    found = named_by_tokenizer(read_object(folder / "tokenizer.json"))
    found.update(index for config in configs for index in _special(config))
    return {index for index in found if 0 <= index < read_config(folder)["vocab_size"]}


def refuse_tokens(folder: Path, size: int, keep: int) -> None:
    """Do nothing where the tokenizer of a model folder can be cut from `size` tokens to `keep`. Reads no weight.

    Raises ValueError where it cannot.
    """
    refuse_fewer(read_object(folder / "tokenizer.json"), size, keep, named_ids(folder))


def _special(config: Mapping[str, Any]) -> Iterable[int]:
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from _special(value)
        elif str(key).endswith("_token_id"):
            yield from (each for each in (value if isinstance(value, list) else [value]) if isinstance(each, int))


def remap_ids(config: Mapping[str, Any], kept: Sequence[int]) -> Json:
    """Return config.json or generation_config.json with the new ids of the tokens that it names; sizes are not touched.

    Ids of `*_token_id` that do not stay become null, or leave their list; so do suppressed, forced and biased ones.
    """
    return _remap(config, {before: now for now, before in enumerate(kept)})


def _remap(config: Mapping[str, Any], places: Mapping[int, int]) -> Json:
    cut: Json = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            cut[key] = _remap(value, places)
        elif str(key).endswith("_token_id"):
            cut[key] = _remap_special(value, places)
        elif key in _LISTS and isinstance(value, list):
            cut[key] = _remap_list(key, value, places)
        else:
            cut[key] = value
    return cut


def _remap_special(value: Any, places: Mapping[int, int]) -> Any:
    if isinstance(value, list):
        return [places[each] for each in value if each in places] or None
    return value if not isinstance(value, int) or value < 0 else places.get(value)


def _remap_list(key: str, value: list[Any], places: Mapping[int, int]) -> list[Any] | None:
    if key == "forced_decoder_ids":  # [place in the sequence, id]
        found: list[Any] = [[at, places[index]] for at, index in value if index in places]
    elif key == "sequence_bias":  # [ids, bias]
        found = [
            [[places[index] for index in ids], bias] for ids, bias in value if all(index in places for index in ids)
        ]
    elif key == "bad_words_ids":
        found = [[places[index] for index in ids] for ids in value if all(index in places for index in ids)]
    else:
        found = [places[index] for index in value if index in places]
    return found or None


def write_tokenizer(source: Path, target: Path, kept: Sequence[int]) -> None:
    """Write the tokenizer of a model folder, cut to the ids `kept`, and vocabulary_map.json into another folder.

    vocab.json, merges.txt and tokenizer.model are not taken along: tokenizer.json is what transformers 4 and 5 read.

    Raises ValueError where the tokenizer cannot be cut, ArtifactError where what was written gives other ids.
    """
    whole = read_object(source / "tokenizer.json")
    cut = cut_tokenizer(whole, kept)
    places = {before: now for now, before in enumerate(kept)}
    for name in _WITHOUT_IDS:
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)
    _write(target / "tokenizer.json", cut)
    if (source / "added_tokens.json").is_file():
        added = read_object(source / "added_tokens.json")
        _write(target / "added_tokens.json", {text: places[index] for text, index in added.items() if index in places})
    if (source / "tokenizer_config.json").is_file():
        settings = read_object(source / "tokenizer_config.json")
        if isinstance(known := settings.get("added_tokens_decoder"), dict):
            settings["added_tokens_decoder"] = {
                str(places[int(index)]): entry for index, entry in known.items() if int(index) in places
            }
        _write(target / "tokenizer_config.json", settings)
    copy_tokenizer(target, target)  # names the class
    size = int(read_config(source)["vocab_size"])
    map_after(source, kept, beginnings(whole, kept, size)).write(target)
    expected = cut["model"]["vocab"] | {entry["content"]: entry["id"] for entry in cut.get("added_tokens") or ()}
    if load_tokenizer(target).get_vocab() != expected:
        raise ArtifactError(f"{target}: the cut tokenizer gives other ids than it holds; leave remove.vocab out")


def _write(path: Path, value: Json) -> None:
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")
