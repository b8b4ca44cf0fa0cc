"""Cut the feed-forward 512 -> 341 in all layers with Torch-Pruning's importances; measure with our perplexity.

python theirs.py RECIPE OUT [--whole]

Groups come from its DependencyGraph of each feed-forward module, scores and the cut from its own code. Gradients are taken on
the calibration windows that `prune` would take by the same recipe. OUT gets an ordinary folder for each choice and theirs.json.
--whole tries its BasePruner on the whole model instead, the way of its LLM example; stop it when it takes too long.
"""

from __future__ import annotations

import itertools
import json
import sys
import time
from importlib.metadata import version
from pathlib import Path

import torch
import torch_pruning as tp

from compress.benchmark.measure import measure_quality
from compress.benchmark.options import BenchmarkOptions
from compress.data.load import RecipeData
from compress.models.folder import load_model, save_model
from compress.recipe import read_recipe

KEPT, WINDOWS, LENGTH = 341, 256, 256
REDUCTIONS = ("mean", "max", "prod", "first", "gate")
# sum is mean times three here, so it is left out
NORMALIZERS = (None, "mean", "max", "sum", "standarization", "gaussian", "lamp")
ONLY = BenchmarkOptions.model_validate(
    {
        "perplexity": {"join": "bos", "length": 256, "windows": 96},
        "bits_per_byte": False,
        "agreement": False,
        "accuracy": False,
        "latency": False,
    }
)


def losses(model, windows, batch):
    for piece in torch.split(windows, batch):
        yield model(input_ids=piece, labels=piece, use_cache=False).loss, len(piece)


def mean_gradient(model, windows):
    """One gradient over all windows, as the docstring of GroupTaylorImportance does with its batch."""
    model.zero_grad()
    for loss, count in losses(model, windows, 8):
        (loss * count / len(windows)).backward()


def mean_square_gradient(model, windows):
    """What GroupHessianImportance.accumulate_grad is meant to gather: the mean over windows of the squared gradient."""
    squares = {p: torch.zeros_like(p) for p in model.parameters()}
    for loss, _ in losses(model, windows, 1):
        model.zero_grad()
        loss.backward()
        for p, square in squares.items():
            square += p.grad.square() / len(windows)
    for p, square in squares.items():
        p.grad = square


def as_shipped(model, windows):
    """Its docstring's loop over windows; afterwards p.grad holds what accumulate_grad kept.

    In 1.6.1 that is the last window alone: accumulate_grad looks a parameter up by name where it has stored it by tensor.
    """
    importance = tp.importance.GroupHessianImportance()
    for loss, _ in losses(model, windows, 1):
        model.zero_grad()
        loss.backward()
        last = {p: p.grad.square() for p in model.parameters()}
        importance.accumulate_grad(model)
    least(model, importance)
    alone = all(torch.equal(p.grad, square) for p, square in last.items())
    print(f"accumulate_grad kept the last window alone: {alone}", flush=True)


def groups(model, indices=None):
    """Yield each feed-forward's pruning group, of all columns or of the given ones."""
    for number, layer in enumerate(model.model.layers):
        mlp = layer.mlp
        graph = tp.DependencyGraph().build_dependency(mlp, example_inputs=torch.zeros(1, 2, mlp.gate_proj.in_features))
        chosen = list(range(mlp.gate_proj.out_features)) if indices is None else indices[number]
        yield graph.get_pruning_group(mlp.gate_proj, tp.prune_linear_out_channels, idxs=chosen)


def least(model, importance):
    """The columns of each layer that score least."""
    found = []
    for group in groups(model):
        scores = importance(group)
        found.append(sorted(torch.argsort(scores, stable=True)[: len(scores) - KEPT].tolist()))
    return found


