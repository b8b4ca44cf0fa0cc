from __future__ import annotations

import numpy as np
import pytest
import torch

from compress.benchmark import scoring
from compress.benchmark.scoring import Score, log_softmax, score, token_log_probabilities
from compress.models.top_logits import TopLayout, TopRows, decode, uniforms
from compress.models.torch_teacher import encode_logits


@pytest.fixture
def blocks() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    row, teacher = (rng.normal(size=(37, 19)).astype(np.float32) * 3 for _ in range(2))
    return row, rng.integers(0, 19, 37), teacher


def test_equals_torch_in_float64(blocks: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    row, targets, teacher = blocks
    left, right = (torch.log_softmax(torch.tensor(block, dtype=torch.float64), -1) for block in (teacher, row))
    found = score(row, targets, teacher)
    assert found.tokens == 37
    assert found.nll == pytest.approx(
        float(torch.nn.functional.nll_loss(right, torch.tensor(targets), reduction="sum"))
    )
    kl = torch.nn.functional.kl_div(right, left, reduction="sum", log_target=True)
    assert found.kl == pytest.approx(float(kl), rel=1e-12)
    assert found.agreed == int((row.argmax(-1) == teacher.argmax(-1)).sum())
    np.testing.assert_allclose(token_log_probabilities(row, targets).sum(), -found.nll, rtol=1e-12)


def test_pieces_change_nothing(
    blocks: tuple[np.ndarray, np.ndarray, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    row, targets, teacher = blocks
    whole, logs = score(row, targets, teacher), token_log_probabilities(row, targets)
    monkeypatch.setattr(scoring, "_PIECE_BYTES", 5 * 19 * 8)
    parts = score(row, targets, teacher)
    assert (parts.tokens, parts.agreed) == (whole.tokens, whole.agreed)
    assert [parts.nll, parts.kl] == pytest.approx([whole.nll, whole.kl], rel=1e-12)
    np.testing.assert_array_equal(token_log_probabilities(row, targets), logs)


def test_divergence_is_never_negative_and_zero_for_equals(blocks: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    row, targets, teacher = blocks
    assert score(row, targets, row).kl == 0.0
    assert score(row, targets, row + np.float32(8)).kl == pytest.approx(0.0, abs=1e-9)
    assert score(row, targets, row).agreed == 37
    assert score(row, targets, teacher).kl > 0


def test_large_logits_and_no_tokens() -> None:
    large = np.array([[1e4, -1e4, 0.0]], dtype=np.float32)
    assert np.exp(log_softmax(large)).sum() == 1.0
    assert score(large, np.array([1])).nll == 20000.0
    assert score(large[:0], np.array([], dtype=np.int64)) == Score()
    assert token_log_probabilities(large[:0], np.array([], dtype=np.int64)).shape == (0,)


def test_among_common_tokens_both_sum_to_one(blocks: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    row, targets, teacher = blocks
    common = np.array([0, 1, 4, 7, 18])
    wider = np.concatenate([teacher, np.full((37, 3), 9, dtype=np.float32)], axis=1)
    found = score(row, targets, wider, common)
    slow = score(row[:, common], np.zeros(37, dtype=np.int64), teacher[:, common])
    assert found.kl == pytest.approx(slow.kl, rel=1e-12)
    assert found.agreed == slow.agreed
    assert found.nll == score(row, targets).nll
    assert score(row, targets, teacher, np.arange(19)).kl == pytest.approx(score(row, targets, teacher).kl, rel=1e-12)


def stored(teacher: np.ndarray, layout: TopLayout, seed: int = 0) -> TopRows:
    drawn = uniforms(seed, np.zeros(1, dtype=np.int64), len(teacher), layout.drawn)[0]
    return decode(layout, encode_logits(torch.from_numpy(teacher), layout, drawn))


@pytest.mark.parametrize("distance", [0.03, 0.3, 3.0])
def test_a_stored_teacher_is_estimated_without_bias(distance: float) -> None:
    rng = np.random.default_rng(0)
    teacher = rng.normal(size=(3000, 200)).astype(np.float32)
    row = teacher + rng.normal(size=teacher.shape).astype(np.float32) * np.float32(distance)
    targets = rng.integers(0, 200, 3000)
    live, found = score(row, targets, teacher), score(row, targets, stored(teacher, TopLayout(200, 20, 4)))
    assert found.kl == pytest.approx(live.kl, rel=0.01)
    assert (found.tokens, found.nll, found.agreed) == (live.tokens, live.nll, live.agreed)


def test_a_stored_teacher_among_common_tokens(blocks: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    row, targets, teacher = blocks
    common = np.array([0, 1, 4, 7, 9, 18])
    for top in (3, 6):
        found = score(row, targets, stored(teacher[:, common], TopLayout(6, top, 64)), common)
        live = score(row, targets, teacher, common)
        assert found.kl == pytest.approx(live.kl, rel=0.01)
        assert (found.nll, found.agreed) == (live.nll, live.agreed)


def test_a_stored_teacher_of_itself_and_of_a_broken_row(blocks: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    _, targets, teacher = blocks
    known = stored(teacher, TopLayout(19, 4, 2))
    found = score(teacher, targets, known)
    assert abs(found.kl) < 37 * 1e-4
    assert found.agreed == 37
    assert np.isnan(score(np.full_like(teacher, np.nan), targets, known).kl)
