"""A random teacher that writes at once, its source, and a store of the test's own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from compress.artifact import fingerprint_folder
from compress.data.options import Source
from compress.data.written.texts import Teacher
from tests.models.tiny_decoder import make_torch_folder

CHAT = (
    "{% for turn in messages %}[{{ turn.role }}] {{ turn.content }}</s>{% endfor %}"
    "{% if add_generation_prompt %}[assistant] {% endif %}"
)
STORIES = "The red fox ran to the barn.\n--\nA blue bird sang in the tree.\n--\nTom gave the ball to Mia."


def make_teacher(folder: Path, chat: bool = False) -> Teacher:
    make_torch_folder(folder)
    if chat:
        settings = json.loads((folder / "tokenizer_config.json").read_text())
        (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"chat_template": CHAT}))
    return Teacher(folder, fingerprint_folder(folder))


def stories(folder: Path) -> dict[str, Any]:
    file = folder / "stories.txt"
    if not file.exists():
        file.write_text(STORIES)
    return {"files": [str(file)], "separator": "--"}


def make_source(prompts: dict[str, Any], **options: Any) -> Source:
    given = {"from": "teacher", "prompts": prompts, "new_tokens": 12, "sampling": {"batch": 4}, "filters": []}
    return Source.model_validate_json(json.dumps(given | options))
