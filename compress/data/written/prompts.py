"""What the teacher is given to write on: prompt number n of a recipe's prompts, always the same."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.artifact import key_of
from compress.data.chat import ChatRenderer, chat_renderer
from compress.data.given import Given
from compress.data.options import Source
from compress.data.sources import expand_files, fingerprint_source, read_documents, read_rows, sample_order
from compress.data.written.options import ALPACA, ALPACA_WITHOUT_INPUT, Chunks, Instructions, Openings, Prompts
from compress.data.written.words import read_words
from compress.errors import StageError
from compress.models.folder import load_tokenizer, special_ids

if TYPE_CHECKING:
    from tokenizers import Tokenizer

# More characters than this for each token of an opening are not looked at.
_CHARACTERS = 50


@dataclass(frozen=True)
class Prompt:
    """A prompt as the teacher reads it.

    ids      [T] with the token in front that begins a text, where the teacher has one
    text     the same as a student reads it
    origin   where it comes from: the number of a document, of an instruction, `document:piece` of a chunk; empty: nowhere
    """

    ids: tuple[int, ...]
    text: str
    origin: str = ""


class PromptList:
    """The prompts of a source. Prompt n is drawn by the seed and n alone; a list that ends is gone through again and again.

    count  how many different prompts there are; None for templates, which are drawn anew each time
    chat   the teacher's chat template, where prompts are put into it
    """

    def __init__(self, source: Source, folder: Path) -> None:
        if source.prompts is None:
            raise ValueError("a source without prompts")
        self.options: Prompts = source.prompts
        self.seed = source.seed or 0
        self.chat = _chat(source, folder)
        self._tokenizer = load_tokenizer(folder)
        special = special_ids(folder)
        self._bos = () if special.bos is None else (special.bos,)
        self._begin = self._bos or special.eos[:1]
        self._words = read_words(self.options.words)
        self._items = self._read_items()
        self.count = None if self.options.template else len(self._items)
        if self.count == 0:
            raise StageError(f"prompts.{self.options.kind}: there is no text in it")
        self._order = sample_order(len(self._items), self.seed)

    def __getitem__(self, number: int) -> Prompt:
        if self.options.template:
            return self._filled(number)
        index = self._order[number % len(self._order)]
        return self._items[index]()

    def seeds(self) -> Iterator[str]:
        """Yield the documents that openings and chunks are taken from."""
        given = self.options.openings if isinstance(self.options.openings, Openings) else self.options.chunks
        if given is not None:
            yield from (document.text for document in read_documents(given))

    def wrapped(self, text: str, origin: str = "") -> Prompt:
        """Return a text as a turn of the user, where there is a chat template."""
        if self.chat is None:
            return Prompt(self._bos + self._encode(text), text, origin)
        rendered = self.chat([{"role": "user", "content": text}], True)
        return Prompt(self._encode(rendered), rendered, origin)

    def _encode(self, text: str) -> tuple[int, ...]:
        return tuple(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def _filled(self, number: int) -> Prompt:
        templates = self.options.template or []
        template = templates[pick(self.seed, number, "", len(templates))]
        words = {name: listed[pick(self.seed, number, name, len(listed))] for name, listed in self._words.items()}
        return self.wrapped(template.format_map(words))

    def _read_items(self) -> Sequence[Callable[[], Prompt]]:
        """Return for each prompt what makes it: texts are tokenized when their turn comes."""
        options = self.options
        if options.openings == "bos":
            if not self._begin:
                raise StageError(
                    "prompts.openings is bos, but the teacher has neither BOS nor EOS to begin a text with"
                )
            return [lambda: Prompt(self._begin, "")]
        if isinstance(options.openings, Openings):
            return [_later(self._opening, text, str(number)) for number, text in enumerate(_texts(options.openings))]
        if options.instructions:
            return [
                _later(self._instruction, row, str(number)) for number, row in enumerate(_asked(options.instructions))
            ]
        if options.chunks:
            ask = options.chunks.ask
            return [
                _later(self.wrapped, ask.format(chunk=piece), origin)
                for origin, piece in _pieces(options.chunks, self._tokenizer)
            ]
        return []

    def _opening(self, text: str, origin: str) -> Prompt:
        options = self.options.openings
        if not isinstance(options, Openings):
            raise ValueError("prompts without openings")
        if options.words:
            text = " ".join(text[: _CHARACTERS * options.words].split()[: options.words])
        ids = self._encode(text[: _CHARACTERS * options.tokens] if options.tokens else text)[: options.tokens]
        return Prompt(self._bos + ids, self._tokenizer.decode(list(ids), skip_special_tokens=True), origin)

    def _instruction(self, row: tuple[str, str], origin: str) -> Prompt:
        instruction, context = row
        template = self.options.instructions and self.options.instructions.template
        if template is None and self.chat is not None:
            return self.wrapped(f"{instruction}\n\n{context}" if context else instruction, origin)
        filled = template or (ALPACA if context else ALPACA_WITHOUT_INPUT)
        return self.wrapped(filled.format(instruction=instruction, input=context), origin)


def _later(make: Callable[[Any, str], Prompt], what: Any, origin: str) -> Callable[[], Prompt]:
    return lambda: make(what, origin)


def _chat(source: Source, folder: Path) -> ChatRenderer | None:
    if source.chat is False or (source.chat is None and source.prompts and source.prompts.openings):
        return None
    found = chat_renderer(folder)
    if found is None and source.chat:
        raise StageError(f"chat is true, but the teacher ({folder}) has no chat template; leave chat out")
    return found


def pick(seed: int, number: int, name: str, count: int) -> int:
    """Return a number below `count` that follows from seed, prompt and name on every machine."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{number}:{name}".encode()).digest()[:8], "big") % count


