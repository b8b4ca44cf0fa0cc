"""Batched sampling draws what the decoder's sampling draws, row by row, whatever stands beside a row."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

from compress.models.generate import Sampling, choose
from compress.models.torch_writer import draw, write_batch

VOCAB = 50
SIZES = {"vocab_size": VOCAB, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 200}
PROMPTS = [[3, 4, 5], [7], [9, 8, 7, 6, 5, 4, 3], [11, 12]]
SAMPLINGS = [Sampling(1.3, seed=5), Sampling(0.7, 6, seed=5), Sampling(1.0, None, 0.8, 5), Sampling(1.1, 9, 0.9, 5), Sampling()]  # fmt: skip


class Fixed:
    """A generator whose next draw is known."""

    def __init__(self, uniform: float) -> None:
        self.uniform = uniform

    def random(self) -> float:
        return self.uniform


def llama(**changes):
    torch.manual_seed(0)
    config = LlamaConfig(**(SIZES | HEADS | {"initializer_range": 0.3} | changes))
    return LlamaForCausalLM(config).eval()


def gpt2():
    torch.manual_seed(0)
    sizes = {"vocab_size": VOCAB, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 200}
    return GPT2LMHeadModel(GPT2Config(**sizes, initializer_range=0.3)).eval()


def mistral():
    torch.manual_seed(0)
    return MistralForCausalLM(MistralConfig(**SIZES, **HEADS, sliding_window=6, initializer_range=0.3)).eval()


def one_by_one(model, prompts, new, sampling, ends=()):
    """Read each row's whole text anew for each token: no batch, no cache."""
    uniforms = np.random.default_rng(sampling.seed).random((len(prompts), new))
    written = []
    for row, prompt in enumerate(prompts):
        tokens = []
        while len(tokens) < min(new, 200 - len(prompt)):
            with torch.no_grad():
                logits = model(input_ids=torch.tensor([[*prompt, *tokens]]), use_cache=False).logits[0, -1].numpy()
            tokens.append(choose(logits, sampling, Fixed(uniforms[row, len(tokens)])))
            if tokens[-1] in ends:
                break
        written.append(tokens)
    return written


@pytest.mark.parametrize(
    ("make", "sampling"), [*((llama, each) for each in SAMPLINGS), (gpt2, SAMPLINGS[0]), (mistral, SAMPLINGS[3])]
)
def test_a_batch_writes_what_each_row_would_alone(make, sampling):
    model = make()
    ends = (1, 2, 3, 4)
    expected = one_by_one(model, PROMPTS, 12, sampling, ends)
    assert write_batch(model, PROMPTS, 12, sampling, ends) == expected


def test_long_texts_outgrow_the_first_room_of_the_cache():
    model, sampling = llama(), Sampling(1.0, seed=2)
    assert write_batch(model, PROMPTS[:1], 120, sampling) == one_by_one(model, PROMPTS[:1], 120, sampling)


@pytest.mark.parametrize(("top_k", "top_p"), [(None, None), (None, 0.3), (None, 0.97), (70, None), (200, 0.9), (3000, 0.999)])  # fmt: skip
def test_draws_from_a_wide_vocabulary_are_those_of_choose(top_k, top_p):
    generator = np.random.default_rng(1)
    flat = np.where(np.arange(40) % 2, 0.2, 3.0)[:, None]  # some rows need many tokens, others few
    logits = (generator.normal(size=(40, 3000)) * flat).astype(np.float32)
    uniforms = generator.random(40)
    uniforms[:2] = 0.0, 1 - 1e-12
    sampling = Sampling(1.0, top_k, top_p)
    expected = [choose(row, sampling, Fixed(value)) for row, value in zip(logits, uniforms, strict=True)]
    assert draw(torch.from_numpy(logits), sampling, torch.from_numpy(uniforms)).tolist() == expected


def test_draws_come_as_often_as_they_are_probable():
    logits = torch.tensor([[1.0, 0.0, 2.0, -1.0]])
    count = 20_000
    uniforms = torch.from_numpy(np.random.default_rng(0).random(count))
    found = draw(logits.repeat(count, 1), Sampling(0.8), uniforms)
    shares = torch.bincount(found, minlength=4) / count
    torch.testing.assert_close(shares, (logits[0] / 0.8).softmax(-1).float(), atol=0.01, rtol=0)


def test_the_seed_alone_decides():
    model = llama()
    first = write_batch(model, PROMPTS, 10, Sampling(1.0, seed=1))
    assert write_batch(model, PROMPTS, 10, Sampling(1.0, seed=1)) == first
    assert write_batch(model, PROMPTS, 10, Sampling(1.0, seed=2)) != first
    assert write_batch(model, [[*PROMPTS[0]]] * 2, 10, Sampling(1.0, seed=1))[0] == first[0]


def test_rows_end_at_an_end_token_at_a_stop_or_when_full():
    model = llama(max_position_embeddings=12)
    free = write_batch(model, PROMPTS, 50, Sampling(1.0, seed=4))
    assert [len(row) for row in free] == [12 - len(prompt) for prompt in PROMPTS]
    stopped = write_batch(model, PROMPTS, 50, Sampling(1.0, seed=4), stop=lambda written: len(written) == 3)
    assert stopped == [row[:3] for row in free]
    ended = write_batch(model, PROMPTS, 50, Sampling(1.0, seed=4), ends={free[0][1]})
    assert ended[0] == free[0][:2]


def test_nothing_is_written_where_nothing_is_asked():
    model = llama()
    assert write_batch(model, [], 5, Sampling()) == []
    assert write_batch(model, [[1], [2]], 0, Sampling()) == [[], []]


@pytest.mark.parametrize("prompts", [[[1], []], [[1], [2] * 200]])
def test_prompts_without_room_are_refused(prompts):
    sizes = sorted({len(prompt) for prompt in prompts})
    with pytest.raises(ValueError, match=rf"prompts must have 1 to 199 tokens, got \[{sizes[0]}, {sizes[1]}\]"):
        write_batch(llama(), prompts, 5, Sampling())