def choices(source, windows):
    """Yield name, columns to remove, seconds of scoring."""
    model = load_model(source).requires_grad_(True)
    for p, reduction in itertools.product((2, 1), REDUCTIONS):
        started = time.perf_counter()
        gone = least(model, tp.importance.GroupMagnitudeImportance(p=p, group_reduction=reduction))
        yield f"magnitude p={p} {reduction}", gone, time.perf_counter() - started
    started = time.perf_counter()
    mean_gradient(model, windows)
    shared = time.perf_counter() - started
    for joint, reduction in itertools.product((False, True), REDUCTIONS):
        started = time.perf_counter()
        gone = least(model, tp.importance.GroupTaylorImportance(multivariable=joint, group_reduction=reduction))
        yield f"taylor multivariable={joint} {reduction}", gone, shared + time.perf_counter() - started
    for normalizer in NORMALIZERS:
        again = least(model, tp.importance.GroupTaylorImportance(normalizer=normalizer, group_reduction="mean"))
        first = least(model, tp.importance.GroupTaylorImportance(group_reduction="mean"))
        same = sum(len(set(a) & set(b)) for a, b in zip(again, first, strict=True)) / sum(map(len, first))
        print(f"normalizer {normalizer}: {same:.4f} of the columns as with the default", flush=True)
    for name, gather in (("as shipped", as_shipped), ("mended", mean_square_gradient)):
        started = time.perf_counter()
        gather(model, windows)
        shared = time.perf_counter() - started
        for reduction in REDUCTIONS:
            started = time.perf_counter()
            gone = least(model, tp.importance.GroupHessianImportance(group_reduction=reduction))
            yield f"hessian {name} {reduction}", gone, shared + time.perf_counter() - started


def whole(source, data):
    """BasePruner on the whole model, arguments as in its examples/LLMs."""
    model = load_model(source).requires_grad_(True)
    heads = {}
    for layer in model.model.layers:
        heads[layer.self_attn.q_proj] = model.config.num_attention_heads
        heads[layer.self_attn.k_proj] = heads[layer.self_attn.v_proj] = model.config.num_key_value_heads
    started = time.perf_counter()
    pruner = tp.pruner.BasePruner(
        model,
        example_inputs=torch.ones(1, 8, dtype=torch.long),
        importance=tp.importance.GroupMagnitudeImportance(p=2, group_reduction="mean"),
        pruning_ratio=0.25,
        head_pruning_ratio=0.25,
        prune_num_heads=False,
        prune_head_dims=True,
        ignored_layers=[model.lm_head],
        num_heads=heads,
        output_transform=lambda output: output.logits,
    )
    print(f"graph after {time.perf_counter() - started:.1f} s", flush=True)
    for group in pruner.step(interactive=True):
        group.prune()
    print(f"cut after {time.perf_counter() - started:.1f} s", flush=True)
    print(model)
    model(input_ids=torch.ones(1, 8, dtype=torch.long))


def main(recipe_file, out):
    recipe = read_recipe(Path(recipe_file))
    data = RecipeData(recipe.head.data, recipe.head.seed)
    source = Path(recipe.head.teacher.model)
    if "--whole" in sys.argv:
        whole(source, data)
        return
    found, _ = data("calibration", source, LENGTH * WINDOWS).windows(LENGTH, WINDOWS)
    windows = torch.from_numpy(found.copy())
    assert windows.shape == (WINDOWS, LENGTH), windows.shape
    rows = []
    for name, gone, seconds in choices(source, windows):
        model = load_model(source).requires_grad_(True)
        for group in groups(model, gone):
            group.prune()
        model.config.intermediate_size = KEPT
        folder = Path(out) / name.replace(" ", "-").replace("=", "-").lower()
        folder.mkdir(parents=True, exist_ok=True)
        save_model(model, folder, source)
        measured = measure_quality(folder, ONLY, data("evaluation", folder))["perplexity"].value
        rows.append({"name": name, "perplexity": measured, "seconds": round(seconds, 2), "removed": gone})
        print(f"{name:40} {measured:10.3f}  {seconds:6.1f} s", flush=True)
    versions = {name: version(name) for name in ("torch", "torch-pruning", "transformers")}
    made = {"kept": KEPT, "windows": WINDOWS, "length": LENGTH, "versions": versions, "rows": rows}
    (Path(out) / "theirs.json").write_text(json.dumps(made) + "\n")


main(*sys.argv[1:3])
