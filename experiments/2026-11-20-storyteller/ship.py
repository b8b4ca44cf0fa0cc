"""Turn the artifact of recipes/storyteller.yaml into the embedded teacher: fp16 weights, the tokenizer, its recipe and log.

python experiments/2026-11-20-storyteller/ship.py runs/storyteller/torch/storyteller compress/models/storyteller
"""

import shutil
import sys
from pathlib import Path

from compress.models.folder import load_model, save_model

source, target = Path(sys.argv[1]), Path(sys.argv[2])
target.mkdir(parents=True, exist_ok=True)
save_model(load_model(source).half(), target, source)
shutil.copyfile(source / "log.jsonl", target / "log.jsonl")
shutil.copyfile(Path(__file__).parents[2] / "recipes" / "storyteller.yaml", target / "recipe.yaml")
