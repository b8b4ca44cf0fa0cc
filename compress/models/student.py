"""The config of a student that is made from the teacher's: smaller and fresh, or some of its layers. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from compress.models.families import Shape, architecture_of, cut_config, family_of, shape_of, skipped_positions
from compress.models.family import Family
from compress.models.options import StudentOptions

Config = Mapping[str, Any]
Problem = tuple[str, str]
"""Name of the option, and what is wrong with it."""

# What a teacher's config says of its own weights, and not of the model.
_OF_WEIGHTS = ("quantization_config", "_name_or_path", "dtype", "torch_dtype", "transformers_version")
_FACTORS = ("short_factor", "long_factor")
# Stands in for the teacher of a student with a tokenizer of its own: of its sizes none is taken.
_ANY_LLAMA = {
    "model_type": "llama",
    "vocab_size": 1,
    "hidden_size": 2,
    "intermediate_size": 1,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
}


def llama_config(options: StudentOptions, vocabulary: int) -> dict[str, Any]:
    """Return the config of a fresh student with a tokenizer of its own, as far as checks ask for it."""
    heads = options.heads or 1
    return {
        "model_type": "llama",
        "vocab_size": vocabulary,
        "hidden_size": options.hidden,
        "intermediate_size": options.ffn,
        "num_hidden_layers": options.layers,
        "num_attention_heads": heads,
        "num_key_value_heads": options.kv_heads or heads,
        "head_dim": (options.hidden or heads) // heads,
        "max_position_embeddings": options.context or 512,
        "tie_word_embeddings": True,
        "hidden_act": "silu",
    }


def fresh_config(options: StudentOptions, teacher: Config) -> dict[str, Any]:
    """Return the teacher's config with the sizes of the options; what they leave out is the teacher's, as is all else.

    head_dim follows from hidden and heads where it does so in the teacher, else it is the teacher's. Key/value heads are as many
    as heads where they are in the teacher. A feed-forward width that config.json leaves open stays the family's multiple.

    Raises ValueError with everything that is wrong with the sizes.
    """
    if problems := fresh_problems(options, teacher):
        raise ValueError("; ".join(f"{name}: {words}" for name, words in problems))
    family = family_of(teacher)
    config = cut_config(teacher, _sizes(options, teacher))
    config |= {key: [entries[0]] * config[family.keys.layers] for key, entries in _short_lists(options, teacher)}
    if options.context:
        config[family.keys.context] = options.context + skipped_positions(teacher)
    return {key: value for key, value in config.items() if key not in _OF_WEIGHTS}


def fresh_problems(options: StudentOptions, teacher: Config) -> list[Problem]:
    """Return what is wrong with the sizes of a fresh student of the teacher's family; the nearest legal values are said."""
    try:
        architecture_of(teacher)
        shape_of(teacher)
    except ValueError as error:
        return [("init", f"{error}; a fresh student is of the teacher's family")]
    return [found for rule in (_key_values, _widths, _factors, _kinds) if (found := rule(options, teacher))]


def llama_problems(options: StudentOptions) -> list[Problem]:
    """Return what is wrong with the sizes of a fresh student with a tokenizer of its own."""
    return [found for rule in (_key_values, _widths) if (found := rule(options, _ANY_LLAMA))]


def every_config(every: int, teacher: Config) -> dict[str, Any]:
    """Return the config of a student with the layers of `layers_kept`; lists with an entry for each layer are cut along.

    A list that config.json leaves out must be written down before, so that each layer keeps its kind.

    Raises ValueError where the teacher's layers cannot be taken.
    """
    shape = shape_of(teacher)
    architecture_of(teacher)
    if every > shape.layers:
        raise ValueError(f"the teacher has {shape.layers} layers, fewer than {every}; use at most {shape.layers}")
    for key in family_of(teacher).by_index:
        if teacher.get(key):
            raise ValueError(f"with {key} in config.json a layer depends on its number; leave every out")
    if teacher.get("quantization_config"):
        raise ValueError("the teacher's weights are quantized (config.json: quantization_config); give the float model")
    kept = layers_kept(every, shape.layers)
    return cut_config(teacher, replace(shape, layers=len(kept)), kept)


def layers_kept(every: int, layers: int) -> list[int]:
    """Return the layers 0, n, 2n, ... of the teacher.

    Paper: Sanh et al., arXiv 1910.01108, section 2: one layer out of two. Which ones is said by their code alone: 0, 2, 4, 7, 9
    and 11 of 12. Ours are 0, 2, 4, 6, 8 and 10.
    """
    return list(range(0, layers, every))


def _sizes(options: StudentOptions, teacher: Config) -> Shape:
    family, before = family_of(teacher), shape_of(teacher)
    hidden, heads = options.hidden or before.hidden, options.heads or before.heads
    kv_heads = options.kv_heads or (heads if before.group == 1 else before.kv_heads)
    ffn = options.ffn or teacher.get(family.keys.ffn) or family.default_ffn * hidden
    return replace(
        before,
        layers=options.layers or before.layers,
        ffn=ffn,
        hidden=hidden,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=before.head_dim if _own_head_dim(before) else hidden // heads,
    )


