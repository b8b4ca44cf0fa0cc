from __future__ import annotations

import math
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from compress.models.top_logits import TopLayout, TopLogits, decode, encode, expected_bytes, uniforms
from compress.models.torch_teacher import encode_logits
from tests.references import top_logits as reference

SIZES = [(5, 1, 1), (7, 3, 2), (300, 50, 10), (4096, 50, 8), (50257, 50, 10), (65536, 7, 3), (262144, 50, 10)]


def make_logits(rows: int, vocabulary: int, seed: int = 0, spread: float = 3.0) -> torch.Tensor:
    return torch.randn(rows, vocabulary, generator=torch.Generator().manual_seed(seed)) * spread


def records_of(logits: torch.Tensor, layout: TopLayout, seed: int = 0) -> np.ndarray:
    return encode_logits(logits, layout, uniforms(seed, np.zeros(1, dtype=np.int64), len(logits), layout.drawn)[0])


def hand_made(layout: TopLayout, rows: int = 2) -> TopLogits:
    log_chances = -np.arange(1.0, layout.kept + 1)[None].repeat(rows, 0)
    return TopLogits(
        np.arange(layout.kept)[None].repeat(rows, 0),
        log_chances,
        np.zeros(rows),
        np.full((rows, layout.drawn), layout.vocabulary - 1),
        np.full((rows, layout.drawn), -layout.kept - 2.0),
    )


@pytest.mark.parametrize(("vocabulary", "top", "samples"), SIZES)
def test_reads_what_the_format_says(vocabulary: int, top: int, samples: int) -> None:
    layout = TopLayout(vocabulary, top, samples)
    records = records_of(make_logits(3, vocabulary), layout)
    found = decode(layout, records)
    for row, record in enumerate(records):
        ids, log_chances, weights = zip(*reference.read_record(record.tobytes(), vocabulary, top, samples), strict=True)
        assert found.ids[row].tolist() == list(ids)
        np.testing.assert_allclose(found.log_chances[row], log_chances, rtol=2e-6, atol=2e-6)
        np.testing.assert_allclose(found.weights[row], weights, rtol=2e-5)


@pytest.mark.parametrize(("vocabulary", "top", "samples"), SIZES)
def test_keeps_the_chances(vocabulary: int, top: int, samples: int) -> None:
    layout = TopLayout(vocabulary, top, samples)
    logits = make_logits(4, vocabulary, seed=1)
    found = decode(layout, records_of(logits, layout))
    exact = torch.log_softmax(logits.double(), -1).numpy()
    order = np.argsort(-logits.numpy(), axis=1, kind="stable")[:, : layout.kept]
    np.testing.assert_array_equal(found.ids[:, : layout.kept], order)
    own = np.take_along_axis(exact, found.ids, 1)
    span = own[:, :1] - own[:, layout.kept - 1, None]
    # two square roots lie 1/1023 apart, so that two numbers lie at most 2/1023 of the span apart, and half of that is the error
    assert (np.abs(found.log_chances - own)[:, : layout.kept] <= 1.5 * span / 1023 + 1e-3).all()
    assert (np.abs(found.log_chances - own) <= 0.025 + span / 1023).all()
    np.testing.assert_allclose(found.weights.sum(1), 1, atol=2e-6)
    rest = 1 - np.exp(np.take_along_axis(exact, order, 1)).sum(1)
    np.testing.assert_allclose(found.weights[:, layout.kept :].sum(1), rest, rtol=1e-3, atol=1e-9)


def test_packs_what_it_unpacks() -> None:
    for vocabulary, top, samples in SIZES:
        layout = TopLayout(vocabulary, top, samples)
        rng = np.random.default_rng(0)
        logs = -np.sort(rng.random((20, layout.kept)) * 20, axis=1)
        logs -= np.log(np.exp(logs).sum(1, keepdims=True) / (0.9 if layout.drawn else 1))
        answers = TopLogits(
            rng.integers(0, vocabulary, (20, layout.kept)),
            logs,
            np.full(20, math.log(0.1 / 0.9)),
            rng.integers(0, vocabulary, (20, layout.drawn)),
            logs[:, -1:] - rng.random((20, layout.drawn)) * 15,
        )
        found = decode(layout, encode(layout, answers).reshape(4, 5, -1))[2:]
        assert found.ids.shape == (2, 5, layout.columns)
        np.testing.assert_array_equal(
            found.ids.reshape(10, -1), np.concatenate([answers.ids, answers.drawn_ids], axis=1)[10:]
        )
        np.testing.assert_allclose(found.log_chances.reshape(10, -1)[:, : layout.kept], logs[10:], atol=0.03)


