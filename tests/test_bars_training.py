"""The bars of training's speed: `make bars`; the first needs COMPRESS_ASSETS."""

from __future__ import annotations

import statistics
import time

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from compress.contract import Context
from compress.distill.objective import Distillation
from compress.distill.options import DistillOptions
from compress.distill.stored import open_stores
from compress.distill.teachers import LiveTeacher, StoredTeacher
from compress.models.folder import load_model
from compress.training.loop import fit
from compress.training.objective import Batch, Learner
from compress.training.optimizer import make_optimizer
from compress.training.windows import Examples, WindowSequence, stack

pytestmark = pytest.mark.slow

LENGTH, BATCH = 256, 8
# SmolLM2-135M's shape.
SHAPE_135M = {
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "vocab_size": 49152,
    "tie_word_embeddings": True,
}


def examples(vocabulary):
    ids = np.random.default_rng(0).integers(0, vocabulary, (64, LENGTH))
    none = ids[:0]
    return Examples(ids, np.ones_like(ids, dtype=bool), none, none.astype(bool))


def options(steps, precision="fp32"):
    return DistillOptions(
        tokens=steps * BATCH * LENGTH,
        length=LENGTH,
        batch=BATCH,
        checkpoints=0,
        precision=precision,
        learning_rate=1e-4,
    )


def objective(asked, teacher):
    """The teacher in the number format that the stage gives it."""
    teacher = teacher.to(torch.bfloat16) if asked.precision == "bf16" else teacher
    return Distillation(asked, LiveTeacher(teacher, None, 1.0))


def product(student, teacher, asked, folder):
    """Return the tokens per second of the product's loop, the first step left out."""
    return timed(student, objective(asked, teacher), asked, folder)


def timed(student, goal, asked, folder):
    folder.mkdir()
    times = []
    context = Context(folder, folder, folder, 0, progress=lambda *_, **__: times.append(time.perf_counter()))
    fit(student, examples(student.config.vocab_size), asked, goal, context)
    return BATCH * LENGTH * (len(times) - 1) / (times[-1] - times[0])


def bare(student, teacher, asked, steps):
    """Return the tokens per second of a loop with the same maths and nothing else."""
    learner = Learner(student.train(), objective(asked, teacher))
    optimizer = make_optimizer(learner, asked.optimizer or "muon", asked.learning_rate, 0.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    sequence = WindowSequence(examples(student.config.vocab_size), steps * BATCH, 0)
    times = []
    for step in range(steps):
        given = stack([sequence[index] for index in range(step * BATCH, (step + 1) * BATCH)])
        total, _ = learner(Batch(given["input_ids"], given["labels"][:, 1:], given["windows"]))
        (total / (BATCH * (LENGTH - 1))).backward()
        torch.nn.utils.clip_grad_norm_(learner.parameters(), asked.clip)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        times.append(time.perf_counter())
    return BATCH * LENGTH * (len(times) - 1) / (times[-1] - times[0])


def test_tokens_per_second_are_those_of_a_bare_loop(assets, tmp_path):
    folder, steps = assets / "models" / "stories3M", 8
    speeds = {"product": [], "bare": []}
    for turn in range(5):
        asked = options(steps)
        speeds["product"].append(product(load_model(folder), load_model(folder), asked, tmp_path / str(turn)))
        speeds["bare"].append(bare(load_model(folder), load_model(folder), asked, steps))
    print(speeds)
    assert statistics.median(speeds["product"]) >= 0.9 * statistics.median(speeds["bare"])


def test_bf16_is_1_6_times_as_fast_as_fp32_on_the_135_m_shape(tmp_path):
    if not (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()):
        pytest.skip("this CPU has neither AVX512-BF16 nor AMX")
    speeds = {"fp32": [], "bf16": []}
    for turn in range(2):
        for precision, found in speeds.items():
            torch.manual_seed(0)
            student, teacher = (LlamaForCausalLM(LlamaConfig(**SHAPE_135M)).eval() for _ in range(2))
            found.append(product(student, teacher, options(3, precision), tmp_path / f"{turn}-{precision}"))
    print(speeds)
    assert statistics.median(speeds["bf16"]) >= 1.6 * statistics.median(speeds["fp32"])


def llama(layers, hidden, ffn, heads):
    shape = {"num_hidden_layers": layers, "hidden_size": hidden, "intermediate_size": ffn}
    shape |= {"num_attention_heads": heads, "num_key_value_heads": heads // 2, "vocab_size": 8192}
    return LlamaForCausalLM(LlamaConfig(**shape, tie_word_embeddings=True)).eval()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_stored_teacher_of_four_times_the_size_saves_a_quarter_of_the_time(tmp_path, monkeypatch, precision):
    """Medians of interleaved runs; the store is written before."""
    monkeypatch.setenv("COMPRESS_CACHE", str(tmp_path / "cache"))
    torch.manual_seed(0)
    teacher = llama(12, 512, 1376, 8)
    teacher.save_pretrained(tmp_path / "teacher")
    llama(6, 320, 864, 8).save_pretrained(tmp_path / "student")
    sizes = [sum(one.numel() for one in load_model(tmp_path / name).parameters()) for name in ("teacher", "student")]
    assert 3.8 < sizes[0] / sizes[1] < 4.2
    asked, folder = options(6, precision), tmp_path / "student"
    stored = asked.model_copy(update={"teacher_logits": "stored"})
    context = Context(folder, tmp_path / "target", tmp_path / "scratch", 0)
    stores = open_stores(stored, context, tmp_path / "teacher", examples(8192), None)
    speeds = {"live": [], "stored": []}
    for turn in range(5):
        for name, found in speeds.items():
            goal = objective(asked, teacher) if name == "live" else Distillation(stored, StoredTeacher(stores))
            speed = timed(load_model(folder), goal, asked, tmp_path / f"{turn}-{name}")
            found.append(speed)
    print(speeds)
    assert statistics.median(speeds["stored"]) >= 1.3 * statistics.median(speeds["live"])
