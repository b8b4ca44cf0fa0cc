"""The surgery: take decoder layers and feed-forward columns out of a model in place, and rewrite its config to match.

Memory: in place, so the peak is the uncut model plus one feed-forward projection.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch_pruning
from torch import nn

from compress.models.families import Family, cut_config, family_of, shape_of


def cut_layers(model: Any, kept: Sequence[int]) -> None:
    """Keep only these decoder layers, in this order; attention modules are renumbered so that caches work."""
    config = model.config.to_dict()
    family = family_of(config)
    layers = model.get_submodule(family.paths.layers)
    parent_path, _, name = family.paths.layers.rpartition(".")
    remaining = nn.ModuleList(layers[index] for index in kept)
    for index, layer in enumerate(remaining):
        numbered: list[Any] = [module for module in layer.modules() if hasattr(module, "layer_idx")]
        for module in numbered:
            module.layer_idx = index
    setattr(model.get_submodule(parent_path), name, remaining)
    _rewrite(model, config, cut_config(config, kept, shape_of(config).ffn))


def cut_ffn(model: Any, kept: Sequence[Sequence[int]]) -> None:
    """Keep only these feed-forward columns: one ascending list per decoder layer, all of one length.

    Raises ValueError when the lists do not fit the model.
    """
    config = model.config.to_dict()
    family, shape = family_of(config), shape_of(config)
    layers: nn.ModuleList = model.get_submodule(family.paths.layers)
    widths = {len(columns) for columns in kept}
    if len(kept) != len(layers) or len(widths) != 1:
        raise ValueError(
            f"needs {len(layers)} lists of columns, all of one length, got {len(kept)} of lengths {sorted(widths)}"
        )
    for layer, columns in zip(layers, kept, strict=True):
        ffn = layer.get_submodule(family.paths.ffn)
        removed = sorted(set(range(shape.ffn)) - set(columns))
        if not removed:
            continue
        if family.paths.ffn_fused:
            cut_by_slicing(ffn, family, columns)
        else:
            cut_by_graph(ffn, family, removed, shape.hidden)
    _rewrite(model, config, cut_config(config, range(shape.layers), widths.pop()))


def cut_by_graph(ffn: Any, family: Family, removed: Sequence[int], hidden: int) -> None:
    """Remove columns of one feed-forward module with the group that torch-pruning's dependency graph finds.

    The graph is built on this module alone, with two tokens. Fused gates are not for it: it does not know their halves.

    Raises ValueError when the group does not hold every projection: the family table is wrong then.
    """
    first = ffn.get_submodule(family.paths.ffn_in[0])
    parameter = first.weight
    example = torch.zeros(1, 2, hidden, dtype=parameter.dtype, device=parameter.device)
    with torch.enable_grad():
        graph = torch_pruning.DependencyGraph().build_dependency(ffn, example_inputs=example)
        group = graph.get_pruning_group(first, torch_pruning.prune_linear_out_channels, list(removed))
    found = {dependency.target.module for dependency, _ in group}
    expected = {ffn.get_submodule(name) for name in (*family.paths.ffn_in, family.paths.ffn_out)}
    if not expected <= found:
        raise ValueError(f"the dependency graph of {type(ffn).__name__} misses a projection of family {family.name}")
    group.prune()


def cut_by_slicing(ffn: Any, family: Family, columns: Sequence[int]) -> None:
    """Keep columns of one feed-forward module by slicing its projections; a fused one has all gates, then all ups."""
    outgoing = ffn.get_submodule(family.paths.ffn_out)
    width = outgoing.weight.shape[1]
    index = torch.tensor(list(columns), dtype=torch.long, device=outgoing.weight.device)
    rows = torch.cat([index, index + width]) if family.paths.ffn_fused else index
    for name in family.paths.ffn_in:
        _slice_linear(ffn.get_submodule(name), rows, 0)
    _slice_linear(outgoing, index, 1)


def _slice_linear(linear: nn.Module, index: torch.Tensor, axis: int) -> None:
    if not isinstance(linear, nn.Linear):
        raise ValueError(f"a Linear is needed to cut, found {type(linear).__name__}")
    kept = linear.weight.detach().index_select(axis, index)
    linear.weight = nn.Parameter(kept, requires_grad=linear.weight.requires_grad)
    linear.out_features, linear.in_features = kept.shape
    if axis == 0 and linear.bias is not None:
        linear.bias = nn.Parameter(linear.bias.detach().index_select(0, index), requires_grad=linear.bias.requires_grad)


def _rewrite(model: Any, before: dict[str, Any], after: dict[str, Any]) -> None:
    for key, value in after.items():
        if before.get(key) != value:
            setattr(model.config, key, value)
    width = after[family_of(after).keys.ffn]
    ffn_key = family_of(after).keys.ffn
    for module in model.modules():
        # The feed-forward modules keep a copy of their width.
        if isinstance(getattr(module, ffn_key, None), int):
            setattr(module, ffn_key, width)