def test_sizes_are_within_the_bars() -> None:
    assert TopLayout(65_536).record_bytes == 198
    assert TopLayout(262_144).record_bytes == 213
    assert TopLayout(4096).record_bytes == 168
    assert expected_bytes(1_000_000, 50_257) == 198_000_000
    assert expected_bytes(10, 300, 20, 2) == 10 * TopLayout(300, 20, 2).record_bytes
    records = records_of(make_logits(2, 65_536), TopLayout(65_536))
    assert records.nbytes == 2 * 198


def divergence_of(found: object, log_q: torch.Tensor) -> np.ndarray:
    own = np.take_along_axis(log_q.double().numpy(), found.ids, -1)  # type: ignore[attr-defined]
    return (found.weights * (found.log_chances - own)).sum(-1)  # type: ignore[attr-defined]


def test_of_the_teacher_itself_is_zero() -> None:
    logits = make_logits(200, 1000)
    layout = TopLayout(1000)
    found = divergence_of(decode(layout, records_of(logits, layout)), torch.log_softmax(logits, -1))
    assert np.abs(found).max() < 5e-3
    assert abs(found.mean()) < 1e-4


def test_the_divergence_is_unbiased_and_a_bucket_is_not() -> None:
    layout = TopLayout(400, 10, 2)
    teacher, student = make_logits(1, 400, spread=1.0), make_logits(1, 400, seed=1, spread=1.0)
    p, q = (reference.softmax(logits[0].double().tolist()) for logits in (teacher, student))
    exact = reference.divergence(p, q)
    found = np.array(
        [
            divergence_of(
                decode(layout, records_of(teacher.expand(400, -1), layout, seed)),
                student.log_softmax(-1).expand(400, -1),
            )
            for seed in range(5)
        ]
    ).ravel()
    error = found.std() / math.sqrt(len(found))
    assert abs(found.mean() - exact) < 4 * error
    assert error < 0.02 * exact
    order = sorted(range(400), key=lambda index: -p[index])
    top, rest = order[:10], order[10:]
    bucket = reference.divergence(
        [p[index] for index in top] + [sum(p[index] for index in rest)],
        [q[index] for index in top] + [sum(q[index] for index in rest)],
    )
    assert bucket < 0.8 * exact


def test_draws_by_the_rests_chances() -> None:
    logits = make_logits(1, 30, spread=1.0)
    layout = TopLayout(30, 4, 1)
    points = (np.arange(20_000)[:, None] + 0.5) / 20_000
    found = decode(layout, encode_logits(logits.expand(20_000, -1), layout, points))
    counts = np.bincount(found.ids[:, 4], minlength=30) / 20_000
    p = np.array(reference.softmax(logits[0].double().tolist()))
    p[found.ids[0, :4]] = 0
    np.testing.assert_allclose(counts, p / p.sum(), atol=2 / 20_000)


def test_uniforms_follow_from_seed_window_and_place_alone() -> None:
    windows = np.array([3, 900, 4], dtype=np.int64)
    found = uniforms(7, windows, 20, 4)
    np.testing.assert_array_equal(found[1:2], uniforms(7, windows[1:2], 20, 4))
    assert ((found * 4).astype(int) == np.arange(4)).all()
    assert len(np.unique(found)) == found.size
    assert not np.isin(found, uniforms(8, windows, 20, 4)).any()
    many = uniforms(0, np.arange(200), 50, 1).ravel()
    assert abs(many.mean() - 0.5) < 0.01
    assert abs(np.corrcoef(many[1:], many[:-1])[0, 1]) < 0.05


@pytest.mark.parametrize(("vocabulary", "top"), [(2, 1), (2, 50), (30, 30), (50, 50), (51, 50), (70, 50)])
def test_small_vocabularies(vocabulary: int, top: int) -> None:
    layout = TopLayout(vocabulary, top, 3)
    logits = make_logits(40, vocabulary)
    found = decode(layout, records_of(logits, layout))
    assert found.ids.shape[1] == min(top, vocabulary) + (3 if top < vocabulary else 0)
    np.testing.assert_allclose(found.weights.sum(1), 1, atol=2e-6)
    own = np.take_along_axis(torch.log_softmax(logits, -1).numpy(), found.ids, 1)
    np.testing.assert_allclose(found.log_chances, own, atol=0.05)


def test_certain_flat_and_impossible_answers() -> None:
    layout = TopLayout(500, 5, 2)
    certain = torch.full((1, 500), -1e4)
    certain[0, 17] = 1e4
    flat = torch.zeros(1, 500)
    masked = torch.full((1, 500), -math.inf)
    masked[0, [3, 400]] = torch.tensor([1.0, 0.0])
    found = decode(layout, records_of(torch.cat([certain, flat, masked]), layout))
    assert np.isfinite(found.log_chances).all()
    assert ((found.ids >= 0) & (found.ids < 500)).all()
    np.testing.assert_allclose(found.weights.sum(1), 1, atol=2e-6)
    assert (found.ids[0, 0], round(float(found.weights[0, 0]), 6)) == (17, 1.0)
    # of equals the first come first
    assert found.ids[1, :5].tolist() == sorted(found.ids[1, :5].tolist())
    np.testing.assert_allclose(found.log_chances[1], -math.log(500), atol=2e-3)
    assert found.ids[2, :2].tolist() == [3, 400]
    np.testing.assert_allclose(found.weights[2, :2], reference.softmax([1.0, 0.0]), atol=1e-3)


