from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compress.benchmark import row as row_module
from compress.benchmark.bits_per_byte import measure_bits_per_byte
from compress.benchmark.options import BitsPerByteOptions
from compress.benchmark.row import Row
from compress.data.corpus import Corpus
from compress.models.decoder import open_decoder
from tests.benchmark.conftest import make_corpus
from tests.models.tiny_decoder import TEXT
from tests.references import quality as reference


@pytest.mark.parametrize("name", ["torch", "onnx"])
@pytest.mark.parametrize("limit", [None, 30])
def test_equals_a_loop_over_documents(
    tiny: dict[str, Path], corpus: Corpus, exact: dict[str, Any], name: str, limit: int | None
) -> None:
    row = Row(tiny[name], open_decoder(tiny[name]))
    found = measure_bits_per_byte(row, corpus, BitsPerByteOptions(documents=8), limit)
    eight = [(ids.tolist(), size) for ids, _, size in list(corpus.documents())[:8]]
    kept = [entry for entry in eight if len(entry[0]) <= (limit or 64)]
    assert found.value == pytest.approx(reference.bits_per_byte(exact["torch"], *zip(*kept, strict=True)), rel=1e-5)
    assert found.conditions["documents"] == len(kept)
    assert found.conditions["left_out_over_context"] == 8 - len(kept) > (0 if limit else -1)
    assert found.conditions["context_limit"] == (limit or 64)


def test_batches_change_nothing(tiny: dict[str, Path], corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    row = Row(tiny["onnx"], open_decoder(tiny["onnx"]))
    together = measure_bits_per_byte(row, corpus, BitsPerByteOptions())
    monkeypatch.setattr(row_module, "_BATCH_ROWS", 1)
    assert measure_bits_per_byte(row, corpus, BitsPerByteOptions()).value == pytest.approx(together.value, rel=1e-6)


def test_reasons(tiny: dict[str, Path], corpus: Corpus) -> None:
    row = Row(tiny["torch"], open_decoder(tiny["torch"]))

    def reason(text: Corpus, limit: int | None = None) -> str:
        return measure_bits_per_byte(row, text, BitsPerByteOptions(), limit).reason

    assert reason(corpus, 3) == "no document fits the context"
    bare = make_corpus(tiny["torch"], TEXT, joining=None)
    assert (
        reason(bare)
        == "nothing stands in front of the documents, so the first token of each has no score; use join: bos or eos"
    )
    prompts = corpus.counted.copy()
    prompts[1:4] = False
    plain = "documents with prompts are not counted as a whole; bits per byte needs plain text"
    assert reason(replace(corpus, counted=prompts)) == plain
    assert reason(replace(corpus, ids=np.where(corpus.ids > 100, 300, corpus.ids))).startswith(
        "the text holds token 300,"
    )
