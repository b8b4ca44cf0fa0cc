"""Draw results.json and scratch.json of this folder. python plot.py, in this folder."""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib as mpl

mpl.use("agg")
import matplotlib.pyplot as plt

INK, MUTED, GRID, BLUE, GREY = "#1b1f24", "#5f6872", "#dfe3e8", "#0072b2", "#9aa3ad"
LEFT_OUT = ("teacher", "pruned", "start")


def read(file):
    """Perplexity of each trained row, by id."""
    rows = json.loads(Path(file).read_text())["rows"]
    return {row["id"]: row["measurements"]["perplexity"]["value"] for row in rows if row["id"] not in LEFT_OUT}


def main():
    """Bars of perplexity, the best first; what starts from fresh weights is grey."""
    pruned, scratch = read("results.json"), read("scratch.json")
    found = sorted({**pruned, **scratch}.items(), key=lambda pair: -pair[1])
    figure, axes = plt.subplots(figsize=(9, 6.5), layout="constrained")
    colors = [GREY if name in scratch else BLUE for name, _ in found]
    axes.barh([name for name, _ in found], [value for _, value in found], color=colors)
    for place, (_, value) in enumerate(found):
        axes.text(value * 1.01, place, f"{value:.2f}", va="center", color=INK, fontsize=9)
    axes.set_xscale("log")
    axes.set_xlim(8, max(value for _, value in found) * 1.3)
    axes.set_xticks([10, 15, 20, 30, 50], ["10", "15", "20", "30", "50"])
    axes.xaxis.set_minor_formatter(mpl.ticker.NullFormatter())
    axes.set_xlabel("Perplexity after 250,000 tokens (log scale); grey: from fresh weights", color=MUTED)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="x", color=GRID)
    axes.set_axisbelow(True)
    Path("plots").mkdir(exist_ok=True)
    figure.savefig("plots/losses.png", dpi=130)


if __name__ == "__main__":
    main()
