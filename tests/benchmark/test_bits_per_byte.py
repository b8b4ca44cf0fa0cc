from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compress.benchmark import row as row_module
from compress.benchmark.bits_per_byte import measure_bits_per_byte, unreadable
from compress.benchmark.options import BitsPerByteOptions
from compress.benchmark.row import Row
from compress.data.corpus import Corpus
from compress.models.decoder import open_decoder
from compress.models.folder import load_tokenizer
from tests.benchmark.conftest import make_corpus
from tests.models.tiny_decoder import TEXT, make_torch_folder
from tests.models.tiny_encoder import make_encoder_folder
from tests.references import quality as reference


@pytest.mark.parametrize("name", ["torch", "onnx"])
@pytest.mark.parametrize("left_out", [frozenset(), frozenset({1, 6, 11})])
def test_equals_a_loop_over_documents(
    tiny: dict[str, Path], corpus: Corpus, exact: dict[str, Any], name: str, left_out: frozenset[int]
) -> None:
    row = Row(tiny[name], open_decoder(tiny[name]))
    found = measure_bits_per_byte(row, corpus, BitsPerByteOptions(documents=8), left_out)
    eight = [(ids.tolist(), size) for ids, _, size in list(corpus.documents())[:8]]
    kept = [entry for number, entry in enumerate(eight) if number not in left_out]
    assert found.value == pytest.approx(reference.bits_per_byte(exact["torch"], *zip(*kept, strict=True)), rel=1e-5)
    assert found.conditions["documents"] == len(kept)
    assert found.conditions["left_out_over_context"] == 8 - len(kept) == (2 if left_out else 0)


def test_what_one_row_cannot_read_no_row_is_measured_on(tiny: dict[str, Path], tmp_path: Path) -> None:
    """Three rows with two tokenizers and three contexts: the sets of what each cannot read differ."""
    rows = {
        "long": (tiny["torch"], 64),
        "coarse": (make_torch_folder(tmp_path / "coarse", vocab=262), 64),
        "short": (make_torch_folder(tmp_path / "short", context=40), 40),
    }
    # letters of no merge cost both tokenizers alike; words cost the coarse one more
    texts = ["xq" * 12, "xq" * 25, "The red fox ran to the old barn. " * 3, "The red fox.", "xq" * 40, "x" * 3]
    corpora = {folder: make_corpus(folder, texts) for folder, _ in rows.values()}
    alone = {name: unreadable(corpora.__getitem__, [folder], 5) for name, (folder, _) in rows.items()}
    assert alone == {
        name: {
            number
            for number, text in enumerate(texts[:5])
            if 1 + len(load_tokenizer(folder).encode(text, add_special_tokens=False).ids) > context
        }
        for name, (folder, context) in rows.items()
    }
    assert len(set(alone.values())) == 3
    encoder = make_encoder_folder(tmp_path / "encoder")
    left_out = unreadable(corpora.__getitem__, [*corpora, encoder], 5)
    assert left_out == frozenset().union(*alone.values())
    found = [
        measure_bits_per_byte(
            Row(folder, open_decoder(folder)), corpora[folder], BitsPerByteOptions(documents=5), left_out
        )
        for folder in corpora
    ]
    assert {(one.conditions["documents"], one.conditions["bytes"]) for one in found} == {(2, len("xq" * 12) + 12)}
    assert {one.conditions["left_out_over_context"] for one in found} == {3}


def test_batches_change_nothing(tiny: dict[str, Path], corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    row = Row(tiny["onnx"], open_decoder(tiny["onnx"]))
    together = measure_bits_per_byte(row, corpus, BitsPerByteOptions())
    monkeypatch.setattr(row_module, "_BATCH_ROWS", 1)
    assert measure_bits_per_byte(row, corpus, BitsPerByteOptions()).value == pytest.approx(together.value, rel=1e-6)


def test_reasons(tiny: dict[str, Path], corpus: Corpus) -> None:
    row = Row(tiny["torch"], open_decoder(tiny["torch"]))

    def reason(text: Corpus, left_out: frozenset[int] = frozenset()) -> str:
        return measure_bits_per_byte(row, text, BitsPerByteOptions(), left_out).reason

    assert reason(corpus, frozenset(range(12))) == "no document fits the context"
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
