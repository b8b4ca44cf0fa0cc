"""Distill: nearer to the teacher, resumed like a straight run, refused where tokens mean something else."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer, models

from compress.distill import stage, stored
from compress.distill.on_policy import OnPolicy
from compress.distill.options import HIDDEN_WEIGHT, DistillOptions
from compress.errors import StageError
from compress.models.folder import load_model, save_model
from compress.models.vocabulary import VocabularyMap, map_after, read_map
from compress.train.options import TrainOptions
from compress.train.stage import run as train
from compress.training import trainer
from compress.training.losses import UNCOUNTED
from compress.training.objective import Batch
from compress.training.windows import WindowSequence, load_examples
from tests.references.distillation import slow_hidden_cosine, slow_hidden_mse
from tests.references.training import slow_cross_entropy, slow_forward_kl
from tests.training.tiny_fit import LENGTH, Data, context, hashes, trained_model, write_model

OPTIONS = DistillOptions(
    tokens=40 * 4 * LENGTH, length=LENGTH, batch=4, checkpoints=4, learning_rate=5e-3, loss="forward_kl"
)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    return trained_model(tmp_path_factory.mktemp("teacher"))


@pytest.fixture(scope="module")
def student(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("student") / "source", seed=5, layers=1)


def logits_of(folder, ids):
    with torch.no_grad():
        return load_model(folder)(input_ids=torch.from_numpy(ids)).logits[:, :-1].numpy()


def kl(folder, teacher, data):
    ids, _ = data("validation", folder).windows(LENGTH)
    counted = np.ones((len(ids), LENGTH - 1), dtype=bool)
    return slow_forward_kl(logits_of(folder, ids), logits_of(teacher, ids), counted, 1.0) / counted.size


def test_distill_lowers_kl_to_the_teacher(teacher, student, tmp_path):
    data = Data()
    outcome = stage.run(OPTIONS, context(tmp_path, student, data, teacher=teacher))
    before, after = kl(student, teacher, data), kl(tmp_path / "target", teacher, data)
    assert after < before / 2.5
    assert outcome.facts["last_loss"] < outcome.facts["first_loss"] / 2
    last = [json.loads(line) for line in (tmp_path / "target" / "log.jsonl").read_text().splitlines()][-1]
    assert last["validation_forward_kl"] == pytest.approx(after, rel=1e-4)
    assert last["validation_loss"] == last["validation_forward_kl"]
    assert "validation_cross_entropy" in last


def test_the_default_loss_follows_from_the_student(teacher, student, tmp_path, monkeypatch):
    """What was trained has states of its own to match; a fresh student and a store have none."""
    monkeypatch.setenv("COMPRESS_CACHE", str(tmp_path / "cache"))
    asked = OPTIONS.model_copy(update={"loss": None, "tokens": 4 * LENGTH})

    def loss_of(name, source, **changes):
        options = asked.model_copy(update=changes)
        return stage.run(options, context(tmp_path / name, source, teacher=teacher)).facts["loss"]

    assert loss_of("trained", teacher) == {"forward_kl": 1.0, "hidden_mse": HIDDEN_WEIGHT}
    # one that learned the same language by itself has other states, of the same width
    alone = write_model(tmp_path / "alone", seed=9)
    train(
        TrainOptions(tokens=60 * 4 * LENGTH, length=LENGTH, batch=4, checkpoints=0, learning_rate=1e-2),
        context(tmp_path / "by-itself", alone),
    )
    assert loss_of("other", tmp_path / "by-itself" / "target") == {"forward_kl": 1.0}
    assert loss_of("fresh", student) == {"forward_kl": 1.0}
    assert loss_of("stored", teacher, teacher_logits="stored") == {"forward_kl": 1.0}
    assert loss_of("named", teacher, loss="reverse_kl") == {"reverse_kl": 1.0}


def test_options_that_would_do_nothing_are_refused(teacher, tmp_path):
    learn = OPTIONS.model_copy(update={"zero_points": "learn"})
    with pytest.raises(
        StageError, match=r"zero_points: learn needs a model quantized with symmetric: false, and .* is not"
    ):
        stage.run(learn, context(tmp_path, teacher, teacher=teacher))
    plain = OPTIONS.model_copy(update={"loss": "reverse_kl", "layers": ((0, 0),)})
    with pytest.raises(StageError, match="layers is for losses of hidden states and attention, and none is meant here"):
        stage.run(plain, context(tmp_path / "layers", teacher, teacher=teacher))


def test_kl_of_validation_is_at_temperature_1(teacher, student, tmp_path):
    data = Data()
    options = OPTIONS.model_copy(update={"temperature": 3.0, "tokens": 8 * 4 * LENGTH})
    stage.run(options, context(tmp_path, student, data, teacher=teacher))
    last = [json.loads(line) for line in (tmp_path / "target" / "log.jsonl").read_text().splitlines()][-1]
    assert last["validation_forward_kl"] == pytest.approx(kl(tmp_path / "target", teacher, data), rel=1e-4)
    assert last["validation_loss"] != pytest.approx(last["validation_forward_kl"], rel=1e-2)


def first_batch(ctx, options):
    examples = load_examples(ctx, options)
    batch = [WindowSequence(examples, options.batch, 0)[index] for index in range(options.batch)]
    return [torch.stack([entry[name] for entry in batch]) for name in ("input_ids", "labels")]


def states_of(folder, ids):
    with torch.no_grad():
        return [each.numpy() for each in load_model(folder)(input_ids=ids, output_hidden_states=True).hidden_states]


def test_distilberts_three_losses_are_one_line(teacher, student, tmp_path):
    """The student has one layer and the teacher two: last to last."""
    loss = {"forward_kl": 5.0, "cross_entropy": 2.0, "hidden_cosine": 1.0}
    options = OPTIONS.model_copy(update={"loss": loss, "temperature": 2.0, "tokens": 4 * LENGTH})
    ctx = context(tmp_path, student, Data(counted=0.6), teacher=teacher)
    stage.run(options, ctx)
    log = json.loads((tmp_path / "target" / "log.jsonl").read_text().splitlines()[0])
    ids, labels = first_batch(ctx, options)
    targets = labels[:, 1:].numpy()
    counted = targets != UNCOUNTED
    rows = [states[-1][:, :-1][counted] for states in (states_of(student, ids), states_of(teacher, ids))]
    own, other = logits_of(student, ids.numpy()), logits_of(teacher, ids.numpy())
    expected = {
        "forward_kl": slow_forward_kl(own, other, counted, 2.0),
        "cross_entropy": slow_cross_entropy(own, targets, UNCOUNTED),
        "hidden_cosine": slow_hidden_cosine(*rows),
    }
    for name, value in expected.items():
        assert log[name] == pytest.approx(value / counted.sum(), rel=1e-4), name
    assert log["loss"] == pytest.approx(sum(loss[name] * log[name] for name in loss), rel=1e-5)


@pytest.mark.parametrize("name", ["hidden_mse", "attention", "value_relation", "reverse_kl", "jensen_shannon"])
def test_every_loss_falls_and_nothing_of_it_stays_in_the_folder(teacher, tmp_path, name):
    """The student is narrower, so that hidden states need a projection, learned beside it."""
    student = write_model(tmp_path / "narrow", seed=5, hidden=24, ffn=32)
    options = OPTIONS.model_copy(update={"loss": name, "tokens": 24 * 4 * LENGTH, "warmup": 0.0})
    facts = stage.run(options, context(tmp_path / "run", student, teacher=teacher)).facts
    assert facts["last_loss"] < 0.8 * facts["first_loss"]
    assert load_model(tmp_path / "run" / "target").config.hidden_size == 24
    saved = load_file(tmp_path / "run" / "target" / "model.safetensors")
    assert {key.split(".")[0] for key in saved} == {"model"}


def test_layers_are_those_that_the_recipe_names(teacher, student, tmp_path):
    options = OPTIONS.model_copy(update={"loss": "hidden_mse", "layers": ((0, 0),), "tokens": 4 * LENGTH})
    ctx = context(tmp_path, student, teacher=teacher)
    found = stage.run(options, ctx).facts["first_loss"]
    ids, _ = first_batch(ctx, options)
    # behind the student's only layer stands its last norm
    own, other = states_of(student, ids)[1][:, :-1], states_of(teacher, ids)[1][:, :-1]
    flat = [each.reshape(-1, each.shape[-1]) for each in (own, other)]
    assert found == pytest.approx(slow_hidden_mse(*flat) / len(flat[0]), rel=1e-4)
    wrong = options.model_copy(update={"layers": ((1, 0),)})
    with pytest.raises(StageError, match=r"^distill: layers has the pair \[1, 0\], but the student has 1 layers"):
        stage.run(wrong, context(tmp_path / "wrong", student, teacher=teacher))


def test_a_stored_teacher_teaches_like_the_live_one_and_is_asked_once(teacher, student, tmp_path, monkeypatch):
    monkeypatch.setenv("COMPRESS_CACHE", str(tmp_path / "cache"))
    live = stage.run(OPTIONS, context(tmp_path / "live", student, teacher=teacher)).facts
    # every token of this vocabulary is kept: nothing is estimated
    options = OPTIONS.model_copy(update={"teacher_logits": "stored", "top_k": 60})
    facts = stage.run(options, context(tmp_path / "a", student, teacher=teacher)).facts
    assert facts["first_loss"] == pytest.approx(live["first_loss"], rel=0.01)
    assert facts["validation_loss"] == pytest.approx(live["validation_loss"], rel=0.1)
    monkeypatch.setattr(stored, "load_model", lambda *_: pytest.fail("the teacher was asked again"))
    again = stage.run(options, context(tmp_path / "b", student, teacher=teacher)).facts
    assert again == facts
    few = options.model_copy(update={"top_k": 20})
    monkeypatch.undo()
    monkeypatch.setenv("COMPRESS_CACHE", str(tmp_path / "cache"))
    estimated = stage.run(few, context(tmp_path / "c", student, teacher=teacher)).facts
    assert estimated["validation_loss"] == pytest.approx(live["validation_loss"], rel=0.2, abs=0.02)


def test_on_policy_text_is_the_students_and_only_that_counts(teacher, student):
    writer = OnPolicy(1.0, seed=3, ends=(2,))
    model = load_model(student)
    ids = torch.arange(64).view(4, 16) % 57 + 3
    batch = Batch(ids, ids[:, 1:].clone(), torch.arange(4), step=5)
    written = writer.prepare(model, batch)
    assert torch.equal(written.ids[:, :4], ids[:, :4])
    assert not torch.equal(written.ids, ids)
    assert bool((written.targets[:, :3] == UNCOUNTED).all())
    counted = written.targets != UNCOUNTED
    assert torch.equal(written.targets[counted], written.ids[:, 1:][counted])
    assert bool(counted[:, 3].all())
    again = writer.prepare(model, batch)
    assert torch.equal(again.ids, written.ids)
    assert not torch.equal(writer.prepare(model, dataclasses.replace(batch, step=6)).ids, written.ids)
    assert writer.prepare(model, dataclasses.replace(batch, part="validation")).ids is ids


def test_a_masked_prompt_is_the_prompt_of_on_policy_text(student):
    writer = OnPolicy(1.0, seed=3, ends=())
    ids = torch.arange(32).view(2, 16) % 57 + 3
    targets = ids[:, 1:].clone()
    targets[0, :9] = UNCOUNTED
    written = writer.prepare(load_model(student), Batch(ids, targets, torch.arange(2)))
    assert torch.equal(written.ids[0, :10], ids[0, :10])
    assert torch.equal(written.ids[1, :4], ids[1, :4])
    counted = written.targets != UNCOUNTED
    assert counted.sum(1).tolist() == [6, 12]
    assert written.written


def test_cross_entropy_is_not_learned_from_the_students_own_text(teacher, student, tmp_path):
    options = OPTIONS.model_copy(
        update={"loss": {"forward_kl": 1.0, "cross_entropy": 1.0}, "on_policy": 1.0, "tokens": 2 * 4 * LENGTH}
    )
    stage.run(options, context(tmp_path, student, teacher=teacher))
    first = json.loads((tmp_path / "target" / "log.jsonl").read_text().splitlines()[0])
    assert "cross_entropy" not in first
    assert first["loss"] == pytest.approx(first["forward_kl"], rel=1e-5)


def test_the_share_of_on_policy_steps(teacher, student, tmp_path):
    steps = [OnPolicy(0.25, seed=0, ends=()).chosen(step) for step in range(2000)]
    assert 0.22 < sum(steps) / 2000 < 0.28
    assert not any(OnPolicy(0.0, seed=0, ends=()).chosen(step) for step in range(100))
    options = OPTIONS.model_copy(update={"loss": "reverse_kl", "on_policy": 0.5, "tokens": 16 * 4 * LENGTH})
    outcome = stage.run(options, context(tmp_path / "a", student, teacher=teacher))
    assert outcome.facts["last_loss"] < outcome.facts["first_loss"]
    stage.run(options, context(tmp_path / "b", student, teacher=teacher))
    assert hashes(tmp_path / "a" / "target") == hashes(tmp_path / "b" / "target")


@pytest.mark.parametrize("loss", ["forward_kl", "cross_entropy", {"forward_kl": 0.7, "cross_entropy": 0.3}])
def test_the_first_loss_is_the_mix_that_was_asked_for(teacher, student, tmp_path, loss):
    options = OPTIONS.model_copy(update={"loss": loss, "temperature": 2.0, "tokens": 4 * LENGTH})
    ctx = context(tmp_path, student, Data(counted=0.6), teacher=teacher)
    outcome = stage.run(options, ctx)
    examples = load_examples(ctx, options)
    batch = [WindowSequence(examples, 4, 0)[index] for index in range(4)]
    ids = torch.stack([entry["input_ids"] for entry in batch]).numpy()
    targets = torch.stack([entry["labels"] for entry in batch]).numpy()[:, 1:]
    counted = targets != UNCOUNTED
    own, other = logits_of(student, ids), logits_of(teacher, ids)
    terms = {
        "forward_kl": slow_forward_kl(own, other, counted, 2.0),
        "cross_entropy": slow_cross_entropy(own, targets, UNCOUNTED),
    }
    expected = sum(weight * terms[name] for name, weight in options.weights().items()) / counted.sum()
    assert outcome.facts["first_loss"] == pytest.approx(expected, rel=1e-5)


def test_a_student_that_is_the_teacher_begins_at_zero(teacher, tmp_path):
    options = OPTIONS.model_copy(update={"loss": "forward_kl", "tokens": 8 * 4 * LENGTH})
    outcome = stage.run(options, context(tmp_path, teacher, teacher=teacher))
    assert outcome.facts["first_loss"] == pytest.approx(0, abs=1e-6)
    assert outcome.facts["validation_loss"] < 0.1  # AdamW makes steps of rounding errors


def test_the_teacher_is_in_eval_mode_without_gradients_and_unchanged(teacher, student, tmp_path, monkeypatch):
    loaded, forward = [], []
    original = stage.load_model

    def watched(folder, device="cpu"):
        model = original(folder, device)
        loaded.append(model)
        if folder == teacher:
            model.base_model.register_forward_hook(
                lambda module, args, output: forward.append((module.training, output.last_hidden_state.requires_grad))
            )
        return model

    monkeypatch.setattr(stage, "load_model", watched)
    before = hashes(teacher)
    stage.run(OPTIONS.model_copy(update={"tokens": 8 * 4 * LENGTH}), context(tmp_path, student, teacher=teacher))
    assert set(forward) == {(False, False)}
    assert all(parameter.grad is None for parameter in loaded[0].parameters())
    assert hashes(teacher) == before


def test_cross_entropy_alone_asks_no_teacher(teacher, student, tmp_path, monkeypatch):
    monkeypatch.setattr(stage, "load_model", lambda *_: pytest.fail("the teacher was loaded"))
    options = OPTIONS.model_copy(update={"loss": "cross_entropy", "tokens": 4 * LENGTH})
    outcome = stage.run(options, context(tmp_path, student, teacher=teacher))
    assert outcome.facts["steps"] == 1


def test_a_resume_equals_a_straight_run(teacher, student, tmp_path, monkeypatch):
    class StopError(BaseException):
        pass

    original, whole = trainer.seal, []

    def seal(checkpoint, keep=None):
        if whole:
            raise StopError
        original(checkpoint, keep)
        whole.append(checkpoint)

    with monkeypatch.context() as patch:
        patch.setattr(trainer, "seal", seal)
        with pytest.raises(StopError):
            stage.run(OPTIONS, context(tmp_path / "a", student, teacher=teacher))
    stage.run(OPTIONS, context(tmp_path / "a", student, teacher=teacher))
    stage.run(OPTIONS, context(tmp_path / "b", student, teacher=teacher))
    assert hashes(tmp_path / "a" / "target") == hashes(tmp_path / "b" / "target")


KEPT = [0, 1, 2, *range(5, 60, 2)]
BEGINS = [KEPT.index(index) if index in KEPT else index % 7 if index < 50 else -1 for index in range(60)]


def cut_student(teacher, folder, kept):
    """Write the teacher with the tokens `kept` alone, and the map of them."""
    model = load_model(teacher)
    rows = model.get_input_embeddings().weight.data[kept].clone()
    model.resize_token_embeddings(len(kept))
    model.get_input_embeddings().weight.data.copy_(rows)
    save_model(model, folder, teacher)
    words = {f"w{index}": place for place, index in enumerate(kept)}
    Tokenizer(models.WordLevel(words, unk_token="w0")).save(str(folder / "tokenizer.json"))
    map_after(teacher, kept, BEGINS).write(folder)
    return folder


def test_a_student_with_fewer_tokens_learns_from_the_teachers_columns(teacher, tmp_path):
    kept = KEPT
    student = cut_student(teacher, tmp_path / "cut", kept)
    data = Data()
    for name, part in data.parts.items():
        data.parts[name] = dataclasses.replace(part, ids=part.ids % len(kept))
    options = OPTIONS.model_copy(update={"loss": "forward_kl", "tokens": 4 * LENGTH, "learning_rate": 1e-9})
    stage.run(options, context(tmp_path / "a", student, data, teacher=teacher))
    assert read_map(tmp_path / "a" / "target") == read_map(student)

    other = cut_student(write_model(tmp_path / "other", seed=7), tmp_path / "other-cut", kept)
    options = options.model_copy(update={"temperature": 2.0})
    ctx = context(tmp_path / "b", other, data, teacher=teacher)
    found = stage.run(options, ctx).facts["first_loss"]
    examples = load_examples(ctx, options)
    ids = torch.stack([WindowSequence(examples, 4, 0)[index]["input_ids"] for index in range(4)]).numpy()
    counted = np.ones((4, LENGTH - 1), dtype=bool)
    chances = np.exp(logits_of(teacher, np.array(kept)[ids]).astype(np.float64) / 2.0)
    gathered = np.zeros((*chances.shape[:-1], len(kept)))
    for index, begin in enumerate(BEGINS):
        gathered[..., begin] += chances[..., index] * (begin >= 0)
    asked = 2.0 * np.log(gathered)
    assert found == pytest.approx(slow_forward_kl(logits_of(other, ids), asked, counted, 2.0) / counted.sum(), rel=1e-5)


def test_other_tokens_are_refused_before_any_weight_is_loaded(teacher, student, tmp_path, monkeypatch):
    for name in ("load_model", "open_student"):
        monkeypatch.setattr(stage, name, lambda *_, **__: pytest.fail("weights were loaded"))
    with pytest.raises(StageError, match="distill needs a teacher, the recipe has none; add teacher"):
        stage.run(OPTIONS, context(tmp_path, student))
    other = write_model(tmp_path / "other", vocabulary=61)
    with pytest.raises(StageError, match=r"^distill: teacher and student have different tokenizers: "):
        stage.run(OPTIONS, context(tmp_path, other, teacher=teacher))
    text = (other / "tokenizer.json").read_text()
    same_size = write_model(tmp_path / "same-size")
    (same_size / "tokenizer.json").write_text(text)
    with pytest.raises(StageError, match="teacher and student have different tokenizers: "):
        stage.run(OPTIONS, context(tmp_path, same_size, teacher=teacher))
    VocabularyMap("0" * 64, 60, tuple(range(60)), tuple(range(60))).write(same_size)
    with pytest.raises(
        StageError, match=r"^distill: the student's vocabulary was cut from another one than the teacher's"
    ):
        stage.run(OPTIONS, context(tmp_path, same_size, teacher=teacher))
