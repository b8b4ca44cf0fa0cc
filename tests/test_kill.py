"""A run that is killed at any moment and applied again ends with the bytes and the values of a run that was not."""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path

import pytest

from tests.tiny_run import apply, apply_until, hashes, qualities, undisturbed

KILLS = 20


def check_same_as_undisturbed(run: Path) -> None:
    _, reference, _ = undisturbed()
    assert hashes(run) == hashes(reference)
    assert qualities(run) == qualities(reference)
    left = [path.name for path in run.rglob("*") if path.name.startswith((".tmp-", ".old-", "checkpoint-"))]
    assert left == []


def kill_after_share(run: Path, share: float) -> None:
    """Kill a run when this share of the time of the undisturbed one has gone by; where it was faster, earlier."""
    recipe, _, seconds = undisturbed()
    for attempt in range(4):
        end = time.monotonic() + seconds * share * 0.7**attempt
        target = run.with_name(f"{run.name}-{attempt}")
        if apply_until(recipe, target, lambda end=end: time.monotonic() > end) == -signal.SIGKILL:
            if target.exists():  # killed early, it has not made its folder
                target.rename(run)
            return
    raise AssertionError(f"the run was always done before {share:.0%} of {seconds:.0f} s")


def sealed_checkpoints(run: Path) -> list[Path]:
    return list(run.glob(".scratch/*/training/checkpoint-*/complete.json"))


def test_a_kill_inside_distill_goes_on_from_a_checkpoint(tmp_path):
    recipe, _, _ = undisturbed()
    run, delay, seen = tmp_path / "run", random.Random(0).uniform(0, 0.3), []

    def moment() -> bool:
        if not seen and sealed_checkpoints(run):
            seen.append(time.monotonic() + delay)
        return bool(seen) and time.monotonic() > seen[0]

    assert apply_until(recipe, run, moment) == -signal.SIGKILL
    assert not (run / "torch" / "student").exists()
    assert sealed_checkpoints(run)
    said = apply(recipe, run).stderr
    assert "pruned (prune): reused" in said
    assert "student (distill): making, going on from step " in said
    check_same_as_undisturbed(run)


@pytest.mark.parametrize("index", range(2))
def test_a_kill_at_a_random_moment_leaves_no_trace(index, tmp_path):
    recipe, _, _ = undisturbed()
    share = random.Random(index).uniform(0.25 + 0.35 * index, 0.6 + 0.35 * index)
    kill_after_share(tmp_path / "run", share)
    apply(recipe, tmp_path / "run")
    check_same_as_undisturbed(tmp_path / "run")


@pytest.mark.slow
@pytest.mark.parametrize("index", range(KILLS))
def test_twenty_kills_spread_over_the_run_leave_no_trace(index, tmp_path):
    recipe, _, _ = undisturbed()
    kill_after_share(tmp_path / "run", (index + random.Random(index).random()) / KILLS)
    apply(recipe, tmp_path / "run")
    check_same_as_undisturbed(tmp_path / "run")


def test_an_interrupt_stops_with_130_and_keeps_the_checkpoint(tmp_path):
    recipe, _, _ = undisturbed()
    run = tmp_path / "run"
    assert apply_until(recipe, run, lambda: bool(sealed_checkpoints(run)), signal.SIGINT) == 130
    assert not list((run / "torch").glob(".tmp-*"))
    assert sealed_checkpoints(run)
