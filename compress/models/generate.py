"""Write text with a Decoder: token by token, greedy or sampled, and as printable pieces. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from compress.errors import Problem, RecipeError
from compress.models.decoder import Decoder, open_decoder
from compress.models.folder import load_tokenizer, special_ids

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Float64s = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen. Temperature 0 is greedy: the most probable token, the first of equals.

    temperature  divides the logits; 0 or more
    top_k        draw among the k most probable tokens only; at least 1
    top_p        draw among the fewest tokens whose probability reaches p; above 0, at most 1
    seed         of the draws; the same seed gives the same tokens

    Raises RecipeError when a number is out of range.
    """

    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        problems = []
        if not 0 <= self.temperature < float("inf"):
            problems.append(Problem(f"temperature must be 0 (greedy) or more, got {self.temperature}"))
        if self.top_k is not None and self.top_k < 1:
            problems.append(Problem(f"top_k must be at least 1, got {self.top_k}"))
        if self.top_p is not None and not 0 < self.top_p <= 1:
            problems.append(Problem(f"top_p must be above 0 and at most 1, got {self.top_p}"))
        if self.seed < 0:
            problems.append(Problem(f"seed must be 0 or more, got {self.seed}"))
        if problems:
            raise RecipeError(problems)


GREEDY = Sampling()


def generate(
    decoder: Decoder, prompt: Sequence[int], new: int, sampling: Sampling = GREEDY, ends: Sequence[int] = ()
) -> Iterator[int]:
    """Return an iterator over at most `new` token ids that follow the prompt's ids.

    It ends before a token of `ends` (EOS), which is not given out, and where the context is full.

    Raises RecipeError at once when the prompt is empty, holds ids the model does not know, or fills the context.
    """
    unknown = [token for token in prompt if not 0 <= token < decoder.vocabulary]
    if unknown:
        raise RecipeError(
            [Problem(f"the prompt has token {unknown[0]}, the model has tokens 0 to {decoder.vocabulary - 1}")]
        )
    if not prompt:
        raise RecipeError([Problem("the prompt is empty and the model has no BOS token; give a text")])
    if len(prompt) >= decoder.context:
        found = f"the prompt has {len(prompt)} tokens, the model's context is {decoder.context}"
        raise RecipeError([Problem(f"{found}; give a shorter text")])
    return _tokens(decoder, prompt, min(new, decoder.context - len(prompt)), sampling, frozenset(ends))


def _tokens(
    decoder: Decoder, prompt: Sequence[int], new: int, sampling: Sampling, ends: frozenset[int]
) -> Iterator[int]:
    if new < 1:
        return
    generator = np.random.default_rng(sampling.seed)
    logits = decoder.start(np.array([prompt], dtype=np.int64))[0]
    for left in range(new - 1, -1, -1):
        token = choose(logits, sampling, generator)
        if token in ends:
            return
        yield token
        if left:
            logits = decoder.step(np.array([token], dtype=np.int64))[0]


def choose(logits: npt.NDArray[np.float32], sampling: Sampling, generator: np.random.Generator) -> int:
    """Return the next token id for logits [V]; greedy draws nothing from the generator."""
    if sampling.temperature == 0:
        return int(logits.argmax())
    kept, probabilities = distribution(logits, sampling)
    sums = np.cumsum(probabilities)
    return int(kept[min(int(np.searchsorted(sums, generator.random() * sums[-1], side="right")), len(kept) - 1)])


def distribution(logits: npt.NDArray[np.float32], sampling: Sampling) -> tuple[npt.NDArray[np.int64], Float64s]:
    """Return the ids that may be drawn, most probable first, and their float64 probabilities, which sum to 1.

    The temperature is applied first, then top_k, then top_p, as in transformers.

    Range: temperature above 0.
    """
    order = np.argsort(-logits, kind="stable")[: sampling.top_k]
    scaled = logits[order].astype(np.float64) / sampling.temperature
    probabilities = np.exp(scaled - scaled[0])
    probabilities /= probabilities.sum()
    if sampling.top_p is not None:
        # The token that reaches top_p belongs to the set, so at least one is left.
        before = np.cumsum(probabilities) - probabilities
        kept = int((before < sampling.top_p).sum())
        order, probabilities = order[:kept], probabilities[:kept] / probabilities[:kept].sum()
    return order.astype(np.int64), probabilities


def stream_text(tokenizer: Tokenizer, prompt: Sequence[int], tokens: Iterable[int]) -> Iterator[str]:
    """Yield the text of the tokens in pieces that can be printed one after another.

    A piece is held back while it ends within a character (byte-level BPE, byte fallback); the prompt decides whether
    the first piece starts with a space. Special tokens are left out. What is incomplete at the end comes out as U+FFFD.
    """
    from tokenizers.decoders import DecodeStream

    stream = DecodeStream(ids=list(prompt), skip_special_tokens=True)
    held: list[int] = []
    for token in tokens:
        held.append(token)
        piece = stream.step(tokenizer, token)
        if piece is not None:
            held.clear()
            yield piece
    rest: str = tokenizer.decode(held, skip_special_tokens=True) if held else ""
    if rest:
        yield rest


def continue_text(folder: Path, text: str, new: int, sampling: Sampling = GREEDY) -> Iterator[str]:
    """Return an iterator over printable pieces of at most `new` tokens that continue a text, with a model folder.

    The model's BOS, where it has one, stands before the text; it ends at EOS.

    Raises ArtifactError when the folder does not open, RecipeError when the text does not fit. Both at once.
    """
    tokenizer, special = load_tokenizer(folder), special_ids(folder)
    front = [] if special.bos is None else [special.bos]
    prompt = front + tokenizer.encode(text, add_special_tokens=False).ids
    tokens = generate(open_decoder(folder), prompt, new, sampling, special.eos)
    return stream_text(tokenizer, prompt, tokens)
