"""What it costs a model, before any training, to read and write a token by its parts. Bits per use."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from compress.contract import Progress, silent
from compress.data.corpus import Corpus, Ids
from compress.models.families import shape_of
from compress.prune.spelling import Json, spelling_of
from compress.prune.vocabulary import choose_tokens, count_tokens, removal_order

# Tokens before and behind a use that a window holds.
BEFORE, AFTER = 28, 8
# Windows measured of one token.
USES = 12
# 6,000 uses take a minute on stories3M; 450 of a 1.1 B model take some five.
_MOST_USES, _WEIGHT_USES = 6000, 5e11
_MARGIN = 64
_LOGIT_BYTES = 256_000_000
_BATCH = 64


@dataclass(frozen=True)
class _Window:
    """A stretch of a document with uses of one token, as it stands and with the parts of the token in their place."""

    token: int
    uses: int
    whole: list[int]
    apart: list[int]


def choose_by_model(
    model: Any,
    tokenizer: Json,
    corpus: Corpus,
    keep: int,
    always: Iterable[int] = (),
    progress: Progress = silent,
) -> list[int]:
    """Return the `keep` ids that stay, ascending, of a causal model: what goes costs least by uses times measured bits.

    Bits are measured for the tokens that uses alone would take, and for half as many behind them, nearest to that border
    first; how many follows from the model's parameters, so that it takes about as long as the other scores.

    Raises ValueError as choose_tokens does.
    """
    size = int(model.get_input_embeddings().weight.shape[0])
    counts = count_tokens(corpus, size)
    kept = choose_tokens(tokenizer, counts, keep, always)
    spelling = spelling_of(tokenizer)
    removed = len(spelling.tokens.keys() - kept)
    order = removal_order(tokenizer, counts, removed + removed // 2 + _MARGIN, always)
    border = sorted(range(len(order)), key=lambda place: abs(place - removed))
    wanted = {order[place]: spelling.parts[order[place]] for place in border if counts[order[place]]}
    if not wanted:
        return kept
    most = max(USES, min(_MOST_USES, int(_WEIGHT_USES / sum(weight.numel() for weight in model.parameters()))))
    bits = measure_extra_bits(model, corpus, wanted, most, progress)
    return choose_tokens(tokenizer, counts, keep, always, bits)


@torch.no_grad()
def measure_extra_bits(
    model: Any,
    corpus: Corpus,
    parts: Mapping[int, Sequence[int]],
    most: int = _MOST_USES,
    progress: Progress = silent,
) -> dict[int, float]:
    """Return the bits that one use of a token costs a causal model more when its parts stand for it.

    Measured in windows around up to 12 uses spread evenly over the text, `most` in all, shared out in the order of `parts`: the
    bits of a window in which parts stand for every use, less those of the window as it is, by use. Names come in crowds, and
    a model copies how they were spelled. Tokens that the text does not use are left out, and windows over the model's context.

    Memory: the logits of one batch, at most 256 MB.
    """
    context = shape_of(model.config.to_dict()).context
    windows = [each for each in _windows(corpus, parts, most) if context is None or len(each.apart) <= context]
    found: dict[int, list[float]] = defaultdict(list)
    width = int(model.get_output_embeddings().weight.shape[0])
    rows = max(1, min(_BATCH, _LOGIT_BYTES // (4 * width * 2 * (BEFORE + AFTER))))
    for start in range(0, len(windows), rows):
        batch = windows[start : start + rows]
        before, after = (_bits(model, ids) for ids in ([each.whole for each in batch], [each.apart for each in batch]))
        for window, less, more in zip(batch, before, after, strict=True):
            found[window.token].append((more - less) / window.uses)
        progress(start + len(batch), len(windows), "windows")
    return _drawn_together(found)


def _drawn_together(found: Mapping[int, Sequence[float]]) -> dict[int, float]:
    """Return the mean of each token, drawn towards the mean of all by as much as chance alone spreads them.

    Paper: Efron and Morris, Stein's estimation rule and its competitors, JASA 1973 (empirical Bayes), with the variance within
    a token taken as the same for all.
    """
    if len(found) < 2:
        return {token: statistics.fmean(each) for token, each in found.items()}
    means = {token: statistics.fmean(each) for token, each in found.items()}
    middle = statistics.fmean(means.values())
    repeated = [each for each in found.values() if len(each) > 1]
    within = statistics.fmean(map(statistics.variance, repeated)) if repeated else 0.0
    chance = statistics.fmean(within / len(each) for each in found.values())
    between = max(statistics.variance(means.values()) - chance, 1e-9)
    return {
        token: (len(found[token]) * mean * between + within * middle) / (len(found[token]) * between + within)
        for token, mean in means.items()
    }


def _windows(corpus: Corpus, parts: Mapping[int, Sequence[int]], most: int) -> Iterator[_Window]:
    order = np.argsort(corpus.ids, kind="stable")
    sorted_ids = corpus.ids[order]
    left = most
    for token in parts:
        low, high = np.searchsorted(sorted_ids, [token, token + 1])
        if low == high or left <= 0:
            continue
        spread = np.unique(np.linspace(low, high - 1, USES).round().astype(np.int64))[:left]
        left -= len(spread)
        for place in order[spread]:
            document = int(np.searchsorted(corpus.starts, place, side="right")) - 1
            first, last = int(corpus.starts[document]), int(corpus.starts[document + 1])
            whole = corpus.ids[max(first, int(place) - BEFORE) : min(last, int(place) + 1 + AFTER)].tolist()
            # what stands first is read, not scored, so it stays as it is
            apart = [
                whole[0],
                *(each for index in whole[1:] for each in (parts[token] if index == token else (index,))),
            ]
            if uses := whole[1:].count(token):
                yield _Window(token, uses, whole, apart)


def _bits(model: Any, sequences: list[list[int]]) -> list[float]:
    """Return the bits of each sequence behind its first token."""
    ids: Ids = np.zeros((len(sequences), max(map(len, sequences))), dtype=np.int64)
    for row, sequence in enumerate(sequences):
        ids[row, : len(sequence)] = sequence  # zeros behind the end: no causal model reads them before
    tokens = torch.from_numpy(ids).to(model.device)
    logits = model(input_ids=tokens, use_cache=False).logits[:, :-1].float()
    nats = torch.logsumexp(logits, -1) - logits.gather(-1, tokens[:, 1:, None])[..., 0]
    scored = torch.arange(nats.shape[1]) < torch.tensor([[len(sequence) - 1] for sequence in sequences])
    found: list[float] = (nats.double().cpu() * scored).sum(1).div(math.log(2)).tolist()
    return found
