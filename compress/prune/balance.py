"""The mix of axes that meets a target: from config.json alone, so that `check` says exact sizes. Imports no torch.

Rule: feed-forward first, down to half of its width; then layers, down to half of them; then the rest of the feed-forward,
down to a quarter; heads last, as far as they are not cut harder, in proportion, than the feed-forward. Where heads and
hidden width shrink together (no head_dim in config.json), heads go, at most three quarters of them, only once the
feed-forward would be thinner than a half, and layers after them. Hidden width of the other families and tokens never go:
they are asked for by `remove`.

On stories3M, repaired: at 2.56 M of 3.15 M parameters the mixes hardly differ, perplexity 11.3 by feed-forward alone, 11.4
with heads, 11.3 with a layer; only hidden width costs more, 14.7 (experiments/2026-11-20-which-axis-to-cut). At 1.97 M a
third of the layers and of the feed-forward is better than 59 to 67 % of the feed-forward, untrained and distilled
(experiments/2026-11-20-depth-or-width).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from compress.models.families import Shape, count_parameters, cut_config, family_of, shape_of
from compress.models.family import Family
from compress.prune.axes import MULTIPLE, ROUNDED_FROM, fits

# Groups of key/value heads that stay: without repair, one of stories3M's two gone gives 54.0, as many columns gone some 11.
_GROUPS = 2
_HALF, _THIN = 1 / 2, 1 / 4


def balanced(target: int, config: Mapping[str, Any]) -> Shape:
    """Return sizes with at most `target` parameters, embedding and head counted.

    Raises ValueError where the model has no more than that, or no mix gets there.
    """
    family, shape = family_of(config), shape_of(config)
    total = _count(config, shape)
    if total <= target:
        raise ValueError(
            f"keep: the model has {total:,} parameters, which is not more than the {target:,} to keep; nothing to remove"
        )
    least = total
    for layers, share, heads in _steps(family, config, shape):
        found = []
        for way in _ways(family, config, replace(shape, layers=layers), heads):
            thin = replace(way, ffn=_thinnest(shape, share, rounded=True))
            if _admitted(family, shape, thin, share):
                least = min(least, _count(config, thin))
            fitted = _fitted(target, config, way)
            if fitted is not None and _admitted(family, shape, fitted, share):
                found.append(fitted)
        if found:
            return min(found, key=lambda mix: _order(family, config, mix))
    raise ValueError(
        f"keep: {target:,} of {total:,} parameters are out of reach for layers, feed-forward and heads; the least is {least:,}. "
        "Keep more, or give remove with hidden or vocab"
    )


def _steps(family: Family, config: Mapping[str, Any], shape: Shape) -> Iterator[tuple[int, float, bool]]:
    """Yield what is tried, in order: layers, the least share of the feed-forward that stays, and whether heads may go."""
    fewest = (shape.layers + 1) // 2 if _depth_is_free(family, config) else shape.layers
    for layers in range(shape.layers, fewest - 1, -1):
        yield layers, _HALF, family.coupled
    if not family.coupled:
        yield from ((fewest, _THIN, False), (fewest, _THIN, True))


def _depth_is_free(family: Family, config: Mapping[str, Any]) -> bool:
    return not any(config.get(key) for key in family.by_index)


def _ways(family: Family, config: Mapping[str, Any], shape: Shape, heads_go: bool) -> Iterator[Shape]:
    """Yield the attention shapes that the family allows, the uncut one first."""
    yield shape
    if not heads_go:
        return
    if family.coupled:
        for heads in range(shape.heads - 1, (shape.heads - 1) // 4, -1):
            yield replace(shape, heads=heads, kv_heads=heads, hidden=heads * shape.head_dim)
        return
    for groups in range(shape.kv_heads, min(_GROUPS, shape.kv_heads) - 1, -1):
        for each in range(shape.group, 0, -1):
            cut = replace(shape, heads=groups * each, kv_heads=groups)
            if cut != shape and fits(family, config, cut):
                yield cut


def _fitted(target: int, config: Mapping[str, Any], way: Shape) -> Shape | None:
    """Return the way with the widest feed-forward that meets the target; None where none does."""
    one, two = (_count(config, replace(way, ffn=width)) for width in (1, 2))
    width = min(way.ffn, (target - one) // (two - one) + 1)
    if ROUNDED_FROM <= way.ffn != width:
        width -= width % MULTIPLE
    return replace(way, ffn=width) if width >= 1 else None


def _admitted(family: Family, before: Shape, mix: Shape, share: float) -> bool:
    if mix.ffn < _thinnest(before, share):
        return False
    return mix.heads == before.heads or family.coupled or mix.heads * before.ffn >= mix.ffn * before.heads


def _thinnest(before: Shape, share: float, rounded: bool = False) -> int:
    width = max(1, round(before.ffn * share))
    return -(-width // MULTIPLE) * MULTIPLE if rounded and before.ffn >= ROUNDED_FROM else width


def _order(family: Family, config: Mapping[str, Any], mix: Shape) -> tuple[int, int]:
    """Return what is least for the mix to take: fewest attention parameters, then most groups; coupled, most heads."""
    if family.coupled:
        return -mix.heads, 0
    return count_parameters(cut_config(config, mix))["attention"], -mix.kv_heads


def _count(config: Mapping[str, Any], shape: Shape) -> int:
    return sum(count_parameters(cut_config(config, shape)).values())
