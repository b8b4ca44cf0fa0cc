"""Rewriting: only text that is learned again, only counted tokens that are text, by the teacher's own chances."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from compress.distill import stage
from compress.distill.options import DistillOptions
from compress.distill.rewriting import Rewriter
from compress.distill.teachers import LiveTeacher
from compress.errors import StageError
from compress.models.folder import load_model
from compress.models.vocabulary import TeacherTokens
from compress.training.losses import UNCOUNTED
from compress.training.objective import Batch
from tests.training.tiny_fit import LENGTH, VOCABULARY, Data, context, write_model

OPTIONS = DistillOptions(tokens=8 * LENGTH, length=LENGTH, batch=4, checkpoints=0, loss="forward_kl")
SPECIALS = (1, 2)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("models") / "teacher")


@pytest.fixture(scope="module")
def live(teacher):
    return LiveTeacher(load_model(teacher), None, 1.0)


def batch(rows=64, seed=0, **changes):
    ids = torch.from_numpy(np.random.default_rng(seed).integers(0, VOCABULARY, (rows, LENGTH)))
    targets = ids[:, 1:].clone()
    targets[:, :3] = UNCOUNTED
    made = Batch(ids, targets, torch.arange(rows), "train", 5, again=torch.arange(rows) % 2 == 0)
    return dataclasses.replace(made, **changes)


def test_counted_text_of_windows_that_come_again_is_replaced_and_nothing_else(live):
    given = batch()
    made = Rewriter(0.5, 0, live, SPECIALS).prepare(given)
    changed = made.ids != given.ids
    assert not changed[:, 0].any()
    assert not changed[1::2].any()
    assert not changed[:, 1:][given.targets == UNCOUNTED].any()
    for special in SPECIALS:
        assert not changed[given.ids == special].any()
        assert torch.equal(made.ids == special, given.ids == special)
    possible = (given.targets != UNCOUNTED) & given.again[:, None]
    assert 0.4 < changed[:, 1:][possible].float().mean() < 0.55
    assert torch.equal(made.targets, torch.where(given.targets == UNCOUNTED, given.targets, made.ids[:, 1:]))
    assert torch.equal(given.ids, batch().ids)  # what the data holds stays
    assert made.windows is given.windows
    assert not made.written


def test_what_is_drawn_follows_from_seed_step_and_window_alone(live):
    given, rewriter = batch(), Rewriter(0.5, 0, live, SPECIALS)
    whole = rewriter.prepare(given).ids
    again = Rewriter(0.5, 0, live, SPECIALS).prepare(given).ids
    assert torch.equal(whole, again)
    half = slice(32, None)
    parts = {name: getattr(given, name)[half] for name in ("ids", "targets", "windows", "again")}
    assert torch.equal(rewriter.prepare(dataclasses.replace(given, **parts)).ids, whole[half])
    assert not torch.equal(rewriter.prepare(dataclasses.replace(given, step=6)).ids, whole)
    assert not torch.equal(Rewriter(0.5, 1, live, SPECIALS).prepare(given).ids, whole)


@pytest.mark.parametrize(
    "changes", [{"again": torch.zeros(64, dtype=torch.bool)}, {"again": None}, {"part": "validation"}]
)
def test_text_that_is_new_stays(live, changes):
    given = batch(**changes)
    assert Rewriter(0.5, 0, live, SPECIALS).prepare(given) is given


def test_draws_have_the_teachers_chances(teacher, live):
    ids = torch.from_numpy(np.random.default_rng(3).integers(0, VOCABULARY, (1, LENGTH))).expand(600, LENGTH)
    chosen = torch.zeros(600, LENGTH - 1, dtype=torch.bool)
    chosen[:, 7] = True
    uniform = (torch.arange(600) + 0.5) / 600  # a grid in place of chance: each token comes as often as it is likely
    found = live.draw(ids, chosen, uniform).bincount(minlength=VOCABULARY) / 600
    with torch.no_grad():
        expected = load_model(teacher)(input_ids=ids[:1]).logits[0, 7].softmax(-1)
    assert float((found - expected).abs().max()) < 1.01 / 600


def test_draws_are_tokens_of_a_student_with_fewer(live):
    mapped = LiveTeacher(live.model, TeacherTokens([*range(40)], [*range(40), *[0] * 20]), 1.0)
    ids = torch.from_numpy(np.random.default_rng(3).integers(0, 40, (8, LENGTH)))
    chosen = torch.ones(8, LENGTH - 1, dtype=torch.bool)
    found = mapped.draw(ids, chosen, torch.rand(int(chosen.sum()), generator=torch.Generator().manual_seed(0)))
    assert 0 <= int(found.min()) <= int(found.max()) < 40


def test_the_stage_rewrites_from_the_second_pass_on(teacher, tmp_path, monkeypatch):
    """Each pass is 100 windows of the data, 25 steps."""
    seen, shares = [], []

    class Noted(Rewriter):
        def __init__(self, share, *more):
            shares.append(share)
            super().__init__(share, *more)

        def prepare(self, batch):
            made = super().prepare(batch)
            if batch.part == "train":
                seen.append(bool((made.ids != batch.ids).any()))
            return made

    monkeypatch.setattr(stage, "Rewriter", Noted)
    options = OPTIONS.model_copy(update={"tokens": 120 * LENGTH, "rewrite": 0.2})
    stage.run(options, context(tmp_path, teacher, Data(), teacher=teacher))
    assert shares == [0.2]
    assert seen == [False] * 25 + [True] * 5


def test_draws_do_not_follow_the_temperature_of_the_loss(live):
    tokens = TeacherTokens([*range(40)], [*range(40), *[0] * 20])
    ids = torch.from_numpy(np.random.default_rng(3).integers(0, 40, (8, LENGTH)))
    chosen = torch.ones(8, LENGTH - 1, dtype=torch.bool)
    uniform = torch.rand(int(chosen.sum()), generator=torch.Generator().manual_seed(0))
    found = [LiveTeacher(live.model, tokens, temperature).draw(ids, chosen, uniform) for temperature in (1.0, 4.0)]
    assert torch.equal(*found)


def test_no_draw_has_no_chance(live):
    mapped = LiveTeacher(live.model, TeacherTokens([*range(60), 0, 0], [*range(60)]), 1.0)  # two rows of padding
    ids, chosen = torch.full((1, LENGTH), 5), torch.ones(1, LENGTH - 1, dtype=torch.bool)
    assert int(mapped.draw(ids, chosen, torch.full((LENGTH - 1,), 1 - 2**-26, dtype=torch.float64)).max()) < 60


def test_what_has_no_teacher_to_ask_is_refused():
    with pytest.raises(ValueError, match="rewrite asks the teacher about new text; it needs teacher_logits: live"):
        DistillOptions(tokens=1, rewrite=0.1, teacher_logits="stored")
    with pytest.raises(ValueError, match="rewrite needs a teacher, and cross_entropy alone asks none"):
        DistillOptions(tokens=1, rewrite=0.1, loss="cross_entropy")
    with pytest.raises(ValueError, match="rewrite changes the data's text and on_policy writes other text"):
        DistillOptions(tokens=1, rewrite=0.1, on_policy=0.5)
    with pytest.raises(ValueError, match="rewrite is for text that comes again, and epochs: 1 passes over it once"):
        DistillOptions(epochs=1, rewrite=0.1)


def test_text_that_does_not_come_again_is_refused(teacher, tmp_path):
    options = OPTIONS.model_copy(update={"rewrite": 0.2})
    with pytest.raises(StageError, match="rewrite is for text that comes again, and 128 tokens are less than one pass"):
        stage.run(options, context(tmp_path, teacher, teacher=teacher))
