"""What can be said of teacher and start before they are loaded: from the names of files, config.json and the tokenizer's."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compress.artifact import sha256_of
from compress.errors import ArtifactError
from compress.models.folder import SpecialIds, read_config, special_ids, weight_files
from compress.models.options import StudentOptions, TeacherOptions
from compress.models.origin import local_folder, peek_config
from compress.models.vocabulary import VocabularyMap, lost_words, read_map
from compress.overrides import is_folder
from compress.recipe import Recipe

Config = dict[str, Any]
_CODES = "quantization.safetensors"
_ONNX = "model.onnx"
_BIN = "pytorch_model*.bin"


@dataclass(frozen=True)
class Origin:
    """Teacher or start. No folder: a hub model, or random weights. No config: it is not known here. A map: its vocabulary
    was cut."""

    part: str
    config: Config | None = None
    folder: Path | None = None
    map: VocabularyMap | None = None

    @property
    def quantized(self) -> bool:
        """Whether the folder holds codes."""
        return self.folder is not None and (self.folder / _CODES).is_file()


def look_at(recipe: Recipe, notes: list[str]) -> dict[str, Origin]:
    """Return `teacher` and `start`; what is wrong with them goes into the recipe's document, what is not known into notes."""
    head = recipe.head
    teacher = _origin(recipe, "teacher", head.teacher, notes) if head.teacher else Origin("teacher")
    student = head.student
    if "student" in recipe.broken or ("teacher" in recipe.broken and student.init):
        start = Origin("student")
    elif student.init == "teacher":
        start = teacher
    elif student.init == "scratch":
        vocabulary = student.vocab or (teacher.config or {}).get("vocab_size")
        config = scratch_config(student, vocabulary) if vocabulary else None
        start = Origin("student", config) if student.vocab else Origin("student", config, teacher.folder, teacher.map)
    else:
        start = _origin(recipe, "student", student, notes)
    return {"teacher": teacher, "start": start}


def _origin(recipe: Recipe, part: str, options: TeacherOptions | StudentOptions, notes: list[str]) -> Origin:
    document = recipe.document
    builtin = options.builtin if isinstance(options, TeacherOptions) else None
    path = (part, "builtin" if builtin else "model")
    if path in document.unread:
        return Origin(part)
    folder = local_folder(options.model, builtin) if builtin or is_folder(Path(str(options.model))) else None
    if folder is None:
        config = peek_config(options.model, options.revision)
        if config is None:
            notes.append(
                f"{part}: {options.model} is no folder, so it is a model of the hub; its config.json cannot be read now, "
                "and what depends on it was not checked"
            )
        return Origin(part, config)
    if options.revision:
        document.complain((part, "revision"), f"{part}.revision is for models of the hub; {folder} is a folder")
    config, cut = None, None
    try:
        config, cut = read_config(folder), read_map(folder)
        for problem in _missing_files(folder):
            document.complain(path, f"{part}.{path[1]}: {problem}")
    except ArtifactError as error:
        document.complain(path, f"{part}.{path[1]}: {error}")
    return Origin(part, config, folder, cut)


def _missing_files(folder: Path) -> Iterator[str]:
    """Yield what keeps a folder with a config.json from being a model to start from."""
    save = "AutoModelForCausalLM.from_pretrained(folder).save_pretrained(folder)"
    if not any(folder.glob("model*.safetensors")) and (folder / _ONNX).is_file():
        yield f"{folder}: this is an ONNX folder; a recipe starts from a torch folder (model.safetensors)"
    elif not any(folder.glob("model*.safetensors")) and any(folder.glob(_BIN)):
        yield f"{folder}: the weights are there as .bin only; save them as safetensors: {save}"
    else:
        try:
            weight_files(folder)
        except ArtifactError as error:
            yield str(error)
        yield from _missing_shards(folder)
    if not (folder / "tokenizer.json").is_file():
        yield (
            f"{folder}: no tokenizer.json there; save the tokenizer in the fast format: "
            "AutoTokenizer.from_pretrained(folder).save_pretrained(folder)"
        )


def _missing_shards(folder: Path) -> Iterator[str]:
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        yield f"{index}: not readable ({error}); copy the model again"
        return
    if missing := [name for name in names if not (folder / name).is_file()]:
        yield f"{folder}: {', '.join(missing)} of {index.name} is missing; copy the model again"


def scratch_config(student: StudentOptions, vocabulary: int) -> Config:
    """Return the config that `init: scratch` will write, as far as checks ask for it."""
    heads = student.heads or 1
    return {
        "model_type": "llama",
        "vocab_size": vocabulary,
        "hidden_size": student.hidden,
        "intermediate_size": student.ffn,
        "num_hidden_layers": student.layers,
        "num_attention_heads": heads,
        "num_key_value_heads": student.kv_heads or heads,
        "head_dim": (student.hidden or heads) // heads,
        "max_position_embeddings": student.context or 512,
        "tie_word_embeddings": True,
        "hidden_act": "silu",
    }


def different_tokenizers(recipe: Recipe, origins: dict[str, Origin]) -> str:
    """Return how the tokenizers of teacher and start differ; empty where they do not, or where that is not known."""
    if recipe.head.student.vocab:
        return "student.vocab makes a tokenizer of its own, but distill needs the teacher's; leave student.vocab out"
    folders = [origin.folder for origin in origins.values() if origin.folder is not None]
    files = [folder / "tokenizer.json" for folder in folders]
    if len(files) < 2 or not all(file.is_file() for file in files):
        return ""
    digests, cut = [sha256_of(file) for file in files], origins["start"].map
    known = {digests[0], *([origins["teacher"].map.tokenizer_sha256] if origins["teacher"].map else [])}
    if digests[0] == digests[1] or (cut is not None and cut.tokenizer_sha256 in known):
        return ""
    return f"teacher and student have different tokenizers ({files[0]}, {files[1]}); distill needs the same one"


def lost_tokens(origins: dict[str, Origin], tokens: int) -> str:
    """Return what to say of a cut teacher without some of the `tokens` of a student that is no smaller than the start; else
    nothing: which tokens a smaller one keeps is not known here."""
    student, teacher = origins["start"].map, origins["teacher"].map
    if student is None or teacher is None or len(student.kept) != tokens:
        return ""
    return lost_words(student, teacher)


def special_tokens(folder: Path) -> SpecialIds | None:
    """Return which special tokens a folder declares; None where its files cannot be read."""
    try:
        return special_ids(folder)
    except (ArtifactError, ValueError):
        return None


def has_chat_template(folder: Path) -> bool:
    """Say whether the tokenizer of a folder brings a chat template."""
    if (folder / "chat_template.jinja").is_file():
        return True
    try:
        settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return bool(isinstance(settings, dict) and settings.get("chat_template"))
