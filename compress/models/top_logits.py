"""A teacher's answer for a token in some 200 bytes: its most probable tokens, and a few drawn from the rest.

The most probable tokens alone are not enough: the rest as one bucket makes a KL divergence 2 to 5 % too small (stories3M,
50 tokens kept, students at 0.0009 to 1.4 nats), left out altogether it is up to 13 % off. So some tokens are drawn from the
rest by its own distribution, each standing for an equal share of its mass, and

    KL(teacher || student) = E[ sum_j weight_j (ln p_j - ln q_j) ]

over both kinds. A record is a fixed number of bytes, so that any token is found without an index:

    16 bits                  log odds of the rest's mass, in 1/1024 nats
    16 bits                  span: nats between the most and the least probable token kept, in 1/1024
    kept + drawn ids         ceil(log2 V) bits each, the kept ones from the most probable down
    kept - 1 + drawn codes   10 bits each: how far below, as the square root of its share of the span

The chances of the kept tokens follow from the distances, as they add up to what the rest leaves. Square roots put the small
steps where the mass is: 0.04 % of a KL of 0.0009 nats, where equal steps of 10 bits miss it by 0.14 %.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Records = npt.NDArray[np.uint8]
Ids = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]
Float64s = npt.NDArray[np.float64]

REVISION = 1
TOP, SAMPLES = 50, 10
_LARGEST_VOCABULARY = 2**20
_MOST_TOP, _MOST_SAMPLES = 4096, 256
_HEADER_BYTES = 4
_CODE_BITS = 10
_LARGEST_CODE = 2**_CODE_BITS - 1
_STEPS_PER_NAT = 1024
_ZERO_ODDS = 2**15
_LARGEST_SHORT = 2**16 - 1
# Drawn tokens are so far below the least probable kept one at most: of 2**20 tokens, e**-16 of its chance each, nothing is drawn.
_DRAWN_SPAN = 16.0


@dataclass(frozen=True)
class TopLayout:
    """What is kept of each answer: the `top` most probable tokens, and `samples` drawn from the rest.

    Raises ValueError, with the legal range, where a number is out of it.
    """

    vocabulary: int
    top: int = TOP
    samples: int = SAMPLES

    def __post_init__(self) -> None:
        for name, found, least, most in (
            ("vocabulary", self.vocabulary, 2, _LARGEST_VOCABULARY),
            ("top", self.top, 1, _MOST_TOP),
            ("samples", self.samples, 1, _MOST_SAMPLES),
        ):
            if not least <= found <= most:
                raise ValueError(f"{name} must lie between {least:,} and {most:,}, got {found:,}")

    def __str__(self) -> str:
        return f"top {self.kept} + {self.drawn} samples"

    @property
    def kept(self) -> int:
        """How many of the most probable tokens a record holds."""
        return min(self.top, self.vocabulary)

    @property
    def drawn(self) -> int:
        """How many tokens drawn from the rest a record holds: none where every token is kept."""
        return self.samples if self.kept < self.vocabulary else 0

    @property
    def columns(self) -> int:
        """How many tokens a record holds."""
        return self.kept + self.drawn

    @property
    def record_bytes(self) -> int:
        """How many bytes a record takes, all counted."""
        bits = self.columns * self._id_bits + (self.columns - 1) * _CODE_BITS
        return _HEADER_BYTES + -(-bits // 8)

    @property
    def _id_bits(self) -> int:
        return (self.vocabulary - 1).bit_length()

    def to_json(self) -> dict[str, Any]:
        """Return what determines the form of a record."""
        return {"codec": REVISION, "vocabulary": self.vocabulary, "top": self.top, "samples": self.samples}


@dataclass(frozen=True)
class TopLogits:
    """The answers for n tokens, before they are packed.

    ids, log_chances              [n, kept] the most probable tokens, from the first down, and ln p of each
    rest_odds                     [n] ln(r / (1 - r)) of the mass r of all others
    drawn_ids, drawn_log_chances  [n, drawn] tokens drawn from the others, each with chance p / r, and ln p of each
    """

    ids: npt.NDArray[Any]
    log_chances: npt.NDArray[Any]
    rest_odds: npt.NDArray[Any]
    drawn_ids: npt.NDArray[Any]
    drawn_log_chances: npt.NDArray[Any]


@dataclass(frozen=True)
class TopRows:
    """Answers as they are read, the kept tokens in front of the drawn ones.

    Shapes: all [..., m]; ids int64, ln p and weights float32. A weight is the token's chance, or for a drawn one an equal
    share of the rest's mass; those of a row add up to 1. `kept` of the m are no drawn ones.
    """

    ids: Ids
    log_chances: Floats
    weights: Floats
    kept: int

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, rows: Any) -> TopRows:
        return TopRows(self.ids[rows], self.log_chances[rows], self.weights[rows], self.kept)


def expected_bytes(tokens: int, vocabulary: int, top: int = TOP, samples: int = SAMPLES) -> int:
    """Return how many bytes the answers for so many tokens take.

    Raises ValueError where a number is out of its range.
    """
    return tokens * TopLayout(vocabulary, top, samples).record_bytes


def encode(layout: TopLayout, answers: TopLogits) -> Records:
    """Return the records [n, record_bytes] of the answers for n tokens.

    Raises ValueError where shapes or ids do not fit the layout, or a chance is not a number.
    """
    _check(layout, answers)
    log_chances = answers.log_chances.astype(np.float64)
    # beyond 64 nats nothing is left to tell apart
    below = np.minimum(log_chances[:, :1] - log_chances, _LARGEST_SHORT / _STEPS_PER_NAT)
    spans = np.ceil(below[:, -1:] * _STEPS_PER_NAT)
    kept_codes = _codes(below[:, 1:], np.maximum(spans, 1) / _STEPS_PER_NAT)
    last = log_chances[:, :1] - below[:, -1:]
    drawn_codes = _codes(last - answers.drawn_log_chances.astype(np.float64), _DRAWN_SPAN)
    odds = np.rint(answers.rest_odds.astype(np.float64) * _STEPS_PER_NAT) + _ZERO_ODDS
    header = np.stack([np.clip(odds, 0, _LARGEST_SHORT), spans[:, 0]], axis=1).astype("<u2")
    bits = [
        _bits(np.concatenate([answers.ids, answers.drawn_ids], axis=1).astype(np.uint32), layout._id_bits),
        _bits(np.concatenate([kept_codes, drawn_codes], axis=1), _CODE_BITS),
    ]
    packed = np.packbits(np.concatenate(bits, axis=1), axis=1, bitorder="little")
    return np.concatenate([header.view(np.uint8), packed], axis=1)


def decode(layout: TopLayout, records: Records) -> TopRows:
    """Return the answers of records [..., record_bytes].

    Raises ValueError where records have another length than the layout's.
    """
    if records.shape[-1] != layout.record_bytes:
        raise ValueError(f"a record of this layout has {layout.record_bytes} bytes, got {records.shape[-1]}")
    flat = np.ascontiguousarray(records.reshape(-1, layout.record_bytes))
    ids = _fields(flat, 8 * _HEADER_BYTES, layout._id_bits, layout.columns)
    start = 8 * _HEADER_BYTES + layout.columns * layout._id_bits
    shares = _fields(flat, start, _CODE_BITS, layout.columns - 1).astype(np.float32)
    shares *= np.float32(1 / _LARGEST_CODE)
    shares *= shares
    header = flat[:, :_HEADER_BYTES].copy().view("<u2").astype(np.float32)
    odds, spans = ((header - [_ZERO_ODDS, 0]) / _STEPS_PER_NAT).astype(np.float32).T
    kept = layout.kept
    log_chances = np.zeros((len(flat), layout.columns), dtype=np.float32)
    weights = np.ones_like(log_chances)
    np.multiply(shares[:, : kept - 1], -np.maximum(spans, 1 / _STEPS_PER_NAT)[:, None], out=log_chances[:, 1:kept])
    np.exp(log_chances[:, :kept], out=weights[:, :kept])
    total = weights[:, :kept].sum(1)
    if layout.drawn:
        rest = np.exp(-np.logaddexp(0, -odds))
        total /= np.exp(-np.logaddexp(0, odds))
        weights[:, kept:] = (rest / layout.drawn)[:, None]
    weights[:, :kept] /= total[:, None]
    log_chances[:, :kept] -= np.log(total)[:, None]
    np.multiply(shares[:, kept - 1 :], np.float32(-_DRAWN_SPAN), out=log_chances[:, kept:])
    log_chances[:, kept:] += log_chances[:, kept - 1, None]
    shape = (*records.shape[:-1], layout.columns)
    return TopRows(ids.astype(np.int64).reshape(shape), log_chances.reshape(shape), weights.reshape(shape), kept)


def uniforms(seed: int, windows: Ids, positions: int, samples: int) -> Float64s:
    """Return numbers in [0, 1), one in each of `samples` equal parts: float64 [B, positions, samples], ascending.

    Each follows from the seed, the number of its window [B] and its place there alone, so that neither batches nor a
    resumed run change it.
    """
    with np.errstate(over="ignore"):
        state = _mixed(np.full(1, seed % 2**64, dtype=np.uint64))
        state = _mixed(state ^ windows.astype(np.uint64))
        places = np.arange(positions * samples, dtype=np.uint64)
        state = _mixed(state[:, None] ^ _mixed(places)[None])
    found = (state >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return (found.reshape(len(windows), positions, samples) + np.arange(samples)) / samples


def _mixed(state: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Return splitmix64's next number of each state."""
    state = state + np.uint64(0x9E3779B97F4A7C15)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))


