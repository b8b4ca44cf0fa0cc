"""The gate of every export: the ONNX folder must say what the torch folder says, on real text where there is some.

One torch pass over windows of tokens is the reference for four checks of the ONNX file: `prefill` (the windows at once),
`decode` (a prefill, then tokens one by one with the cache), `padded` (a right-padded batch, at each row's last token) and
`single` (a sequence of one token).

Float graphs: largest |difference| of logits relative to the largest |logit|, at most `tolerance`. Measured: 1.8e-6 on
stories3M, 1.2e-6 on stories260K, 1.4e-6 on a random 110 M Llama, 1e-6 on tiny models of every family; the default of
1e-4 leaves room for deep models, and a sliding window left out, which the builder once did, is above 1.

Quantized graphs hold the torch folder's weights bit for bit (packing proves it). What they do to activations is another matter:
- int8 weights with dynamic or static activations round their inputs in a way that torch repeats here (rounded_inputs.py), so
  what is left is a step more or less where the two sides fall on either side of a half;
- ONNX Runtime rounds the inputs of blockwise weights to int8 in blocks (accuracy level 4), which torch does not repeat.

So logits are compared as distributions: mean KL(torch || ONNX) in nats a token, and the share of tokens whose first choice agrees;
where torch itself gives ONNX's first choice at least 80 % of the probability of its own, that is agreement (random models are full
of near ties). Measured on stories3M and stories260K, 2, 4 and 8 bits, blocks of 32 and 64, with and without zero points: KL 0.0003 to
0.0073, agreement 99.3 % and more, perplexity within 0.2 % of torch; int8 with dynamic
activations 0.0000 to 0.0054 and 97.8 %, with static ones 0.0000 to 0.0088 and 97.8 %. The limits, `KL_LIMIT` and
`AGREEMENT_LIMIT`, leave room for larger blocks: activations are rounded in the blocks of the weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from compress.contract import Context, Json
from compress.errors import StageError
from compress.models.decoder import Decoder, open_decoder
from compress.models.rounded_inputs import round_inputs
from compress.models.torch_decoder import TorchDecoder

KL_LIMIT = 0.05
AGREEMENT_LIMIT = 0.9
_NEAR_TIE = 0.8
_TOKENS = 96
_WINDOWS = 8
_STEPS = 16
# Largest number of logits held at once, per side.
_LOGITS = 1 << 25

Ids = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Observed:
    """What both sides say at the same places. Shapes: logits [P, V]; window and token [P] say where each place is."""

    check: str
    torch: Floats
    onnx: Floats
    window: Ids
    token: Ids


@dataclass(frozen=True)
class Comparison:
    """How far one check is off; `difference` is relative to the largest |logit|, `kl` nats a token."""

    check: str
    difference: float
    kl: float
    agreement: float
    place: str
    places: int
    finite: bool


def prove_parity(context: Context, tolerance: float | None) -> Json:
    """Compare context.target with context.source and return the facts; `tolerance` None: the source is quantized.

    Raises StageError that names the check, the place and the largest difference where both sides do not say the same.
    """
    ids, reference, text = _reference(context)
    compared = [compare(observed) for observed in observe(reference, open_decoder(context.target), ids)]
    for found in compared:
        _refuse(found, context, tolerance)
    facts: Json = {"text": text, "windows": int(ids.shape[0]), "tokens": int(ids.shape[1])}
    for found in compared:
        if tolerance is not None:
            facts[found.check] = {"difference_below": _next_power_of_ten(found.difference)}
        else:
            facts[found.check] = {"kl": _significant(found.kl), "agreement": _significant(found.agreement)}
    return facts


def _reference(context: Context) -> tuple[Ids, Floats, bool]:
    """Return windows ids [B, T], torch's logits [B, T, V] of them, and whether they are text; the torch model is freed."""
    torch_side = open_decoder(context.source)
    ids, text = _windows(context, torch_side)
    with round_inputs(torch_side.model, context.source) if isinstance(torch_side, TorchDecoder) else nullcontext():
        return ids, torch_side.logits(ids), text