def _own_head_dim(shape: Shape) -> bool:
    return shape.head_dim * shape.heads != shape.hidden


def _key_values(options: StudentOptions, teacher: Config) -> Problem | None:
    family, after = family_of(teacher), _sizes(options, teacher)
    heads, kv_heads = after.heads, after.kv_heads
    if family.coupled and kv_heads != heads:
        return "kv_heads", f"every query head of a {family.name} model has a key/value head of its own; leave it out"
    if heads % kv_heads == 0:
        return None
    if options.kv_heads:
        nearest = _nearest(kv_heads, lambda each: heads % each == 0, heads)
        return "kv_heads", f"{kv_heads} key/value heads do not divide {heads} query heads; {nearest}"
    nearest = _nearest(heads, lambda each: each % kv_heads == 0, 2 * heads + kv_heads)
    return (
        "heads",
        f"{heads} query heads are no multiple of the teacher's {kv_heads} key/value heads; {nearest}, or give kv_heads",
    )


def _widths(options: StudentOptions, teacher: Config) -> Problem | None:
    """Refuse a width that the heads do not divide where the family needs that, and heads of which rotary takes an odd part."""
    family, before, after = family_of(teacher), shape_of(teacher), _sizes(options, teacher)
    own = _own_head_dim(before)

    def legal(hidden: int, heads: int) -> bool:
        divided = hidden % heads == 0 or (own and not family.whole_heads)
        return divided and (own or _turns(family, teacher, hidden // heads))

    if legal(after.hidden, after.heads):
        return None
    if options.hidden:
        name, nearest = "hidden", _nearest(after.hidden, lambda each: legal(each, after.heads), 2 * after.hidden + 999)
    else:
        name, nearest = "heads", _nearest(after.heads, lambda each: legal(after.hidden, each), after.hidden)
    needed = "an even multiple" if _has_rotary(family) and not own else "a multiple"
    what = f"a {family.name} model needs a width that is {needed} of its heads"
    return name, f"a width of {after.hidden} beside {after.heads} heads, and {what}; {nearest}"


def _factors(options: StudentOptions, teacher: Config) -> Problem | None:
    """Refuse other heads where the config lists a rotary factor for each pair of their channels."""
    rope = teacher.get("rope_parameters") or teacher.get("rope_scaling") or {}
    family, before, after = family_of(teacher), shape_of(teacher), _sizes(options, teacher)
    if not any(rope.get(key) for key in _FACTORS):
        return None
    if after.head_dim == before.head_dim and not (
        family.rope_by_width and after.hidden // after.heads != before.head_dim
    ):
        return None
    name = "hidden" if options.hidden else "heads"
    hidden = before.head_dim * after.heads
    words = f"the config has rotary factors for heads of {before.head_dim} channels, here they have {after.hidden // after.heads}"
    return name, f"{words}; with {after.heads} heads use hidden {hidden}"


def _kinds(options: StudentOptions, teacher: Config) -> Problem | None:
    """Refuse more layers than the config names the kinds of."""
    family, before = family_of(teacher), shape_of(teacher)
    if not options.layers or options.layers <= before.layers:
        return None
    lists = [key for key, entries in _short_lists(options, teacher) if len({str(entry) for entry in entries}) > 1]
    if lists := [*lists, *family.patterns]:
        words = f"config.json says the kind of each of the teacher's {before.layers} layers ({', '.join(lists)})"
        return "layers", f"{words}, and not of {options.layers}; use at most {before.layers}"
    return None


def _short_lists(options: StudentOptions, teacher: Config) -> Iterator[tuple[str, list[Any]]]:
    """Yield the lists with an entry for each layer that are shorter than the student."""
    for key in family_of(teacher).per_layer:
        entries = teacher.get(key)
        if isinstance(entries, list) and entries and len(entries) < (options.layers or 0):
            yield key, entries


def _has_rotary(family: Family) -> bool:
    return not any("positions" in row.axes for row in family.outside)


def _turns(family: Family, teacher: Config, head_dim: int) -> bool:
    """Say whether rotary position turns pairs of channels of such heads, none left over; a family with learned positions has none."""
    if not _has_rotary(family):
        return head_dim > 0
    rope = teacher.get("rope_parameters") or {}
    share = (
        rope.get("partial_rotary_factor") or teacher.get("partial_rotary_factor") or teacher.get("rotary_pct") or 1.0
    )
    turned = int(head_dim * share)
    return turned > 0 and turned % 2 == 0


def _nearest(asked: int, legal: Callable[[int], bool], most: int) -> str:
    below = next((each for each in range(asked - 1, 0, -1) if legal(each)), None)
    above = next((each for each in range(asked + 1, most + 1) if legal(each)), None)
    found = [f"{each:,}" for each in (below, above) if each is not None]
    if not found:
        return "no other value is legal beside the rest"
    return f"the nearest legal value{'s are' if len(found) > 1 else ' is'} {' and '.join(found)}"
