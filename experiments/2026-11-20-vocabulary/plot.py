"""Draw results.json of this folder. python plot.py, in this folder."""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib as mpl

mpl.use("agg")
import matplotlib.pyplot as plt

INK, MUTED, GRID, BLUE, ORANGE = "#1b1f24", "#5f6872", "#dfe3e8", "#0072b2", "#d55e00"
CUTS = {4096: "teacher", 3850: "vocab3850", 3644: "vocab3644", 3000: "vocab3000", 2048: "vocab2048"}
LINKS = {0.0: "vocab2048", 0.5: "distilled-500k", 1.0: "distilled-1m", 2.0: "distilled-2m", 4.0: "distilled-4m"}

found = {
    row["id"]: row["measurements"]["bits_per_byte"]["value"]
    for row in json.loads(Path("results.json").read_text())["rows"]
}
uncut = found["teacher"]
figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4.2), sharey=True, layout="constrained")
for axes in (left, right):
    axes.axhline(uncut, color=MUTED, linewidth=0.8, linestyle=":")
    axes.grid(color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=INK, labelsize=8.5, length=0)
for axes, points, colour in ((left, CUTS, ORANGE), (right, LINKS, BLUE)):
    line = [(place, found[name]) for place, name in points.items() if name in found]
    axes.plot(*zip(*line, strict=True), "o-", color=colour, markersize=6, linewidth=1.3)
    for place, value in line:
        text = f"{value:.3f}" + ("" if value == uncut else f"\n{value / uncut - 1:+.1%}")
        # away from the line, which rises on the left and falls on the right
        where = {"xytext": (-5, 6), "ha": "right"} if axes is left else {"xytext": (0, -8), "ha": "center", "va": "top"}
        if place in (0.0, 3850):
            where = {
                "xytext": (9, 6 if axes is right else -4),
                "ha": "left",
                "va": "bottom" if axes is right else "top",
            }
        axes.annotate(text, (place, value), textcoords="offset points", fontsize=8, color=INK, **where)
if "trained-500k" in found:
    right.plot(0.5, found["trained-500k"], "v", color=ORANGE, markersize=7)
    right.annotate(
        f"cross-entropy alone\n{found['trained-500k']:.3f}",
        (0.5, found["trained-500k"]),
        (9, 8),
        textcoords="offset points",
        fontsize=8,
        color=INK,
    )
left.invert_xaxis()
left.set_xticks(list(CUTS), [f"{size:,}" for size in CUTS], rotation=30)
left.set_xlim(4330, 1960)
left.set_ylim(0.95 * uncut, 1.08 * max(found.values()))
left.set_title("Untrained", fontsize=10, loc="left", color=INK)
left.set_xlabel("tokens in the vocabulary", fontsize=9, color=INK)
left.set_ylabel("bits per byte; dotted: uncut", fontsize=9, color=INK)
right.set_title(
    "2,048 tokens, distilled in links of 0.5, 0.5, 1 and 2 million tokens", fontsize=10, loc="left", color=INK
)
right.set_xlabel("tokens seen, millions", fontsize=9, color=INK)
right.set_xlim(-0.25, 4.4)
Path("plots").mkdir(exist_ok=True)
figure.savefig("plots/bits-per-byte.png", dpi=130)
