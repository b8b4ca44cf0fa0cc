"""Seconds of a forward and backward pass: python step.py FOLDER BATCH LENGTH. Set GOMP_SPINCOUNT or OMP_WAIT_POLICY outside."""

import sys
import time
from pathlib import Path

import torch

from compress.models.folder import load_model

model = load_model(Path(sys.argv[1]))
ids = torch.randint(0, 500, (int(sys.argv[2]), int(sys.argv[3])))
for _ in range(2):
    model(input_ids=ids, labels=ids).loss.backward()
started = time.perf_counter()
for _ in range(10):
    model(input_ids=ids, labels=ids).loss.backward()
print(f"{(time.perf_counter() - started) / 10:.4f} s a step")
