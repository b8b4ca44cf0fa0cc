"""Hidden-state losses against slow restatements, the learned projection, and which layers are compared."""

from __future__ import annotations

import re

import pytest
import torch

from compress.distill.hidden import hidden_cosine, hidden_mse, layer_map, projection
from tests.references.distillation import slow_hidden_cosine, slow_hidden_mse

LOSSES = {"mse": (hidden_mse, slow_hidden_mse), "cosine": (hidden_cosine, slow_hidden_cosine)}
both = pytest.mark.parametrize("name", LOSSES)


def some(dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(7, 9, generator=generator, dtype=dtype) for _ in range(2))
    return student, teacher * torch.logspace(-2, 2, 7, dtype=dtype)[:, None]


@both
def test_it_equals_the_slow_restatement(name):
    loss, restated = LOSSES[name]
    student, teacher = some()
    expected = restated(student.numpy(), teacher.numpy())
    assert float(loss(student, teacher)) == pytest.approx(expected, rel=1e-5)
    exact = loss(student.double(), teacher.double())
    assert exact.dtype == torch.float64
    assert float(exact) == pytest.approx(expected, rel=1e-12)


@both
def test_it_is_zero_for_equal_rows_and_the_size_of_the_states_does_not_matter(name):
    loss, _ = LOSSES[name]
    student, teacher = some()
    assert float(loss(teacher, teacher)) == pytest.approx(0, abs=1e-5)
    assert float(loss(student * 128, teacher * 128)) == pytest.approx(float(loss(student, teacher)), rel=1e-5)
    assert loss(student.bfloat16(), teacher).dtype == torch.float32


@both
def test_rows_add_up_and_zeros_stay_finite(name):
    loss, _ = LOSSES[name]
    student, teacher = some()
    parts = float(loss(student[:3], teacher[:3])) + float(loss(student[3:], teacher[3:]))
    assert float(loss(student, teacher)) == pytest.approx(parts, rel=1e-6)
    nothing = torch.zeros(2, 9, requires_grad=True)
    value = loss(nothing, teacher[:2])
    value.backward()
    assert float(value.detach()) == pytest.approx(2.0)
    assert torch.isfinite(nothing.grad).all()
    assert float(loss(torch.zeros(2, 9), torch.zeros(2, 9))) in (0.0, 2.0)


@both
def test_its_gradient_is_that_of_its_values(name):
    loss, _ = LOSSES[name]
    student, teacher = some(torch.float64)
    assert torch.autograd.gradcheck(lambda own: loss(own, teacher), student.requires_grad_(True))


def test_between_rows_of_one_length_the_squares_are_twice_the_cosine():
    student, teacher = (rows / rows.norm(dim=-1, keepdim=True) for rows in some(torch.float64))
    assert float(hidden_mse(student, teacher)) == pytest.approx(2 * float(hidden_cosine(student, teacher)), rel=1e-12)


def test_a_projection_starts_where_the_students_channels_are():
    rows = torch.arange(6.0).view(2, 3)
    assert torch.equal(projection(3, 3)(rows), rows)
    kept = [False, True, True, False, True]
    wide = projection(3, 5, kept)(rows)
    assert torch.equal(wide[:, [1, 2, 4]], rows)
    assert not wide[:, [0, 3]].any()
    drawn = projection(300, 200, seed=1).requires_grad_(False)
    assert drawn.weight.shape == (200, 300)
    assert float(drawn.weight.var()) == pytest.approx(1 / 300, rel=0.05)
    assert torch.equal(drawn.weight, projection(300, 200, [True] * 200, seed=1).weight)
    assert not torch.equal(drawn.weight, projection(300, 200, seed=2).weight)
    assert drawn.bias is None


@pytest.mark.parametrize(
    ("student", "teacher", "pairs"),
    [
        (3, 12, [(0, 3), (1, 7), (2, 11)]),
        (6, 12, [(0, 1), (1, 3), (2, 5), (3, 7), (4, 9), (5, 11)]),
        (4, 6, [(0, 0), (1, 2), (2, 3), (3, 5)]),
        (2, 2, [(0, 0), (1, 1)]),
        (1, 5, [(0, 4)]),
        (4, 2, [(1, 0), (3, 1)]),
    ],
)
def test_layers_are_shared_out_evenly_and_the_last_stands_to_the_last(student, teacher, pairs):
    assert layer_map(student, teacher) == pairs
    assert layer_map(student, teacher, kept=[True] * (student + teacher + 1)) == pairs


def test_a_layer_that_was_kept_learns_what_was_cut_out_behind_it():
    assert layer_map(3, 6, kept=[True, False, False, True, True, False]) == [(0, 2), (1, 3), (2, 5)]
    assert layer_map(2, 4, kept=[False, True, False, True]) == [(0, 2), (1, 3)]
    assert layer_map(3, 3, kept=[True, True, True]) == [(0, 0), (1, 1), (2, 2)]


def test_given_pairs_are_taken_in_order_and_wrong_ones_refused():
    assert layer_map(3, 6, [(2, 5), (0, 1), (0, 2)]) == [(0, 1), (0, 2), (2, 5)]
    refused = {
        ((3, 5),): "layers has the pair [3, 5], but the student has 3 layers; give one of 0 to 2",
        ((0, 6),): "layers has the pair [0, 6], but the teacher has 6 layers; give one of 0 to 5",
        ((-1, 5),): "layers has the pair [-1, 5], but the student has 3 layers; give one of 0 to 2",
        ((0, 1), (0, 1)): "layers has the pair [0, 1] more than once; give it once",
        (): "layers has no pair; give at least one, such as [[0, 0]], or leave it out",
    }
    for pairs, message in refused.items():
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            layer_map(3, 6, list(pairs))
