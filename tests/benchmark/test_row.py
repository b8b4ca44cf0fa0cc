from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from compress.benchmark.row import joining_token, log_probabilities, rows_per_batch
from compress.models.decoder import open_decoder
from tests.benchmark.conftest import make_corpus
from tests.models.tiny_decoder import BOS, EOS, TEXT


@pytest.mark.parametrize(("tokens", "vocabulary", "rows"), [(256, 4096, 61), (256, 512, 64), (4096, 152_000, 1)])
def test_batches_stay_under_256_megabytes(tokens: int, vocabulary: int, rows: int) -> None:
    assert rows_per_batch(tokens, vocabulary) == rows
    assert rows == 1 or rows * tokens * vocabulary * 4 <= 256_000_000


@pytest.mark.parametrize(("joining", "said"), [(BOS, ("bos", BOS)), (EOS, ("eos", EOS)), (None, ("none", None))])
def test_the_text_says_how_it_was_joined(
    tiny: dict[str, Path], joining: int | None, said: tuple[str, int | None]
) -> None:
    assert joining_token(make_corpus(tiny["torch"], TEXT, joining), tiny["torch"]) == said


@pytest.mark.parametrize("name", ["torch", "onnx"])
def test_padded_batches_equal_one_by_one_in_the_given_order(tiny: dict[str, Path], name: str) -> None:
    decoder = open_decoder(tiny[name])
    rng = np.random.default_rng(0)
    sequences = [rng.integers(2, 300, length) for length in (5, 40, 2, 17, 40)]
    firsts = [1, 30, 1, 4, 39]
    together = log_probabilities(decoder, sequences, firsts)
    for ids, first, found in zip(sequences, firsts, together, strict=True):
        assert found.shape == (len(ids) - first,)
        np.testing.assert_allclose(found, log_probabilities(decoder, [ids])[0][first - 1 :], atol=1e-5)