def observe(reference: Floats, onnx_side: Decoder, ids: Ids) -> Iterator[Observed]:
    """Yield what both sides say for windows ids [B, T], check by check; torch's logits [B, T, V] are the reference.

    Memory: two or three times B * T * V floats.
    """
    rows, tokens = ids.shape
    every = np.indices((rows, tokens)).reshape(2, -1)
    yield _at("prefill", reference, onnx_side.logits(ids).reshape(rows * tokens, -1), every)
    steps = min(_STEPS, tokens - 1)
    if steps:
        first = tokens - steps
        said = [onnx_side.start(ids[:, :first])] + [onnx_side.step(ids[:, at]) for at in range(first, tokens)]
        places = np.stack([np.tile(np.arange(rows), steps + 1), np.repeat(np.arange(first - 1, tokens), rows)])
        yield _at("decode", reference, np.concatenate(said), places)
    lengths = np.linspace(tokens, 1, rows).round().astype(np.int64)
    padded = np.where(np.arange(tokens)[None, :] < lengths[:, None], ids, 0)
    last = np.stack([np.arange(rows), lengths - 1])
    yield _at("padded", reference, onnx_side.logits(padded, lengths)[last[0], last[1]], last)
    single = np.stack([np.arange(rows), np.zeros(rows, np.int64)])
    yield _at("single", reference, onnx_side.logits(ids[:, :1])[:, 0], single)


def compare(observed: Observed) -> Comparison:
    """Return the largest difference, the mean KL and the agreement of one check."""
    apart = np.abs(observed.torch - observed.onnx).max(-1)
    finite = bool(np.isfinite(apart).all())
    worst = int(np.argmax(np.where(np.isfinite(apart), apart, np.inf)))
    largest = float(np.abs(observed.torch).max())
    log_torch, log_onnx = _log_softmax(observed.torch), _log_softmax(observed.onnx)
    kl = float((np.exp(log_torch) * (log_torch - log_onnx)).sum(-1).mean())
    chosen = np.take_along_axis(log_torch, observed.onnx.argmax(-1)[:, None], -1)[:, 0]
    agreement = float((chosen >= log_torch.max(-1) + np.log(_NEAR_TIE)).mean())
    place = f"window {int(observed.window[worst])}, token {int(observed.token[worst])}"
    return Comparison(
        observed.check, float(apart[worst]) / max(largest, 1e-30), kl, agreement, place, len(apart), finite
    )


def _at(check: str, reference: Floats, said: Floats, places: Ids) -> Observed:
    return Observed(check, reference[places[0], places[1]], said, places[0], places[1])


def _windows(context: Context, decoder: Decoder) -> tuple[Ids, bool]:
    """Return windows [B, T] of calibration text, or of random tokens where there is none, and whether it is text."""
    tokens = min(_TOKENS, decoder.context)
    count = max(1, min(_WINDOWS, _LOGITS // (tokens * decoder.vocabulary)))
    if context.data is not None:
        found, _ = context.data("calibration", context.source).windows(tokens, count)
        if len(found):
            return found, True
    drawn = np.random.default_rng(context.seed).integers(0, decoder.vocabulary, (count, tokens), dtype=np.int64)
    return drawn, False


def _refuse(found: Comparison, context: Context, tolerance: float | None) -> None:
    where = f"export: ONNX and torch differ in {found.check}, most at {found.place}: "
    size = (
        f"largest difference {found.difference:.3g} of the largest logit"
        if found.finite
        else "logits that are not finite"
    )
    if tolerance is not None:
        if not found.finite or found.difference > tolerance:
            raise StageError(
                f"{where}{size}, {tolerance:g} is allowed (export.tolerance). The ONNX file does not say what the model says; "
                f"please report the model type with {context.source.name}'s config.json"
            )
    elif not found.finite or found.kl > KL_LIMIT or _disagrees(found):
        raise StageError(
            f"{where}{size}, KL {found.kl:.3g} nats a token ({KL_LIMIT:g} is allowed), first choices agree for "
            f"{found.agreement:.1%} ({AGREEMENT_LIMIT:.0%} is needed). The rounding of activations hurts this model too much; "
            "quantize with a smaller block or with bits: 8"
        )


def _disagrees(found: Comparison) -> bool:
    # One token of the few in `padded` and `single` is no sign.
    return found.agreement < AGREEMENT_LIMIT and (1 - found.agreement) * found.places > 1.5


def _log_softmax(logits: Floats) -> npt.NDArray[np.float64]:
    shifted = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    result: npt.NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return result


def _next_power_of_ten(value: float) -> float:
    # The noise of float sums changes with the number of threads; its decade, from 1e-5 up, does not.
    return float(f"1e{int(np.ceil(np.log10(max(value, 1e-5)) - 1e-9))}")


def _significant(value: float) -> float:
    return float(f"{value:.3g}")
