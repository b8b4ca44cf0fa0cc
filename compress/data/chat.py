"""A model's chat template: from turns to text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jinja2 import TemplateError

from compress.errors import ArtifactError, StageError


class ChatRenderer:
    """A model's chat template; call it with turns, and whether the answer's opening is to follow."""

    def __init__(self, tokenizer: Any) -> None:
        self.template = str(tokenizer.chat_template)
        self._tokenizer = tokenizer

    def __call__(self, messages: list[dict[str, Any]], prompt: bool) -> str:
        """Return the text of the turns.

        Raises StageError where the template refuses them.
        """
        try:
            text: str = self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt)
        except TemplateError as error:
            raise StageError(f"the chat template refuses these messages: {error}") from error
        return text


def chat_renderer(folder: Path) -> ChatRenderer | None:
    """Return the chat template of a folder's tokenizer; None where it has none.

    Raises ArtifactError where the tokenizer does not load.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{folder}: the tokenizer does not load: {error}") from error
    return ChatRenderer(tokenizer) if tokenizer.chat_template else None
