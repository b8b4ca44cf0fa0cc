"""Draw results.json of this folder. python plot.py, in this folder."""

from __future__ import annotations

import json
import re
from pathlib import Path

import matplotlib as mpl

mpl.use("agg")
import matplotlib.pyplot as plt
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

INK, MUTED, GRID = "#1b1f24", "#5f6872", "#dfe3e8"
STYLES = {
    "random": ("#5f6872", "x"),
    "magnitude": ("#d55e00", "v"),
    "taylor": ("#cc79a7", "s"),
    "activation": ("#e69f00", "^"),
    "influence": ("#e69f00", "^"),
    "perplexity": ("#56b4e9", "D"),
    "least-squares": ("#009e73", "P"),
    "gauss-newton": ("#0072b2", "o"),
}
NAMES = {
    "influence": "block influence (layers)",
    "perplexity": "leave one out (layers)",
    "activation": "activation",
    "least-squares": "activation, least squares",
    "gauss-newton": "activation, Gauss-Newton (default)",
}
PANELS = (
    ("Feed-forward columns", r"ffn\d+"),
    ("Query heads", r"heads\d+|group1"),
    ("Hidden width", r"hidden\d+"),
    ("Whole layers", r"layers\d+"),
)
SEEDS = ("random-seed1.json", "random-seed2.json")
MIXES = {
    "ffn341-activation": "feed-forward alone,\nno repair",
    "ffn341-gauss-newton": "feed-forward alone",
    "ffn384-heads2-gauss-newton": "feed-forward\nand heads",
    "ffn446-hidden24-gauss-newton": "feed-forward\nand hidden width",
    "ffn444-layers1-gauss-newton": "one layer and\nfeed-forward",
}


def read(file):
    """Millions of parameters and perplexity of each row, by id."""
    rows = json.loads(Path(file).read_text())["rows"]
    return {row["id"]: (row["parameters"] / 1e6, row["measurements"]["perplexity"]["value"]) for row in rows}


def tidy(axes):
    """A log scale with plain numbers, and a light grid."""
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.grid(color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=INK, labelsize=8, length=0)


def draw_axes(found):
    """One panel for each axis, a line for each score and repair."""
    figure, panels = plt.subplots(1, 4, figsize=(13, 4.6), sharey=True, sharex=True, layout="constrained")
    seen = {}
    teacher = found["teacher"]
    for axes, (title, sizes) in zip(panels, PANELS, strict=True):
        tidy(axes)
        axes.axhline(teacher[1], color=MUTED, linewidth=0.8, linestyle=":")
        for name, (colour, marker) in STYLES.items():
            rows = {i: v for i, v in found.items() if re.fullmatch(rf"(?:{sizes})-{name}", i)}
            line = sorted(value for i, value in rows.items() if not i.startswith("group"))
            if not rows:
                continue
            style = {"color": colour, "marker": marker, "markersize": 6}
            (drawn,) = axes.plot(*zip(teacher, *line[::-1], strict=True), linewidth=1.2, **style)
            for i, value in rows.items():
                if i.startswith("group"):
                    axes.plot(*value, linestyle="none", fillstyle="none", zorder=5, **style)
            seen[NAMES.get(name, name)] = drawn
        again = [v for seed in SEEDS for i, v in read(seed).items() if re.fullmatch(rf"(?:{sizes})-random", i)]
        axes.plot(*zip(*again, strict=True), "x", color=STYLES["random"][0], markersize=4, markeredgewidth=0.8)
        axes.set_title(title, fontsize=10, loc="left", color=INK)
    panels[0].set_ylabel("perplexity (log)", fontsize=9, color=INK)
    panels[1].text(
        0.03,
        0.97,
        "hollow: one whole group; small crosses, in\nall panels: other seeds of random",
        transform=panels[1].transAxes,
        fontsize=8,
        color=MUTED,
        va="top",
    )
    figure.supxlabel("parameters kept, millions (the teacher has 3.148; dotted: its perplexity)", fontsize=9, color=INK)
    panels[0].invert_xaxis()
    figure.legend(seen.values(), seen.keys(), loc="outside upper left", ncols=4, frameon=False, fontsize=8.5)
    figure.savefig("plots/axes.png", dpi=130)


def draw_mixes(found):
    """Before and after distillation at one size."""
    names = [name for name in MIXES if f"{name}-distilled" in found]
    figure, axes = plt.subplots(figsize=(8.5, 3.9), layout="constrained")
    before = [found[name][1] for name in names]
    after = [found[f"{name}-distilled"][1] for name in names]
    axes.set_xscale("log")
    axes.set_xticks([6, 8, 10, 12, 15, 20, 25], ["6", "8", "10", "12", "15", "20", "25"])
    axes.set_xticks([], minor=True)
    axes.grid(axis="x", color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(colors=INK, labelsize=8.5, length=0)
    places = range(len(names))
    axes.hlines(places, after, before, color=MUTED, linewidth=1.5)
    axes.plot(before, places, "o", color="#d55e00", markersize=8, label="untrained")
    axes.plot(after, places, "o", color="#0072b2", markersize=8, label="after 250,000 tokens of distillation")
    for place, (old, new) in enumerate(zip(before, after, strict=True)):
        axes.annotate(
            f"{old:.2f}", (old, place), (0, 7), textcoords="offset points", ha="center", fontsize=8, color=INK
        )
        axes.annotate(
            f"{new:.2f}", (new, place), (0, 7), textcoords="offset points", ha="center", fontsize=8, color=INK
        )
    axes.axvline(found["teacher"][1], color=MUTED, linewidth=0.8, linestyle=":")
    axes.set_yticks(places, [f"{MIXES[name]}\n{found[name][0]:.3f} M" for name in names])
    axes.set_ylim(len(names) - 0.5, -0.6)
    axes.set_xlabel("perplexity (log); dotted: the teacher, 3.148 M parameters", fontsize=9, color=INK)
    figure.legend(loc="outside upper left", ncols=2, frameon=False, fontsize=8.5)
    figure.savefig("plots/mixes.png", dpi=130)


Path("plots").mkdir(exist_ok=True)
rows = read("results.json")
draw_axes(rows)
draw_mixes(rows)
