from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from compress.contract import Context
from compress.errors import StageError
from compress.export import parity
from compress.export.parity import Ids, Observed, compare, prove_parity
from compress.models.decoder import Format
from compress.models.input_grid import static_grid
from tests.export.conftest import export
from tests.export.schemes import quantized_folder


class PlayedDecoder:
    """Logits that depend on the last two tokens and the place; `wrong` adds to the logits of one place of one check."""

    vocabulary = 12
    context = 20
    format: Format = "onnx"

    def __init__(self, wrong: tuple[str, int, int, float] | None = None) -> None:
        self.wrong = wrong
        self.table = np.random.default_rng(0).normal(size=(12, 12, 20, 12)).astype(np.float32) * 3
        self.seen: Ids = np.zeros((0, 0), np.int64)

    def logits(self, ids: Ids, lengths: Ids | None = None) -> np.ndarray:
        check = "single" if ids.shape[1] == 1 else "prefill" if lengths is None else "padded"
        before = np.concatenate([ids[:, :1] * 0, ids[:, :-1]], axis=1)
        result = self.table[before, ids, np.arange(ids.shape[1])[None, :]].copy()
        self._spoil(check, result, 0)
        return result

    def start(self, ids: Ids) -> np.ndarray:
        self.seen = ids
        return self._last()

    def step(self, tokens: Ids) -> np.ndarray:
        self.seen = np.concatenate([self.seen, tokens[:, None]], axis=1)
        return self._last()

    def _last(self) -> np.ndarray:
        wrong, self.wrong = self.wrong, None
        result = self.logits(self.seen)[:, -1:]
        self.wrong = wrong
        self._spoil("decode", result, self.seen.shape[1] - 1)
        return result[:, 0]

    def _spoil(self, check: str, result: np.ndarray, first: int) -> None:
        if self.wrong and self.wrong[0] == check and 0 <= self.wrong[2] - first < result.shape[1]:
            result[self.wrong[1], self.wrong[2] - first, 3] += self.wrong[3]


@pytest.fixture
def context(tmp_path: Path) -> Context:
    return Context(tmp_path / "torch", tmp_path / "onnx", tmp_path, 0)


def play(monkeypatch: pytest.MonkeyPatch, context: Context, onnx: PlayedDecoder) -> None:
    sides = {context.source: PlayedDecoder(), context.target: onnx}
    monkeypatch.setattr(parity, "open_decoder", lambda folder: sides[folder])


def test_equal_sides_pass_every_check(monkeypatch: pytest.MonkeyPatch, context: Context) -> None:
    play(monkeypatch, context, PlayedDecoder())
    facts = prove_parity(context, 1e-6)
    for check in ("prefill", "decode", "padded", "single"):
        assert facts[check] == {"difference_below": 1e-5}
    assert facts["text"] is False
    play(monkeypatch, context, PlayedDecoder())
    assert prove_parity(context, None)["decode"] == {"kl": 0.0, "agreement": 1.0}


@pytest.mark.parametrize(
    ("check", "window", "token"),
    [("prefill", 2, 7), ("decode", 1, 19), ("decode", 5, 3), ("padded", 0, 19), ("single", 4, 0)],
)
def test_one_wrong_place_fails_and_is_named(
    monkeypatch: pytest.MonkeyPatch, context: Context, check: str, window: int, token: int
) -> None:
    play(monkeypatch, context, PlayedDecoder((check, window, token, 0.5)))
    with pytest.raises(
        StageError, match=rf"differ in {check}, most at window {window}, token {token}: largest difference 0\.0"
    ):
        prove_parity(context, 1e-3)
    play(monkeypatch, context, PlayedDecoder((check, window, token, 1e-5)))
    prove_parity(context, 1e-3)


@pytest.mark.parametrize("tolerance", [1e-3, None])
def test_logits_that_are_not_finite_fail(
    monkeypatch: pytest.MonkeyPatch, context: Context, tolerance: float | None
) -> None:
    play(monkeypatch, context, PlayedDecoder(("prefill", 1, 2, float("nan"))))
    with pytest.raises(StageError, match="most at window 1, token 2: logits that are not finite"):
        prove_parity(context, tolerance)


def test_a_quantized_side_that_says_something_else_fails(monkeypatch: pytest.MonkeyPatch, context: Context) -> None:
    play(monkeypatch, context, PlayedDecoder(("padded", 0, 19, 30.0)))
    with pytest.raises(StageError, match=r"differ in padded, .*KL .* nats a token \(0\.05 is allowed\)"):
        prove_parity(context, None)


def test_compare_equals_a_slow_restatement() -> None:
    generator = np.random.default_rng(0)
    torch_side = generator.normal(size=(7, 5)).astype(np.float32)
    onnx_side = (torch_side + generator.normal(size=(7, 5)) * 0.3).astype(np.float32)
    found = compare(Observed("prefill", torch_side, onnx_side, np.arange(7), np.arange(7) + 10))
    kl, agreed = 0.0, 0
    for left, right in zip(torch_side.astype(np.float64), onnx_side.astype(np.float64), strict=True):
        p, q = np.exp(left) / np.exp(left).sum(), np.exp(right) / np.exp(right).sum()
        kl += float((p * np.log(p / q)).sum()) / 7
        agreed += p[right.argmax()] >= 0.8 * p.max()
    worst = int(np.abs(torch_side - onnx_side).max(-1).argmax())
    assert found.kl == pytest.approx(kl, rel=1e-6)
    assert found.agreement == pytest.approx(agreed / 7)
    assert found.place == f"window {worst}, token {worst + 10}"
    assert found.difference == pytest.approx(np.abs(torch_side - onnx_side).max() / np.abs(torch_side).max())


def test_torch_rounds_inputs_as_the_file_does(llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = quantized_folder(llama, tmp_path / "q", lambda _: (8, None, True, "static"))
    assert export(source, tmp_path / "onnx").facts["parity"]["single"]["kl"] < 1e-6
    # The range that the file was made with is not the one that the folder says.
    monkeypatch.setattr(
        "compress.models.rounded_inputs.static_grid", lambda low, high: static_grid(low / 30, high / 30)
    )
    with pytest.raises(StageError, match="ONNX and torch differ in prefill"):
        prove_parity(Context(source, tmp_path / "onnx", tmp_path, 0), None)
