"""The teacher at work: batches of texts from prompts, and how likely it finds a text."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.contract import Json
from compress.data.options import NEW_TOKENS, Source
from compress.data.written.options import SamplingOptions
from compress.data.written.prompts import Prompt
from compress.models.decoder import context_of
from compress.models.folder import load_model, load_tokenizer, read_config, special_ids
from compress.models.generate import Sampling

if TYPE_CHECKING:
    from compress.data.sources import Document

_LOGITS = 1 << 26
"""So many logits at most are held at once, where a text alone does not need more."""


@dataclass(frozen=True)
class Teacher:
    """Who writes: a model folder, its fingerprint, and the device that it runs on."""

    folder: Path
    key: str
    device: str = "cpu"


class Writer:
    """A teacher that writes what a source asks for; its weights are loaded when they are first needed."""

    def __init__(self, teacher: Teacher, source: Source) -> None:
        self.teacher = teacher
        self.sampling = source.sampling or SamplingOptions()
        self.seed = source.seed or 0
        self.stop = tuple(source.stop or ())
        self.tokenizer = load_tokenizer(teacher.folder)
        self.special = special_ids(teacher.folder)
        self.context = context_of(read_config(teacher.folder), teacher.folder)
        self.new_tokens = source.new_tokens or NEW_TOKENS
        # a model without a token for the end begins the next text instead
        self.ends = frozenset(token for token in (*self.special.eos, self.special.bos) if token is not None)

    @cached_property
    def model(self) -> Any:
        """The teacher's model."""
        return load_model(self.teacher.folder, self.teacher.device)

    def fits(self, prompt: Prompt) -> bool:
        """Say whether the context holds a prompt and the new tokens."""
        return 0 < len(prompt.ids) <= self.context - self.new_tokens

    def write(self, batch: int, prompts: Sequence[Prompt]) -> list[Json]:
        """Return the texts that follow the prompts of a batch; seed and number of the batch decide the draws.

        A text is {"prompt", "origin", "text", "tokens", "ended", "end"}: `end` is the token at which it ended by itself, as text. A
        prompt that does not fit is {"prompt", "origin", "too_long": its tokens}.
        """
        from compress.models.torch_writer import write_batch

        seed = int.from_bytes(hashlib.sha256(f"{self.seed}:{batch}".encode()).digest()[:8], "big")
        options = self.sampling
        fitting = [prompt for prompt in prompts if self.fits(prompt)]
        written = iter(
            write_batch(
                self.model,
                [prompt.ids for prompt in fitting],
                self.new_tokens,
                Sampling(options.temperature, options.top_k, options.top_p, seed),
                self.ends,
                self._stops if self.stop else None,
            )
            if fitting
            else ()
        )
        return [self._text(prompt, next(written)) if self.fits(prompt) else _too_long(prompt) for prompt in prompts]

    def _text(self, prompt: Prompt, new: list[int]) -> Json:
        ended = bool(new) and new[-1] in self.ends
        end = str(self.tokenizer.id_to_token(new[-1]) or "") if ended else ""
        before, text = self._split(prompt, new[:-1] if ended else new)
        cuts = [place for stop in self.stop if (place := text.find(stop)) >= 0]
        if cuts:
            text, ended = text[: min(cuts)], True
        return {
            "prompt": before,
            "origin": prompt.origin,
            "text": text,
            "tokens": len(new),
            "ended": ended,
            "end": end,
        }

    def _split(self, prompt: Prompt, new: Sequence[int]) -> tuple[str, str]:
        """Return the prompt's text and what follows, so that both together read as the ids do: spaces depend on what is before."""
        before = self.tokenizer.decode(list(prompt.ids), skip_special_tokens=True)
        whole = self.tokenizer.decode([*prompt.ids, *new], skip_special_tokens=True)
        if whole.startswith(before):
            return prompt.text, whole[len(before) :]
        if before == prompt.text:
            # the prompt ends within a character
            return "", whole
        return prompt.text, self.tokenizer.decode(list(new), skip_special_tokens=True)

    def _stops(self, written: Sequence[int]) -> bool:
        tail = max(map(len, self.stop)) + 8
        text = self.tokenizer.decode(list(written[-tail:]), skip_special_tokens=True)
        return any(stop in text for stop in self.stop)

    def perplexities(self, documents: Sequence[Document]) -> list[float]:
        """Return the perplexity of the learned tokens of each document under the teacher, of what its context holds."""
        import torch

        begin = [] if self.special.bos is None else [self.special.bos]
        rows = [self._ids(document, begin) for document in documents]
        order = sorted(range(len(rows)), key=lambda index: (len(rows[index][0]), index))
        found: dict[int, float] = {}
        while order:
            longest = len(rows[order[-1]][0])
            width = self.model.get_output_embeddings().weight.shape[0]
            taken = [order.pop() for _ in range(min(len(order), max(1, _LOGITS // (longest * width))))]
            ids = torch.zeros(len(taken), longest, dtype=torch.int64)
            counted = torch.zeros(len(taken), longest, dtype=torch.bool)
            for place, index in enumerate(taken):
                ids[place, : len(rows[index][0])] = torch.tensor(rows[index][0])
                counted[place, : len(rows[index][1])] = torch.tensor(rows[index][1])
            for index, value in zip(taken, _perplexities(self.model, ids, counted), strict=True):
                found[index] = value
        return [found[index] for index in range(len(rows))]

    def _ids(self, document: Document, begin: list[int]) -> tuple[list[int], list[bool]]:
        ids, counted = list(begin), [False] * len(begin)
        for text, learned in document.segments:
            part = self.tokenizer.encode(text, add_special_tokens=False).ids
            ids += part
            counted += [learned] * len(part)
        return ids[: self.context], counted[: self.context]


def _perplexities(model: Any, ids: Any, counted: Any) -> list[float]:
    """Shapes: ids and counted [B, T], right padded; causal attention does not see the padding."""
    import torch

    with torch.inference_mode():
        logits = model(input_ids=ids.to(model.device), use_cache=False).logits[:, :-1].float()
        losses = torch.nn.functional.cross_entropy(
            logits.transpose(1, 2), ids[:, 1:].to(logits.device), reduction="none"
        ).cpu()
    scored = counted[:, 1:]
    sums = (losses.double() * scored).sum(-1) / scored.sum(-1)
    return [float(value) for value in sums.exp()]


def _too_long(prompt: Prompt) -> Json:
    return {"prompt": prompt.text, "origin": prompt.origin, "too_long": len(prompt.ids)}
