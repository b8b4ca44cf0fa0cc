"""The bars of distill's losses, minutes long: `make bars`."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time

import pytest
import torch
from torch import nn

from compress.distill.losses import forward_kl
from compress.models.head import Tail
from compress.training.chunked import chunked_loss

pytestmark = pytest.mark.slow

GIBIBYTE = 2**30


def measured(folder, way, loss="forward_kl"):
    """Return by how many bytes the peak of a process of its own grows in one loss with its gradients, how many the head's
    gradient takes, and the gradients."""
    saved = folder / f"{way}.pt"
    ran = subprocess.run(
        [sys.executable, "-c", CODE, way, loss, str(saved)], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout.splitlines()[-1]), torch.load(saved)


# The gradients of the parameters are there before the first reading, and in the chunked way once more while it runs: that
# copy is the gradient itself, which the optimizer's own buffer would take, and is not counted.
CODE = """
import json, sys
import torch
from torch import nn
from compress.distill import losses
from compress.models.head import Tail
from compress.training.chunked import chunked_loss

way, name, saved = sys.argv[1:]
loss = getattr(losses, name)
B, T, V, D = 4, 512, 151_936, 64
torch.manual_seed(0)
hidden, wanted = torch.randn(B * T, D, requires_grad=True), torch.randn(B * T, D)
tail, teacher = Tail(nn.Linear(D, V, bias=False)), Tail(nn.Linear(D, V, bias=False).requires_grad_(False))


def rows_loss(logits, part):
    value = loss(logits, teacher(wanted[part]))
    return value, {name: value}


def peak():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM"))


rows_loss(tail(hidden[:8]), slice(0, 8))[0].backward()
for leaf in (hidden, tail.weight):
    leaf.grad.zero_()
before = peak()
if way == "plain":
    total = rows_loss(tail(hidden), slice(None))[0]
else:
    total = chunked_loss(hidden, tail, rows_loss)[0]
(total / (B * T)).backward()
print(json.dumps({"extra": peak() - before, "gradient": 4 * V * D}))
torch.save([hidden.grad, tail.weight.grad], saved)
"""


def test_a_loss_of_2048_tokens_over_151936_takes_less_than_one_gibibyte(tmp_path):
    (plain, expected), (chunked, found) = (measured(tmp_path, way) for way in ("plain", "chunked"))
    print({"plain": plain, "chunked": chunked})
    assert plain["extra"] > 4 * GIBIBYTE
    assert chunked["extra"] - chunked["gradient"] < GIBIBYTE
    for own, other in zip(found, expected, strict=True):
        assert float((own - other).norm() / other.norm()) < 1e-5


def test_the_largest_of_the_losses_does_so_too(tmp_path):
    found, _ = measured(tmp_path, "chunked", "jensen_shannon")
    print(found)
    assert found["extra"] - found["gradient"] < GIBIBYTE


@pytest.mark.parametrize(("vocabulary", "width", "rows"), [(4096, 192, 2048), (50_257, 384, 512)])
def test_chunks_cost_no_time(vocabulary, width, rows):
    """Medians of interleaved runs, in seconds of processor time."""
    torch.manual_seed(0)
    hidden, wanted = torch.randn(rows, width, requires_grad=True), torch.randn(rows, width)
    tail = Tail(nn.Linear(width, vocabulary, bias=False))
    teacher = Tail(nn.Linear(width, vocabulary, bias=False).requires_grad_(False))

    def rows_loss(logits, part):
        value = forward_kl(logits, teacher(wanted[part]))
        return value, {"forward_kl": value}

    ways = {
        "plain": lambda: rows_loss(tail(hidden), slice(None))[0],
        "chunked": lambda: chunked_loss(hidden, tail, rows_loss)[0],
    }
    seconds = {name: [] for name in ways}
    for _ in range(9):
        for name, way in ways.items():
            begun = time.process_time()
            way().backward()
            seconds[name].append(time.process_time() - begun)
    medians = {name: statistics.median(found) for name, found in seconds.items()}
    print(vocabulary, medians)
    assert medians["chunked"] <= medians["plain"]
