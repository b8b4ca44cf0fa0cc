"""What a removal leaves of each axis, and whether the family can be built so. From config.json alone; imports no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from compress.models.families import Shape
from compress.models.family import Family
from compress.prune.options import Groups, Removal

# A fraction of a width of at least ROUNDED_FROM keeps a multiple of _MULTIPLE: runtimes multiply those fast.
MULTIPLE = 8
ROUNDED_FROM = 64


class AmountError(ValueError):
    """An amount that the model does not allow; the message says what it would, and the nearest legal values."""


def left_of(remove: Removal, family: Family, shape: Shape, config: Mapping[str, Any]) -> Shape:
    """Return the sizes that a removal leaves.

    Raises ValueError with everything that is wrong with it.
    """
    left, problems = shape, []
    for axis in (_layers, _ffn, _vocab, _widths):
        try:
            left = axis(remove, family, left, config)
        except AmountError as problem:
            problems.append(str(problem))
    if problems:
        raise ValueError("; ".join(problems))
    return left


def removed_count(amount: int | float, of: int) -> int:
    """Return how many of `of` an amount removes: a count as it is, a fraction rounded to the nearest."""
    return amount if isinstance(amount, int) else round(amount * of)


def removed_columns(amount: int | float, width: int) -> int:
    """Return how many of `width` columns an amount removes.

    A count is exact. A fraction keeps the nearest multiple of 8 where the width is at least 64 (0.25 of 512 keeps 384,
    0.33 keeps 344); below that it is rounded to the nearest column.
    """
    if not isinstance(amount, float) or width < ROUNDED_FROM:
        return removed_count(amount, width)
    return width - min(width, max(MULTIPLE, MULTIPLE * round(width * (1 - amount) / MULTIPLE)))


def fits(family: Family, config: Mapping[str, Any], shape: Shape) -> bool:
    """Say whether the family's config class takes this hidden width beside these heads."""
    if family.whole_heads and shape.hidden % shape.heads:
        return False
    return not (_measured(family, config) and shape.hidden // shape.heads != shape.head_dim)


def _measured(family: Family, config: Mapping[str, Any]) -> bool:
    """Say whether the config holds rope factors that its class measures by hidden width over heads."""
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    return family.rope_by_width and any(rope.get(key) is not None for key in ("short_factor", "long_factor"))


def _layers(remove: Removal, family: Family, shape: Shape, config: Mapping[str, Any]) -> Shape:
    if remove.layers is None:
        return shape
    for key in family.by_index:
        if config.get(key):
            raise AmountError(
                f"remove.layers: with {key} in config.json a layer depends on its number; leave layers out"
            )
    count = removed_count(remove.layers, shape.layers)
    return replace(shape, layers=shape.layers - _some("layers", remove.layers, count, shape.layers, "layers"))


def _ffn(remove: Removal, family: Family, shape: Shape, config: Mapping[str, Any]) -> Shape:
    if remove.ffn is None:
        return shape
    count = removed_columns(remove.ffn, shape.ffn)
    return replace(shape, ffn=shape.ffn - _some("ffn", remove.ffn, count, shape.ffn, "feed-forward columns"))


def _vocab(remove: Removal, family: Family, shape: Shape, config: Mapping[str, Any]) -> Shape:
    if remove.vocab is None:
        return shape
    count = removed_columns(remove.vocab, shape.vocabulary)
    return replace(shape, vocabulary=shape.vocabulary - _some("vocab", remove.vocab, count, shape.vocabulary, "tokens"))


def _widths(remove: Removal, family: Family, shape: Shape, config: Mapping[str, Any]) -> Shape:
    if family.coupled:
        return _coupled(remove, shape)
    left, problems = shape, []
    if remove.heads is not None:
        try:
            heads, kv_heads = _heads(remove.heads, shape, family.whole_heads and remove.hidden is None)
            left = replace(left, heads=heads, kv_heads=kv_heads)
        except AmountError as problem:
            problems.append(str(problem))
    # Which widths are legal may depend on the heads that are left.
    if remove.hidden is not None and not (problems and family.whole_heads):
        try:
            left = replace(left, hidden=_hidden(remove.hidden, family, left))
        except AmountError as problem:
            problems.append(str(problem))
    if problems:
        raise AmountError("; ".join(problems))
    if family.whole_heads and left.hidden % left.heads:
        raise AmountError(_undivided(family, shape, left))
    if left != shape and not fits(family, config, left):
        raise AmountError(_unmeasured(family, shape, left, remove))
    return left


def legal_heads(shape: Shape) -> list[tuple[int, int]]:
    """Return every (query heads, key/value heads) that fewer heads can be: equally many of every group, or whole groups."""
    equal = [(shape.kv_heads * each, shape.kv_heads) for each in range(1, shape.group)]
    whole = [(shape.group * groups, groups) for groups in range(1, shape.kv_heads)]
    return sorted({*equal, *whole})


def _heads(amount: int | float | Groups, shape: Shape, dividing: bool) -> tuple[int, int]:
    if isinstance(amount, Groups):
        asked = removed_count(amount.kv_groups, shape.kv_heads)
        count = _some("heads.kv_groups", amount.kv_groups, asked, shape.kv_heads, "key/value groups")
        return shape.group * (shape.kv_heads - count), shape.kv_heads - count
    legal = legal_heads(shape)
    choices = [pair for pair in legal if not dividing or shape.hidden % pair[0] == 0]
    counts = sorted({shape.heads - heads for heads, _ in choices})
    if isinstance(amount, float):
        kept = shape.heads * (1 - amount)
        # Between two at the same distance the one that keeps more, and of those the one that keeps every group.
        order = [(abs(pair[0] - kept), -pair[0], -pair[1], pair) for pair in [*choices, (shape.heads, shape.kv_heads)]]
        found = min(order)[-1]
        _some("heads", amount, shape.heads - found[0], shape.heads, "query heads", counts)
        return found
    kept = shape.heads - _some("heads", amount, amount, shape.heads, "query heads", counts)
    exact = [pair for pair in legal if pair[0] == kept]
    if not exact:
        raise AmountError(
            f"remove.heads {amount} would leave {kept} of {shape.heads} query heads for {shape.kv_heads} key/value heads; "
            f"equally many must go from every group, or whole groups of {shape.group}: {_nearest(amount, counts)}"
        )
    return max(exact, key=lambda pair: pair[1])


def _hidden(amount: int | float, family: Family, shape: Shape) -> int:
    step = shape.heads if family.whole_heads else 1
    legal = [shape.hidden - width for width in range(step, shape.hidden, step)][::-1]
    if isinstance(amount, float):
        step = math.lcm(step, MULTIPLE if shape.hidden >= ROUNDED_FROM else 1)
        kept = min(shape.hidden, max(step, step * round(shape.hidden * (1 - amount) / step)))
        return shape.hidden - _some("hidden", amount, shape.hidden - kept, shape.hidden, "channels", legal)
    kept = shape.hidden - _some("hidden", amount, amount, shape.hidden, "channels", legal)
    if kept % step:
        raise AmountError(
            f"remove.hidden {amount} would leave a width of {kept}, and a {family.name} config needs a multiple of its "
            f"{shape.heads} query heads: {_nearest(amount, legal)}"
        )
    return kept


def _coupled(remove: Removal, shape: Shape) -> Shape:
    """Heads and hidden width shrink together: each head takes its head_dim channels along."""
    counts, problems = {}, []
    for axis, counted in (("heads", _coupled_heads), ("hidden", _coupled_hidden)):
        amount = getattr(remove, axis)
        if amount is None:
            continue
        try:
            counts[axis] = counted(amount, shape)
        except AmountError as problem:
            problems.append(str(problem))
    if problems:
        raise AmountError("; ".join(problems))
    if len(set(counts.values())) > 1:
        raise AmountError(
            f"remove.heads takes {counts['heads']} heads and remove.hidden {counts['hidden']}; here heads and hidden width "
            "shrink together, give one of the two"
        )
    heads = shape.heads - next(iter(counts.values()), 0)
    return replace(shape, heads=heads, kv_heads=heads, hidden=heads * shape.head_dim)


def _coupled_heads(amount: int | float | Groups, shape: Shape) -> int:
    if isinstance(amount, Groups):
        raise AmountError(
            "remove.heads.kv_groups: every query head has a key/value head of its own; give a count of heads"
        )
    return _some("heads", amount, removed_count(amount, shape.heads), shape.heads, "heads")


def _coupled_hidden(amount: int | float, shape: Shape) -> int:
    each = shape.head_dim
    legal = [each * heads for heads in range(1, shape.heads)]
    channels = amount if isinstance(amount, int) else each * round(amount * shape.heads)
    _some("hidden", amount, channels, shape.hidden, "channels", legal)
    if channels % each:
        raise AmountError(
            f"remove.hidden {amount}: hidden width and heads shrink together here, by {each} channels for each head: "
            f"{_nearest(channels, legal)}"
        )
    return channels // each


def _undivided(family: Family, before: Shape, left: Shape) -> str:
    legal = sorted({before.heads - heads for heads, _ in legal_heads(before) if left.hidden % heads == 0})
    width = left.heads * max(1, before.hidden // left.heads)
    advice = f"{_nearest(before.heads - left.heads, legal)}, or " if legal else ""
    also = f"remove.hidden {before.hidden - width}, which leaves a width of {width}" if width != before.hidden else ""
    return (
        f"remove.heads leaves {left.heads} query heads beside a width of {left.hidden}, and a {family.name} config needs a "
        f"width that its heads divide: {advice}{also or 'leave heads out'}"
    )


def _unmeasured(family: Family, before: Shape, left: Shape, remove: Removal) -> str:
    def distance(heads: int) -> int:
        asked = before.heads - left.heads if remove.heads is not None else (before.hidden - left.hidden) / left.head_dim
        return abs(before.heads - heads - round(asked))

    legal = min((heads for heads, _ in legal_heads(before)), key=distance, default=0)
    pair = (
        f"the nearest legal are heads {before.heads - legal} and hidden {before.hidden - legal * before.head_dim}, or "
    )
    return (
        f"remove leaves a width of {left.hidden} beside {left.heads} query heads, and a {family.name} config with short and "
        f"long rope factors needs {left.head_dim} channels for each head: {pair if legal else ''}leave heads and hidden out"
    )


def _nearest(asked: int, legal: Sequence[int]) -> str:
    if not legal:
        return "leave it out"
    below = max((each for each in legal if each < asked), default=None)
    above = min((each for each in legal if each > asked), default=None)
    found = [str(each) for each in (below, above) if each is not None]
    return f"the nearest legal {'counts are' if len(found) > 1 else 'count is'} {' and '.join(found)}"


def _some(
    axis: str, amount: int | float, removed: int, available: int, unit: str, legal: Sequence[int] | None = None
) -> int:
    counts = range(1, available) if legal is None else legal
    if removed >= available:
        advice = f"use a count of at most {counts[-1]}" if counts else "leave it out"
        raise AmountError(
            f"remove.{axis} {amount} would remove {removed} of {available} {unit}; at least 1 must stay: {advice}"
        )
    if removed == 0:
        advice = f", or use a count of at least {counts[0]}" if counts else ""
        raise AmountError(
            f"remove.{axis} {amount} removes 0 of {available} {unit}: nothing to remove; leave it out{advice}"
        )
    return removed
