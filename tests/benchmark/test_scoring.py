from __future__ import annotations

import numpy as np
import pytest
import torch

from compress.benchmark import scoring
from compress.benchmark.scoring import Score, log_softmax, score, token_log_probabilities


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
