"""What can be said of data that the teacher will write before anything is loaded. Imports neither torch nor numpy."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from compress.data.options import NEW_TOKENS, Source
from compress.data.written.labels import class_names, class_number
from compress.data.written.options import Instructions, Openings, Prompts, Quality
from compress.data.written.words import read_words
from compress.errors import ArtifactError, StageError
from compress.models.folder import read_config
from compress.models.kind import class_name, is_causal, is_classifier

Found = tuple[tuple[str | int, ...], str]
"""Where inside the source, and what is wrong there."""


def find_problems(source: Source, config: dict[str, Any] | None) -> Iterator[Found]:
    """Yield what is wrong with a source that the teacher writes; `config` is the teacher's, None where it is not known here."""
    prompts = source.prompts
    if prompts is None:
        return
    if config and not is_causal(config):
        yield ("from",), f"the teacher is a {class_name(config)}, and only a causal language model writes text"
    elif config:
        yield from _room(source, prompts, config)
    for name, words in prompts.words.items():
        try:
            read_words({name: words})
        except StageError as error:
            yield ("prompts", "words", name), str(error)
    for index, each in enumerate(source.filters or ()):
        if each.quality and (wrong := _quality(each.quality)):
            yield ("filters", index, "quality", wrong[0]), wrong[1]


def _room(source: Source, prompts: Prompts, config: dict[str, Any]) -> Iterator[Found]:
    context = config.get("max_position_embeddings")
    new = source.new_tokens or NEW_TOKENS
    opening = (prompts.openings.tokens or 0) if isinstance(prompts.openings, Openings) else 0
    if isinstance(context, int) and new + opening + 1 > context:
        said = f"{new} new tokens" + (f" after {opening} of an opening" if opening else "")
        yield ("new_tokens",), f"{said} do not fit into the teacher's context of {context} tokens; use fewer"


def _quality(options: Quality) -> tuple[str, str] | None:
    folder = Path(options.model)
    try:
        config = read_config(folder)
    except ArtifactError as error:
        return "model", str(error)
    if not is_classifier(config):
        return "model", f"{folder} is a {class_name(config)}, and quality asks a classifier of texts"
    names = class_names(config)
    try:
        class_number(options.label, names, len(names) or (1 << 30), folder)
    except StageError as error:
        return "label", str(error)
    return None


def nested_sources(source: Source) -> Iterator[tuple[str, Openings | Instructions | Any]]:
    """Yield the documents that prompts are taken from, by the kind of the prompts."""
    for kind in ("openings", "instructions", "chunks"):
        given = getattr(source.prompts, kind, None)
        if given is not None and given != "bos":
            yield kind, given
