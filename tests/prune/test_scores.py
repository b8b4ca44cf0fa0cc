from __future__ import annotations

import pytest
import torch

from compress.prune.scores import BlockInfluence, ColumnEnergy, HeadEnergy, channel_shares, keep_heads, keep_highest
from tests.references import pruning as slow
from tests.references.pruning import block_influence, column_energy


def _random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_block_influence_equals_the_reference():
    before, after = _random(3, 5, 8), _random(3, 5, 8, seed=1)
    influence = BlockInfluence()
    influence.add(before, after)
    assert influence.score() == pytest.approx(block_influence(before.tolist(), after.tolist()), abs=1e-12)


def test_block_influence_of_nothing_changed_is_0_and_of_a_turn_is_2():
    before = _random(2, 3, 8)
    same, scaled, turned = BlockInfluence(), BlockInfluence(), BlockInfluence()
    same.add(before, before)
    scaled.add(before, 7 * before)
    turned.add(before, -before)
    assert (same.score(), scaled.score(), turned.score()) == pytest.approx((0, 0, 2), abs=1e-12)


def test_a_zero_token_counts_as_cosine_0():
    influence = BlockInfluence()
    influence.add(torch.zeros(1, 2, 4), _random(1, 2, 4))
    assert influence.score() == 1


def test_column_energy_equals_the_reference():
    activation, projection = _random(3, 5, 7), _random(4, 7, seed=1)
    energy = ColumnEnergy(7)
    energy.add(activation)
    expected = column_energy(activation.tolist(), projection.tolist())
    assert energy.score(projection).tolist() == pytest.approx(expected, abs=1e-12)


def test_a_column_energy_is_the_change_when_that_column_is_left_out():
    activation, projection = _random(2, 6, 5), _random(4, 5, seed=1)
    energy = ColumnEnergy(5)
    energy.add(activation)
    masked = activation.clone()
    masked[..., 3] = 0
    change = (activation - masked) @ projection.T
    assert float(energy.score(projection)[3]) == pytest.approx(float(change.square().sum(-1).mean().sqrt()), abs=1e-12)


def test_scores_do_not_depend_on_how_windows_are_batched():
    before, after, projection = _random(6, 4, 8), _random(6, 4, 8, seed=1), _random(3, 8, seed=2)
    results = []
    for size in (1, 4, 6):
        influence, energy = BlockInfluence(), ColumnEnergy(8)
        for x, y in zip(before.split(size), after.split(size), strict=True):
            influence.add(x, y)
            energy.add(y)
        results.append([influence.score(), *energy.score(projection).tolist()])
    assert results[1] == pytest.approx(results[0], abs=1e-12)
    assert results[2] == pytest.approx(results[0], abs=1e-12)


def test_float32_activations_are_summed_in_float64():
    energy = ColumnEnergy(1)
    energy.add(torch.full((1, 1, 1), 1e4))
    for _ in range(1000):
        energy.add(torch.full((1, 1, 1), 1e-1))
    exact = ((1e8 + 1000 * float(torch.tensor(0.1)) ** 2) / 1001) ** 0.5
    assert float(energy.score(torch.ones(1, 1))) == pytest.approx(exact, rel=1e-12)


def test_highest_are_kept_in_order_and_ties_keep_the_first():
    assert keep_highest(torch.tensor([3.0, 1.0, 5.0, 1.0, 1.0]), 4) == [0, 1, 2, 3]
    assert keep_highest(torch.zeros(5), 2) == [0, 1]
    assert keep_highest(torch.tensor([2.0, 9.0]), 2) == [0, 1]


def test_head_energy_equals_the_reference():
    activation, projection = _random(3, 5, 12), _random(4, 12, seed=1)
    energy = HeadEnergy(3, 4)
    energy.add(activation)
    expected = slow.head_energy(activation.tolist(), projection.tolist(), 3)
    assert energy.score(projection).tolist() == pytest.approx(expected, abs=1e-12)


def test_a_head_energy_is_the_change_when_that_head_is_left_out():
    activation, projection = _random(2, 6, 8), _random(5, 8, seed=1)
    energy = HeadEnergy(4, 2)
    energy.add(activation)
    for head in range(4):
        masked = activation.clone()
        masked[..., 2 * head : 2 * head + 2] = 0
        change = ((activation - masked) @ projection.T).square().sum(-1).mean().sqrt()
        assert float(energy.score(projection)[head]) == pytest.approx(float(change), abs=1e-12)


def test_heads_of_one_channel_are_columns():
    activation, projection = _random(2, 6, 5), _random(4, 5, seed=1)
    heads, columns = HeadEnergy(5, 1), ColumnEnergy(5)
    heads.add(activation)
    columns.add(activation)
    assert heads.score(projection).tolist() == pytest.approx(columns.score(projection).tolist(), abs=1e-12)


def test_a_head_that_cancels_itself_counts_0():
    activation = torch.ones(1, 3, 4)
    energy = HeadEnergy(2, 2)
    energy.add(activation)
    projection = torch.tensor([[1.0, -1.0, 1.0, 1.0], [3.0, -3.0, 0.0, 0.0]])
    assert energy.score(projection).tolist() == pytest.approx([0, 2], abs=1e-9)


def test_channel_shares_equal_the_reference_and_add_up_to_1():
    energies = [_random(6, seed=seed).abs() for seed in range(3)]
    shares = channel_shares(energies)
    assert shares.tolist() == pytest.approx(slow.channel_shares([each.tolist() for each in energies]), abs=1e-12)
    assert float(shares.sum()) == pytest.approx(1, abs=1e-12)
    # Every reader counts the same, however loud it is.
    louder = channel_shares([1e6 * energies[0], *energies[1:]])
    assert louder.tolist() == pytest.approx(shares.tolist(), abs=1e-12)


def test_a_reader_that_hears_nothing_adds_nothing():
    energy = torch.tensor([3.0, 4.0], dtype=torch.float64)
    assert channel_shares([energy, torch.zeros(2, dtype=torch.float64)]).tolist() == pytest.approx([0.18, 0.32])


def test_equally_many_heads_stay_of_every_group():
    scores = torch.tensor([1.0, 9.0, 8.0, 0.5, 0.1, 0.4])
    assert keep_heads(scores, 2, 4, 2) == ([1, 2, 3, 5], [0, 1])
    assert keep_heads(scores, 2, 2, 2) == ([1, 3], [0, 1])
    assert keep_heads(scores, 2, 6, 2) == ([0, 1, 2, 3, 4, 5], [0, 1])


def test_whole_groups_go_by_the_sum_of_squared_scores():
    # 3^2 + 0 > 2^2 + 2^2, though 3 + 0 < 2 + 2.
    assert keep_heads(torch.tensor([2.0, 2.0, 3.0, 0.0]), 2, 2, 1) == ([2, 3], [1])
    assert keep_heads(torch.tensor([1.0, 1.0, 1.0, 1.0]), 2, 2, 1) == ([0, 1], [0])


def test_groups_go_and_heads_of_those_that_stay_too():
    scores = torch.tensor([1.0, 5.0, 4.0, 4.0, 0.0, 6.0])
    assert keep_heads(scores, 3, 2, 2) == ([1, 5], [0, 2])
    assert keep_heads(scores, 3, 1, 1) == ([5], [2])


def test_heads_with_a_key_value_head_of_their_own_go_one_by_one():
    assert keep_heads(torch.tensor([3.0, 1.0, 2.0]), 3, 2, 2) == ([0, 2], [0, 2])
