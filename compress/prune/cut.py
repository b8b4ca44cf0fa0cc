"""The surgery: fill an empty model of the cut config with the kept rows and columns of the uncut one's weights.

What belongs to which axis is said by the family table alone. The new model's own class builds its modules, so that head
counts, splits, scales and caches are right by construction, and a shape that does not fit cannot be filled in.

Memory: a layer is copied as it is cut and the uncut one let go, so the peak is the uncut model plus one layer.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from compress.models.families import Parameter, Shape, cut_config, family_of, parameters_of, shape_of
from compress.models.layers import layers_of
from compress.models.skeleton import empty_model
from compress.prune.tokenizer import remap_ids

Indices = Sequence[int]
# Axes of which the whole model keeps the same, and their sizes in Shape.
_WHOLE = (("layers", "layers"), ("hidden", "hidden"), ("vocab", "vocabulary"))


@dataclass(frozen=True)
class Kept:
    """Which parts stay, each an ascending list of indices of the uncut model; None where an axis is whole.

    ffn, heads and kv_heads have a list for each kept layer, all of one length; heads and kv_heads stand together.
    Query head h reads key/value head h // (heads / kv_heads), before and after.
    """

    layers: Indices | None = None
    ffn: Sequence[Indices] | None = None
    heads: Sequence[Indices] | None = None
    kv_heads: Sequence[Indices] | None = None
    hidden: Indices | None = None
    vocab: Indices | None = None


class Cut:
    """A cut at work: `model` is the cut model, whose weights are filled in piece by piece from the uncut one.

    Where tokens go, the ids of special tokens in its config and generation config are their new ones.

    Raises ValueError where the kept parts do not fit the model, or its family refuses their sizes.
    """

    def __init__(self, uncut: Any, kept: Kept) -> None:
        config = uncut.config.to_dict()
        self.uncut, self.kept, self.before = uncut, kept, shape_of(config)
        self.layers = list(range(self.before.layers) if kept.layers is None else kept.layers)
        self.after = sizes_of(kept, self.before)
        family = family_of(config)
        if family.coupled and self.after.hidden != self.after.heads * self.after.head_dim:
            raise ValueError(
                f"heads and hidden shrink together in family {family.name}: {self.after.heads} heads need a width of "
                f"{self.after.heads * self.after.head_dim}, got {self.after.hidden}"
            )
        self.config = cut_config(config, self.after, self.layers)
        self.config.update(_special_ids(config, kept.vocab, self.before.vocabulary))
        if family.pad_position and self.config["pad_token_id"] != config["pad_token_id"]:
            raise ValueError(
                f"vocab: {family.name} counts positions from pad_token_id {config['pad_token_id']}; keep every token before it"
            )
        self.model = empty_model(self.config, uncut.config._attn_implementation)
        for module in self.model.modules():
            for name, buffer in module.named_buffers(recurse=False):
                setattr(
                    module, name, buffer.to(uncut.device, uncut.dtype if buffer.is_floating_point() else buffer.dtype)
                )
        if getattr(uncut, "generation_config", None) is not None:
            self.model.generation_config = copy.deepcopy(uncut.generation_config)
            generation = uncut.generation_config.to_dict()
            for key, value in ({} if kept.vocab is None else remap_ids(generation, kept.vocab)).items():
                setattr(self.model.generation_config, key, value)
        self._uncut_layers: Any = layers_of(uncut, family)

    def run(self) -> Any:
        """Fill in everything, layer by layer, and return the cut model."""
        self.fill_outside()
        for index in range(self.before.layers):
            if index in self.layers:
                self.fill_layer(self.layers.index(index))
            self.release(index)
        return self.model

    def fill_outside(self) -> None:
        """Fill everything outside the layers: embeddings, last normalisation, head."""
        for parameter in parameters_of(self.config):
            if parameter.layer is None and not parameter.shared:
                self._fill(parameter, parameter.name, 0)
        self.model.tie_weights()

    def fill_layer(self, position: int) -> None:
        """Fill the layer that stands at `position` in the cut model."""
        for parameter in parameters_of(self.config):
            if parameter.layer == position:
                # The rest of the path may hold numbers too: only the layer's own, the last one before the row, is changed.
                end = f"{position}.{parameter.row.path}."
                prefix, _, leaf = parameter.name.rpartition(end)
                self._fill(parameter, f"{prefix}{self.layers[position]}.{parameter.row.path}.{leaf}", position)

    def release(self, index: int) -> None:
        """Let go of a layer of the uncut model, which is broken then."""
        self._uncut_layers[index] = nn.Identity()

    def _fill(self, parameter: Parameter, source_name: str, position: int) -> None:
        kept: Tensor = self.uncut.get_parameter(source_name).detach()
        for dimension, axis in enumerate(parameter.axes):
            index = self.index(axis, position)
            if index is not None:
                kept = kept.index_select(dimension, index.to(kept.device))
        path, _, leaf = parameter.name.rpartition(".")
        module = self.model.get_submodule(path)
        needed = getattr(module, leaf).shape
        if kept.shape != needed:
            raise ValueError(f"{parameter.name} would be {tuple(kept.shape)}, the cut model needs {tuple(needed)}")
        setattr(module, leaf, nn.Parameter(kept))

    def index(self, axis: str, position: int) -> Tensor | None:
        """Return which entries of an axis stay in the layer at `position` of the cut model; None where all do."""
        kept, before = self.kept, self.before
        if axis in ("hidden", "vocab"):
            chosen: Indices | None = getattr(kept, axis)
            return None if chosen is None else torch.tensor(chosen)
        if axis in ("ffn", "gate_up") and kept.ffn is not None:
            columns = torch.tensor(kept.ffn[position])
            return columns if axis == "ffn" else torch.cat([columns, columns + before.ffn])
        if axis in ("q", "kv", "qkv", "qkv_by_head") and kept.heads is not None and kept.kv_heads is not None:
            q, kv = (_rows(heads[position], before.head_dim) for heads in (kept.heads, kept.kv_heads))
            queries, keys = before.heads * before.head_dim, before.kv_heads * before.head_dim
            together = torch.cat([q, queries + kv, queries + keys + kv])
            by_head = _rows(kept.heads[position], 3 * before.head_dim)
            return {"q": q, "kv": kv, "qkv": together, "qkv_by_head": by_head}[axis]
        return None


def _rows(heads: Indices, width: int) -> Tensor:
    return (torch.tensor(heads)[:, None] * width + torch.arange(width)).flatten()


def _special_ids(config: Mapping[str, Any], kept: Indices | None, vocabulary: int) -> dict[str, Any]:
    """Return the new ids of special tokens; an id that the uncut model has no token for stays as it is."""
    if kept is None:
        return {}
    position = {token: index for index, token in enumerate(kept)}

    def renumbered(key: str, value: Any) -> Any:
        if isinstance(value, list):
            return [renumbered(key, each) for each in value]
        if not isinstance(value, int) or not 0 <= value < vocabulary:
            return value
        if value not in position:
            raise ValueError(f"vocab: token {value} must stay, config.json names it as {key}")
        return position[value]

    return {key: renumbered(key, value) for key, value in config.items() if key.endswith("_token_id")}


def sizes_of(kept: Kept, before: Shape) -> Shape:
    """Return the sizes of what is kept.

    Raises ValueError where the lists do not fit the model or each other.
    """
    sizes: dict[str, Any] = {}
    for axis, field in _WHOLE:
        chosen: Indices | None = getattr(kept, axis)
        if chosen is not None:
            sizes[field] = _size(axis, [chosen], getattr(before, field))
    if (kept.heads is None) != (kept.kv_heads is None):
        raise ValueError("heads and kv_heads stand together; give both")
    for axis in ("ffn", "heads", "kv_heads"):
        lists: Sequence[Indices] | None = getattr(kept, axis)
        if lists is None:
            continue
        if len(lists) != (layers := sizes.get("layers", before.layers)):
            raise ValueError(f"{axis}: needs a list for each of {layers} layers, got {len(lists)}")
        sizes[axis] = _size(axis, lists, getattr(before, axis))
    for layer, (heads, kv_heads) in enumerate(zip(kept.heads or (), kept.kv_heads or (), strict=True)):
        each = len(heads) // len(kv_heads)
        if [head // before.group for head in heads] != [head for head in kv_heads for _ in range(each)]:
            raise ValueError(
                f"heads: layer {layer} keeps query heads {list(heads)} for key/value heads {list(kv_heads)}, "
                "which do not read them in equal numbers"
            )
    return replace(before, **sizes)


def _size(axis: str, lists: Sequence[Indices], size: int) -> int:
    lengths = {len(each) for each in lists}
    if len(lengths) != 1:
        raise ValueError(f"{axis}: every layer must keep equally many, got {sorted(lengths)}")
    if any(not each or list(each) != sorted(set(each)) or not 0 <= each[0] <= each[-1] < size for each in lists):
        raise ValueError(f"{axis}: needs ascending indices from 0 to {size - 1}")
    return lengths.pop()
