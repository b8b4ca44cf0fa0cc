"""From what the teacher wrote to documents: with the prompt learned, read or dropped; question and answer pairs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from compress.contract import Json
from compress.data.chat import ChatRenderer
from compress.data.options import Source
from compress.data.sources import Document


@dataclass(frozen=True)
class Item:
    """A document on its way through the filters.

    name    number of the text that it is from, and of the pair in it
    origin  where its prompt comes from
    ended   whether it ended by itself
    """

    document: Document
    name: str
    origin: str
    ended: bool

    def to_json(self) -> Json:
        """Return the form in which it is stored."""
        return {"name": self.name, "origin": self.origin, "segments": [list(part) for part in self.document.segments]}


def document_from_json(entry: Json) -> Document:
    """Return the document that `Item.to_json` wrote."""
    return Document(tuple((str(text), bool(learned)) for text, learned in entry["segments"]))


def items_of(text: Json, number: int, source: Source, chat: ChatRenderer | None) -> Iterator[Item]:
    """Yield the documents of a written text; what has nothing to learn is left out, of chunks also what is no pair."""
    chunks = source.prompts.chunks if source.prompts else None
    # a chat is to be learned with the token that ends a turn
    end = text["end"] if chat is not None else ""
    if chunks is None:
        document = _document(text["prompt"], text["text"].rstrip() if text["ended"] else text["text"], source, end)
        if document.learned.strip():
            yield Item(document, str(number), text["origin"], text["ended"])
        return
    matches = list(re.finditer(chunks.pairs, text["text"], re.DOTALL))
    for index, match in enumerate(matches):
        question, answer = match["question"].strip(), match["answer"].strip()
        if question and answer:
            prompt = chat([{"role": "user", "content": question}], True) if chat else f"{question}\n"
            ended = text["ended"] or index + 1 < len(matches)
            yield Item(_document(prompt, answer, source, end), f"{number}:{index}", text["origin"], ended)


def _document(prompt: str, text: str, source: Source, end: str) -> Document:
    role = source.prompt_role
    if role == "learned":
        return Document((((prompt + text).strip() + end, True),))
    if role == "dropped":
        return Document(((text.strip() + end, True),))
    return Document(((prompt, False), (text + end, True)))
