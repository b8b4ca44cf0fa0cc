from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from compress.errors import ArtifactError, RecipeError
from compress.models.decoder import Decoder, open_decoder
from compress.models.folder import load_tokenizer
from compress.models.generate import Sampling, continue_text, distribution, generate, stream_text
from tests.models.tiny_decoder import BOS, CONTEXT, EOS, make_torch_folder

PROMPT = [BOS, 5, 9]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_torch_folder(tmp_path_factory.mktemp("generate") / "torch")


@pytest.fixture(scope="module")
def decoder(folder: Path) -> Decoder:
    return open_decoder(folder)


def test_greedy_equals_argmax_without_a_cache(decoder: Decoder) -> None:
    expected = list(PROMPT)
    for _ in range(12):
        expected.append(int(decoder.logits(np.array([expected]))[0, -1].argmax()))
    assert list(generate(decoder, PROMPT, 12)) == expected[len(PROMPT) :]


def test_ends_before_an_end_token(decoder: Decoder) -> None:
    tokens = list(generate(decoder, PROMPT, 12))
    end = tokens[4]
    assert list(generate(decoder, PROMPT, 12, ends=(end,))) == tokens[: tokens.index(end)]
    assert list(generate(decoder, PROMPT, 0)) == []


def test_ends_where_the_context_is_full(decoder: Decoder) -> None:
    assert len(list(generate(decoder, PROMPT, 1000))) == CONTEXT - len(PROMPT)


def test_a_seed_repeats(decoder: Decoder) -> None:
    runs = [list(generate(decoder, PROMPT, 20, Sampling(1.5, seed=seed))) for seed in (0, 0, 1)]
    assert runs[0] == runs[1] != runs[2]


def test_one_candidate_is_greedy(decoder: Decoder) -> None:
    greedy = list(generate(decoder, PROMPT, 10))
    assert list(generate(decoder, PROMPT, 10, Sampling(3.0, top_k=1))) == greedy
    assert list(generate(decoder, PROMPT, 10, Sampling(1.0, top_p=1e-9))) == greedy


@pytest.mark.parametrize(("top_k", "top_p"), [(None, None), (5, None), (None, 0.7), (20, 0.5), (1000, 1.0)])
def test_distribution_equals_transformers(top_k: int | None, top_p: float | None) -> None:
    logits = np.random.default_rng(0).normal(size=50).astype(np.float32) * 2
    scores = TemperatureLogitsWarper(0.7)(None, torch.tensor(logits, dtype=torch.float64)[None])
    if top_k:
        scores = TopKLogitsWarper(top_k)(None, scores)
    if top_p:
        scores = TopPLogitsWarper(top_p)(None, scores)
    expected = scores.softmax(-1)[0].numpy()
    kept, probabilities = distribution(logits, Sampling(0.7, top_k, top_p))
    found = np.zeros(50)
    found[kept] = probabilities
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_draws_follow_the_distribution() -> None:
    from compress.models.generate import choose

    logits = np.log(np.array([0.5, 0.3, 0.2], dtype=np.float32))
    generator = np.random.default_rng(0)
    drawn = np.bincount([choose(logits, Sampling(1.0), generator) for _ in range(5000)], minlength=3) / 5000
    np.testing.assert_allclose(drawn, [0.5, 0.3, 0.2], atol=0.03)


def test_stream_gives_whole_characters(folder: Path) -> None:
    tokenizer = load_tokenizer(folder)
    text = " the bird sang é 日本 🙂 once.\nEnd"
    tokens = tokenizer.encode(text, add_special_tokens=False).ids
    pieces = list(stream_text(tokenizer, PROMPT, tokens))
    assert "".join(pieces) == text
    assert len(pieces) > 10
    assert not any("\ufffd" in piece for piece in pieces)


def test_stream_shows_what_is_incomplete_at_the_end(folder: Path) -> None:
    tokenizer = load_tokenizer(folder)
    tokens = tokenizer.encode("ok 🙂", add_special_tokens=False).ids
    assert "".join(stream_text(tokenizer, [BOS], tokens[:-1])).startswith("ok \ufffd")
    assert list(stream_text(tokenizer, [BOS], [])) == []


def test_stream_keeps_the_spaces_of_a_sentencepiece_tokenizer() -> None:
    assets = os.environ.get("COMPRESS_ASSETS")
    if not assets:
        pytest.skip("COMPRESS_ASSETS is not set: no tokenizer of stories3M")
    tokenizer: Tokenizer = load_tokenizer(Path(assets) / "models" / "stories3M")
    whole = tokenizer.encode("Once upon a time 🙂 there was", add_special_tokens=False).ids
    prompt, rest = [1, *whole[:4]], whole[4:]
    text = tokenizer.decode(prompt) + "".join(stream_text(tokenizer, prompt, rest))
    assert text == "Once upon a time 🙂 there was"


def test_continues_a_text_from_bos_to_eos(folder: Path, decoder: Decoder) -> None:
    tokenizer = load_tokenizer(folder)
    prompt = [BOS, *tokenizer.encode("The red", add_special_tokens=False).ids]
    tokens = list(generate(decoder, prompt, 10, ends=(EOS,)))
    assert "".join(continue_text(folder, "The red", 10)) == tokenizer.decode(tokens, skip_special_tokens=True)
    with pytest.raises(ArtifactError, match=r"no tokenizer\.json there"):
        continue_text(folder.parent, "The red", 10)


def test_refuses_prompts(decoder: Decoder) -> None:
    for prompt, message in (
        ([], "the prompt is empty and the model has no BOS token; give a text"),
        ([BOS, 300], "the prompt has token 300, the model has tokens 0 to 299"),
        ([BOS] * 64, "the prompt has 64 tokens, the model's context is 64; give a shorter text"),
    ):
        with pytest.raises(RecipeError) as caught:
            generate(decoder, prompt, 5)
        assert str(caught.value) == f"error: {message}\n1 error. Nothing was run."


def test_refuses_every_wrong_number_at_once() -> None:
    with pytest.raises(RecipeError) as caught:
        Sampling(-1.0, top_k=0, top_p=1.5, seed=-3)
    assert [problem.message for problem in caught.value.problems] == [
        "temperature must be 0 (greedy) or more, got -1.0",
        "top_k must be at least 1, got 0",
        "top_p must be above 0 and at most 1, got 1.5",
        "seed must be 0 or more, got -3",
    ]