def _texts(given: Given) -> list[str]:
    return [document.text for document in read_documents(given)]


def _asked(options: Instructions) -> Iterator[tuple[str, str]]:
    """Yield (instruction, input) of each row; rows without instruction are left out."""
    given = Given.model_validate(options.model_dump(exclude={"instruction", "input", "template"}))
    if options.builtin or (given.files and not is_table(given)):
        lines = given if given.separator or options.builtin else given.model_copy(update={"separator": "\n"})
        yield from ((text, "") for text in _texts(lines))
        return
    taken = 0
    for number, row in enumerate(read_rows(given), 1):
        if options.instruction not in row:
            columns = ", ".join(map(repr, row))
            raise StageError(
                f"prompts.instructions: row {number} has no column '{options.instruction}'; the columns are {columns}. "
                "Name it with instruction:"
            )
        if taken == options.documents:
            return
        instruction, context = (str(row.get(name) or "").strip() for name in (options.instruction, options.input))
        if instruction:
            taken += 1
            yield instruction, context


def is_table(given: Given) -> bool:
    """Say whether the files of a source have columns."""
    return expand_files(given)[0].suffix.lower() not in (".txt", ".md")


def _pieces(options: Chunks, tokenizer: Tokenizer) -> Iterator[tuple[str, str]]:
    """Yield (document:piece, text) of pieces of about equally many tokens, at most `tokens` each."""
    for number, text in enumerate(_texts(options)):
        offsets = tokenizer.encode(text, add_special_tokens=False).offsets
        count = max(1, -(-len(offsets) // options.tokens))
        bounds = [len(offsets) * index // count for index in range(count + 1)]
        for piece, (start, end) in enumerate(pairwise(bounds)):
            if found := text[offsets[start][0] : offsets[end - 1][1]].strip():
                yield f"{number}:{piece}", found


def fingerprint_prompts(options: Prompts) -> str:
    """Return what determines the prompts besides the teacher's tokenizer: options and contents of files, not their names."""
    given = options.openings if isinstance(options.openings, Openings) else options.instructions or options.chunks
    said = options.model_dump(mode="json", exclude={"openings", "instructions", "chunks", "words"}, exclude_none=True)
    said |= {"kind": options.kind, "words": read_words(options.words)}
    return key_of(said | {"given": fingerprint_source(given) if given else None})
