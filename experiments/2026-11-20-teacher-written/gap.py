"""Perplexity of the students by what they learned from and by seed: python gap.py RUNS, where RUNS holds <arm>-<seed>/results.json."""

from __future__ import annotations

import json
import re
import statistics
import sys
from pathlib import Path

ARMS = ("unfiltered", "filtered", "real")


def perplexities(runs: Path) -> dict[str, dict[int, float]]:
    found: dict[str, dict[int, float]] = {arm: {} for arm in ARMS}
    for file in sorted(runs.glob("*/results.json")):
        match = re.fullmatch(rf"({'|'.join(ARMS)})-(\d+)", file.parent.name)
        if match is None:
            continue
        rows = json.loads(file.read_text(encoding="utf-8"))["rows"]
        student = next(row for row in rows if row["id"] == "student")
        found[match[1]][int(match[2])] = student["measurements"]["perplexity"]["value"]
    return found


if __name__ == "__main__":
    found = perplexities(Path(sys.argv[1]))
    seeds = sorted(set.intersection(*(set(of_arm) for of_arm in found.values())))
    for arm, of_arm in found.items():
        values = [of_arm[seed] for seed in seeds]
        print(f"{arm:<11}", *(f"{value:8.3f}" for value in values), f"  median {statistics.median(values):8.3f}")
    better = [found["unfiltered"][seed] - found["filtered"][seed] for seed in seeds]
    gap = [found["filtered"][seed] - found["real"][seed] for seed in seeds]
    print("filtered is lower than unfiltered by", *(f"{value:.3f}" for value in better))
    print("filtered is higher than real by     ", *(f"{value:.3f}" for value in gap))
