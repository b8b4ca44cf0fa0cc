"""Draw results.json of this folder. python plot.py, in this folder."""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib as mpl

mpl.use("agg")
import matplotlib.pyplot as plt

ARMS = {"unfiltered": "#9aa3ad", "filtered": "#0072b2", "real": "#009e73"}
NAMES = {"unfiltered": "all that the teacher wrote", "filtered": "what the filters leave", "real": "real stories"}

found = json.loads(Path("results.json").read_text())
figure, axes = plt.subplots(figsize=(7, 3), layout="constrained")
for place, (arm, color) in enumerate(ARMS.items()):
    values = [run["perplexity"]["value"] for name, run in found.items() if name.startswith(f"{arm}-")]
    axes.scatter(values, [place] * len(values), s=60, color=color)
axes.set_yticks(range(len(ARMS)), [NAMES[arm] for arm in ARMS])
axes.set_ylim(-0.6, len(ARMS) - 0.4)
axes.set_xlabel("Perplexity of held-out real stories after 300,000 tokens, three seeds")
axes.spines[["top", "right"]].set_visible(False)
axes.grid(axis="x", color="#dfe3e8")
axes.set_axisbelow(True)
Path("plots").mkdir(exist_ok=True)
figure.savefig("plots/seeds.png", dpi=130)
