"""A second opinion at run time: torch-pruning's dependency graph of a layer's feed-forward, against the family table.

The graph traces the module itself, so that a table which misses a projection is noticed before anything is cut. Attention
is not asked: behind repeated key/value heads the graph misses projections and maps indices wrongly.
"""

from __future__ import annotations

from typing import Any

import torch
import torch_pruning
from torch import nn

from compress.models.family import Family


def prove_group(layer: Any, family: Family) -> None:
    """Trace the feed-forward of one layer with two tokens, and compare what hangs together with the family table.

    Says nothing where the graph does not apply: no module holds the whole feed-forward, or its projections are no
    nn.Linear, or gates and ups are one.

    Raises ValueError when the graph finds other projections than the table: it is wrong for this model then.
    """
    if not family.ffn or any("gate_up" in row.axes for row in family.layer):
        return
    ffn = layer.get_submodule(family.ffn)
    paths = {id(module): path for path, module in layer.named_modules()}
    first = layer.get_submodule(family.ffn_in[0])
    if not all(isinstance(layer.get_submodule(path), nn.Linear) for path in (*family.ffn_in, family.ffn_out)):
        return
    weight = first.weight
    example = torch.zeros(1, 2, first.in_features, dtype=weight.dtype, device=weight.device)
    # The graph is read from what autograd records.
    frozen = [parameter for parameter in ffn.parameters() if not parameter.requires_grad]
    with torch.enable_grad():
        try:
            for parameter in frozen:
                parameter.requires_grad_(True)
            graph = torch_pruning.DependencyGraph().build_dependency(ffn, example_inputs=example)
            group = graph.get_pruning_group(first, torch_pruning.prune_linear_out_channels, [0])
        finally:
            for parameter in frozen:
                parameter.requires_grad_(False)
    found = {
        (paths[id(dependency.target.module)], dependency.handler.__name__)
        for dependency, _ in group
        if id(dependency.target.module) in paths
    }
    expected = {(path, "prune_out_channels") for path in family.ffn_in} | {(family.ffn_out, "prune_in_channels")}
    if found != expected:
        raise ValueError(
            f"the dependency graph of {type(ffn).__name__} finds {_list(found)}, the family table of {family.name} says "
            f"{_list(expected)}"
        )


def _list(group: set[tuple[str, str]]) -> str:
    return ", ".join(f"{path} ({'in' if 'in_' in kind else 'out'})" for path, kind in sorted(group))
