"""Turn the run of recipes/storyteller.yaml into the embedded teacher: fp16 weights, tokenizer, recipe and logs.

OMP_NUM_THREADS=1 compress apply recipes/storyteller.yaml
python experiments/2026-11-20-storyteller/ship.py runs/storyteller compress/models/storyteller
"""

import shutil
import sys
from pathlib import Path

from compress.models.folder import load_model, save_model

run, target = Path(sys.argv[1]), Path(sys.argv[2])
shutil.rmtree(target, ignore_errors=True)
target.mkdir(parents=True)
source = run / "torch" / "storyteller"
save_model(load_model(source).half(), target, source)
shutil.copyfile(run / "torch" / "first-pass" / "log.jsonl", target / "log-first-pass.jsonl")
shutil.copyfile(source / "log.jsonl", target / "log-storyteller.jsonl")
shutil.copyfile(Path(__file__).parents[2] / "recipes" / "storyteller.yaml", target / "recipe.yaml")