def test_a_temperature_is_that_of_the_logits() -> None:
    layout, logits = TopLayout(300), make_logits(6, 300)
    drawn = uniforms(0, np.zeros(1, dtype=np.int64), 6, 10)[0]
    np.testing.assert_array_equal(encode_logits(logits, layout, drawn, 2.0), encode_logits(logits / 2, layout, drawn))


def test_repeats_to_the_byte_whatever_the_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    layout, logits = TopLayout(300), make_logits(50, 300)
    whole = records_of(logits, layout)
    np.testing.assert_array_equal(records_of(logits, layout), whole)
    monkeypatch.setattr("compress.models.torch_teacher._CHUNK_LOGITS", {"cpu": 7 * 300})
    np.testing.assert_array_equal(records_of(logits, layout), whole)
    assert not np.array_equal(records_of(logits, layout, seed=1), whole)
    assert records_of(logits[:0], layout).shape == (0, layout.record_bytes)


@pytest.mark.parametrize(
    ("numbers", "said"),
    [
        ((1, 50, 10), "vocabulary must lie between 2 and 1,048,576, got 1"),
        ((2_000_000, 50, 10), "vocabulary must lie between 2 and 1,048,576, got 2,000,000"),
        ((300, 0, 10), "top must lie between 1 and 4,096, got 0"),
        ((300, 5000, 10), "top must lie between 1 and 4,096, got 5,000"),
        ((300, 50, 0), "samples must lie between 1 and 256, got 0"),
    ],
)
def test_refuses_numbers_out_of_range(numbers: tuple[int, int, int], said: str) -> None:
    with pytest.raises(ValueError) as error:  # noqa: PT011 - the whole message is compared
        TopLayout(*numbers)
    assert str(error.value) == said


def test_refuses_what_does_not_fit() -> None:
    layout = TopLayout(30, 4, 2)
    good = hand_made(layout)
    assert encode(layout, good).shape == (2, layout.record_bytes)
    with pytest.raises(ValueError, match=r"log_chances must have the shape \(2, 4\), got \(2, 3\)"):
        encode(layout, replace(good, log_chances=good.log_chances[:, :3]))
    with pytest.raises(ValueError, match="drawn_ids must lie between 0 and 29"):
        encode(layout, replace(good, drawn_ids=good.drawn_ids + 1))
    with pytest.raises(ValueError, match="rest_odds holds what is not a number"):
        encode(layout, replace(good, rest_odds=np.array([0, math.nan])))
    with pytest.raises(ValueError, match="the most probable token needs a finite chance"):
        encode(layout, replace(good, log_chances=np.full((2, 4), -math.inf)))
    with pytest.raises(ValueError, match=f"a record of this layout has {layout.record_bytes} bytes, got 9"):
        decode(layout, np.zeros((1, 9), dtype=np.uint8))
    with pytest.raises(ValueError, match="the layout has a vocabulary of 30, the logits 31"):
        records_of(make_logits(1, 31), layout)


def test_stories3m_within_one_percent() -> None:
    assets = os.environ.get("COMPRESS_ASSETS")
    if not assets:
        pytest.skip("COMPRESS_ASSETS is not set: no stories3M")
    from compress.models.folder import load_model, load_tokenizer

    folder = Path(assets) / "models" / "stories3M"
    text = (Path(assets) / "data" / "tinystories-train.txt").read_text(encoding="utf-8")[-40_000:]
    ids = torch.tensor(load_tokenizer(folder).encode(text, add_special_tokens=False).ids[: 16 * 256]).reshape(16, 256)

    def log_chances(noise: float) -> torch.Tensor:
        model = load_model(folder)
        torch.manual_seed(0)
        with torch.no_grad():
            for weight in model.parameters():
                weight += torch.randn_like(weight) * noise * weight.std()
            return torch.log_softmax(model(input_ids=ids, use_cache=False).logits[:, :-1].flatten(0, 1), -1)

    teacher, student = log_chances(0.0), log_chances(0.02)
    found = decode(TopLayout(4096), records_of(teacher, TopLayout(4096)))
    live = float((teacher.double().exp() * (teacher.double() - student)).sum(-1).mean())
    assert 0.005 < live < 0.02
    assert float(divergence_of(found, student).mean()) == pytest.approx(live, rel=0.01)
