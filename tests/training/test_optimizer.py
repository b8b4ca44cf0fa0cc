"""Muon and AdamW as one optimizer: the steps of both, one learning rate, one state."""

from __future__ import annotations

import io

import pytest
import torch

from compress.models.folder import load_model
from compress.training.objective import CrossEntropy, Learner
from compress.training.optimizer import MuonWithAdamW, make_optimizer, sort_parameters
from tests.training.tiny_fit import write_model

RATE, DECAY = 1e-2, 0.1


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("models") / "source")


def some_model():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.LayerNorm(16), torch.nn.Linear(16, 4))


def split(model):
    matrices = [one for one in model.parameters() if one.ndim == 2]
    return matrices, [one for one in model.parameters() if one.ndim != 2]


def combined(model):
    matrices, rest = split(model)
    return MuonWithAdamW(matrices, [{"params": rest, "weight_decay": 0.0}], RATE, DECAY)


def apart(model):
    matrices, rest = split(model)
    muon = torch.optim.Muon(matrices, lr=RATE, weight_decay=DECAY, adjust_lr_fn="match_rms_adamw")
    return muon, torch.optim.AdamW(rest, lr=RATE, weight_decay=0.0, betas=(0.9, 0.95))


def learn(model, optimizers, steps, schedule=lambda step: None):
    for step in steps:
        given = torch.randn(5, 8, generator=torch.Generator().manual_seed(step))
        model(given).square().sum().backward()
        schedule(step)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()


def check_equal(one, other):
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_it_steps_as_the_two_do_apart_and_hears_a_schedule():
    one, other = some_model(), some_model()
    whole, parts = combined(one), apart(other)

    def slower(optimizers):
        def schedule(step):
            for optimizer in optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = RATE / (step + 1)

        return schedule

    learn(one, [whole], range(5), slower([whole]))
    learn(other, parts, range(5), slower(parts))
    check_equal(one, other)


def test_a_state_that_was_saved_goes_on():
    straight, begun = some_model(), some_model()
    learn(straight, [combined(straight)], range(5))
    optimizer = combined(begun)
    learn(begun, [optimizer], range(2))
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    resumed = some_model()
    resumed.load_state_dict(begun.state_dict())
    again = combined(resumed)
    again.load_state_dict(torch.load(file, weights_only=True))
    learn(resumed, [again], range(2, 5))
    check_equal(resumed, straight)


def test_it_is_one_optimizer_for_whatever_saves_and_exchanges_parameters():
    model = some_model()
    optimizer = combined(model)
    learn(model, [optimizer], range(1))
    assert len(optimizer.state_dict()["state"]) == len(list(model.parameters()))
    assert {len(group["params"]) for group in optimizer.param_groups} == {2, 4}
    replaced = [torch.nn.Parameter(one.detach().clone()) for one in optimizer.param_groups[0]["params"]]
    before = [one.detach().clone() for one in replaced]
    optimizer.param_groups[0]["params"] = replaced
    for one in replaced:
        one.grad = torch.ones_like(one)
    optimizer.step()
    assert all(not torch.equal(one, was) for one, was in zip(replaced, before, strict=True))


def test_embedding_head_and_norms_are_left_to_adamw(source):
    model = load_model(source)
    learner = Learner(model, CrossEntropy())
    matrices, others, grid = sort_parameters(learner)
    names = {id(one): name for name, one in model.named_parameters()}
    assert {names[id(one)].rsplit(".", 2)[-2] for one in matrices} == {
        *("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    }
    assert {one.ndim for one in others} == {1, 2}
    assert [names[id(one)] for one in others if one.ndim == 2] == ["model.embed_tokens.weight"]
    assert grid == []
    assert len(matrices) + len(others) == len(names)


def test_frozen_weights_are_left_out_and_adamw_takes_all(source):
    model = load_model(source)
    model.model.layers[0].requires_grad_(False)
    learner = Learner(model, CrossEntropy())
    optimizer = make_optimizer(learner, "adamw", RATE, DECAY)
    learned = sum(one.requires_grad for one in learner.parameters())
    assert sum(len(group["params"]) for group in optimizer.param_groups) == learned
    assert isinstance(optimizer, torch.optim.AdamW)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [DECAY, 0.0]
    assert isinstance(make_optimizer(learner, "muon", RATE, DECAY), MuonWithAdamW)
