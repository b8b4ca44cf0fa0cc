from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from compress.benchmark.accuracy import candidates, measure_accuracy
from compress.benchmark.options import AccuracyOptions
from compress.benchmark.row import Row
from compress.data.corpus import Corpus, Example, Question
from compress.models.decoder import open_decoder
from compress.models.folder import load_tokenizer
from tests.benchmark.conftest import QUESTIONS
from tests.models.tiny_decoder import BOS
from tests.references import quality as reference


@pytest.mark.parametrize("name", ["torch", "onnx"])
def test_equals_one_by_one(tiny: dict[str, Path], corpus: Corpus, exact: dict[str, Any], name: str) -> None:
    tokenizer = load_tokenizer(tiny["torch"])
    right = []
    for question in QUESTIONS:
        front = [BOS, *tokenizer.encode(question.context, add_special_tokens=False).ids]
        scores = {}
        for choice in question.choices:
            whole = tokenizer.encode(f"{question.context} {choice}.", add_special_tokens=False).ids
            assert [BOS, *whole][: len(front)] == front
            scores[choice] = reference.continuation_score(exact["torch"], front, [BOS, *whole][len(front) :])
        right.append(max(scores, key=scores.__getitem__) == question.answer)
    found = measure_accuracy(Row(tiny[name], open_decoder(tiny[name])), corpus, AccuracyOptions())
    assert found.value == pytest.approx(sum(right) / 3)
    assert found.conditions["questions"] == 3
    assert found.conditions["chance"] == pytest.approx((1 / 3 + 1 / 2 + 1 / 3) / 3)
    share = sum(right) / 3
    assert found.conditions["standard_error"] == pytest.approx(math.sqrt(share * (1 - share) / 3))


def test_a_token_across_the_border_is_scored(tiny: dict[str, Path]) -> None:
    tokenizer = load_tokenizer(tiny["torch"])
    context = "Tom gave the ball to his f"
    plain = tokenizer.encode(context, add_special_tokens=False).ids
    found = candidates(tokenizer, Question(context, "x", ("x",)), BOS)[0]
    assert found.ids.tolist() == [BOS, *tokenizer.encode(f"{context} x.", add_special_tokens=False).ids]
    assert tokenizer.decode(found.ids[found.first :].tolist()) == " x."
    assert found.first == len(plain) + 1

    class Merging:
        """Joins the space before the choice with the context's last letter."""

        def encode(self, text: str, add_special_tokens: bool) -> Any:
            assert not add_special_tokens
            return SimpleNamespace(ids={"xya": [7, 8, 3], "xya b.": [7, 8, 9, 10]}[text])

    merging: Any = Merging()
    across = candidates(merging, Question("xya", "b", ("b",)), BOS)[0]
    assert (across.ids.tolist(), across.first) == ([BOS, 7, 8, 9, 10], 3)


def test_equal_sums_are_wrong(tiny: dict[str, Path], corpus: Corpus) -> None:
    class Even:
        vocabulary, context, format = 300, 64, "torch"

        def logits(self, ids: np.ndarray, lengths: np.ndarray | None = None) -> np.ndarray:
            return np.zeros((*ids.shape, 300), dtype=np.float32)

    even: Any = Even()
    twins = (Question("The", "a", ("a", "b")),)
    assert measure_accuracy(Row(tiny["torch"], even), replace(corpus, questions=twins), AccuracyOptions()).value == 0.0


def test_reasons(tiny: dict[str, Path], corpus: Corpus) -> None:
    row = Row(tiny["torch"], open_decoder(tiny["torch"]))
    none = measure_accuracy(row, replace(corpus, questions=()), AccuracyOptions())
    assert (none.value, none.reason) == (None, "the evaluation data has no settled questions")
    long = Question("word " * 80, "a", ("a", "b"))
    all_long = measure_accuracy(row, replace(corpus, questions=(long,)), AccuracyOptions())
    assert all_long.reason == "every question is longer than the context of 64"
    labelled = measure_accuracy(row, replace(corpus, examples=(Example("fox", 0),)), AccuracyOptions())
    assert labelled.reason == "labels are for classifiers, and LlamaForCausalLM is none"
    some = measure_accuracy(row, replace(corpus, questions=(long, *QUESTIONS)), AccuracyOptions(questions=3))
    assert (some.conditions["questions"], some.conditions["left_out_over_context"]) == (2, 1)
