"""A slow restatement of a classifier's accuracy: one text at a time, a float64 torch model, special tokens written by hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch


def predicted(model: Any, tokenizer: Any, text: str, context: int) -> int:
    """Return the class of the largest logit for `[CLS] text [SEP]`, where what does not fit is left out of the text's end."""
    inner = tokenizer.encode(text, add_special_tokens=False).ids[: context - 2]
    ids = [tokenizer.token_to_id("[CLS]"), *inner, tokenizer.token_to_id("[SEP]")]
    with torch.no_grad():
        return int(model(input_ids=torch.tensor([ids])).logits[0].argmax())


def accuracy(model: Any, tokenizer: Any, texts: Sequence[str], labels: Sequence[int], context: int) -> float:
    """Return the share of texts whose class is the label."""
    right = [predicted(model, tokenizer, text, context) == label for text, label in zip(texts, labels, strict=True)]
    return sum(right) / len(right)
