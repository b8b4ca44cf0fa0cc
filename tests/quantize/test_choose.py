"""The greedy choice beside the exact one."""

from __future__ import annotations

import re
import statistics

import numpy as np
import pytest

from compress.quantize.choose import Candidate, choose
from tests.references.knapsack import least_cost

Problem = list[list[Candidate]]


def problem(seed: int, count: int) -> Problem:
    """Return weights of several sizes, each in 2, 4 and 8 bits and three blocks, as rounding costs: 4 times less for each bit."""
    random = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        rows, importance = int(random.choice([1, 1, 2, 4, 8])), 10 ** random.uniform(-3, 0)
        found.append(
            [
                Candidate(int(rows * (bits + scales) * 4), importance * wider * 4.0**-bits * random.uniform(0.8, 1.2))
                for bits in (2, 4, 8)
                for scales, wider in ((1.0, 1.0), (0.5, 1.3), (0.25, 1.6))
            ]
        )
    return found


def limit_of(weights: Problem, part: float) -> int:
    smallest, largest = (sum(fold(each.bytes for each in some) for some in weights) for fold in (min, max))
    return int(smallest + part * (largest - smallest))


def bytes_of(weights: Problem, chosen: list[int]) -> int:
    return sum(some[at].bytes for some, at in zip(weights, chosen, strict=True))


def cost_of(weights: Problem, chosen: list[int]) -> float:
    return sum(some[at].cost for some, at in zip(weights, chosen, strict=True))


def over_exact(weights: Problem, limit: int) -> float:
    chosen = choose(weights, limit)
    assert bytes_of(weights, chosen) <= limit
    exact = least_cost([[(each.bytes, each.cost) for each in some] for some in weights], limit)
    return cost_of(weights, chosen) / exact


@pytest.mark.parametrize(("count", "often", "nearly_always"), [(6, 1.05, 2.0), (30, 1.01, 1.12)])
def test_the_choice_is_near_the_exact_one_and_never_over_the_limit(
    count: int, often: float, nearly_always: float
) -> None:
    ratios = []
    for seed in range(15):
        weights = problem(seed, count)
        ratios.append(over_exact(weights, limit_of(weights, 0.1 + 0.05 * seed)))
    assert min(ratios) > 1 - 1e-9
    assert statistics.median(ratios) < often
    assert sorted(ratios)[-2] < nearly_always


@pytest.mark.parametrize("seed", range(3))
def test_more_room_does_not_leave_more_than_a_step_unused(seed: int) -> None:
    weights = problem(seed, 12)
    for part in (0.0, 0.2, 0.5, 0.9):
        limit = limit_of(weights, part)
        chosen = choose(weights, limit)
        left = limit - bytes_of(weights, chosen)
        better = [
            each.bytes - some[at].bytes
            for some, at in zip(weights, chosen, strict=True)
            for each in some
            if each.cost < some[at].cost
        ]
        assert all(step > left for step in better)


def test_a_limit_that_fits_all_gives_each_weight_its_cheapest_candidate() -> None:
    weights = problem(0, 9)
    chosen = choose(weights, limit_of(weights, 1.0))
    assert cost_of(weights, chosen) == sum(min(each.cost for each in some) for some in weights)


def test_a_limit_of_the_smallest_gives_the_cheapest_of_the_smallest() -> None:
    weights = [[Candidate(4, 3.0), Candidate(2, 9.0), Candidate(2, 7.0)], [Candidate(1, 1.0)]]
    assert choose(weights, 3) == [2, 0]


@pytest.mark.parametrize("limit", [10_000, 1_234])
def test_a_limit_that_the_smallest_choice_misses_is_refused(limit: int) -> None:
    weights = [[Candidate(12_345, 1.0), Candidate(20_000, 0.0)], [Candidate(5, 1.0)]]
    said = f"the smallest choice takes 12,350 bytes, {limit:,} are allowed"
    with pytest.raises(ValueError, match=f"^{re.escape(said)}$"):
        choose(weights, limit)
    assert choose(weights, 12_350) == [0, 0]


def test_the_same_problem_has_the_same_answer_and_ties_go_to_the_first_weight() -> None:
    weights = problem(4, 20)
    assert choose(weights, limit_of(weights, 0.4)) == choose(weights, limit_of(weights, 0.4))
    assert choose([[Candidate(1, 2.0), Candidate(2, 1.0)]] * 3, 4) == [1, 0, 0]


def test_what_is_off_the_convex_hull_only_fills() -> None:
    # The middle one saves less for a byte than the way to the last one does.
    weights = [[Candidate(0, 10.0), Candidate(5, 9.0), Candidate(10, 0.0)]]
    assert [choose(weights, limit) for limit in (4, 5, 9, 10)] == [[0], [1], [1], [2]]
    two = [weights[0], [Candidate(0, 10.0), Candidate(10, 1.0)]]
    assert choose(two, 10) == [2, 0]
    assert choose(two, 15) == [2, 0]
    assert choose(two, 20) == [2, 1]


def test_candidates_that_cost_more_and_are_larger_are_never_taken() -> None:
    assert choose([[Candidate(2, 1.0), Candidate(3, 1.0), Candidate(4, 2.0)]], 100) == [0]
    assert choose([], 0) == []