def _codes(below: Float64s, spans: Float64s | float) -> npt.NDArray[np.uint32]:
    codes: npt.NDArray[np.uint32] = np.rint(np.sqrt(np.clip(below / spans, 0, 1)) * _LARGEST_CODE).astype(np.uint32)
    return codes


def _bits(values: npt.NDArray[np.uint32], width: int) -> Records:
    """Return the bits [n, columns * width] of values [n, columns], the lowest first."""
    # the lowest bytes of a little-endian number hold its lowest bits
    octets = values.astype("<u4", order="C").view(np.uint8).reshape(*values.shape, 4)
    return np.unpackbits(octets, axis=-1, count=width, bitorder="little").reshape(len(values), -1)


def _fields(records: Records, start: int, width: int, count: int) -> npt.NDArray[np.uint32]:
    """Return `count` numbers of `width` bits each, from bit `start` of every record on: [n, count]."""
    places = start + width * np.arange(count)
    first, shifts = places // 8, (places % 8).astype(np.uint32)
    found = records[:, first].astype(np.uint32)
    for octet in range(1, -(-(width + 7) // 8)):
        # past the end of the record there are only bits that the mask takes away
        found |= records[:, np.minimum(first + octet, records.shape[1] - 1)].astype(np.uint32) << np.uint32(8 * octet)
    numbers: npt.NDArray[np.uint32] = (found >> shifts) & np.uint32(2**width - 1)
    return numbers


def _check(layout: TopLayout, answers: TopLogits) -> None:
    rows = len(answers.ids)
    expected = {
        "ids": (rows, layout.kept),
        "log_chances": (rows, layout.kept),
        "rest_odds": (rows,),
        "drawn_ids": (rows, layout.drawn),
        "drawn_log_chances": (rows, layout.drawn),
    }
    for name, shape in expected.items():
        found = getattr(answers, name)
        if found.shape != shape:
            raise ValueError(f"{name} must have the shape {shape}, got {found.shape}")
        if "ids" in name and found.size and not 0 <= found.min() <= found.max() < layout.vocabulary:
            raise ValueError(f"{name} must lie between 0 and {layout.vocabulary - 1:,}")
        if np.isnan(found).any():
            raise ValueError(f"{name} holds what is not a number")
    if not np.isfinite(answers.log_chances[:, 0]).all():
        raise ValueError("the most probable token needs a finite chance")
