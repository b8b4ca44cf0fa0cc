"""What can be said of teacher and start before they are loaded: from the names of files, config.json and the tokenizer's."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compress.errors import ArtifactError
from compress.models.folder import SpecialIds, read_config, special_ids, weight_files
from compress.models.options import StudentOptions, TeacherOptions
from compress.models.origin import local_folder, peek_config
from compress.models.student import every_config, fresh_config, fresh_problems, llama_config, llama_problems
from compress.models.vocabulary import VocabularyMap, read_map, refuse_cut, teacher_tokens
from compress.overrides import is_folder
from compress.recipe import Recipe

Config = dict[str, Any]
_CODES = "quantization.safetensors"
_ONNX = "model.onnx"
_BIN = "pytorch_model*.bin"
_PADDING = 1024


@dataclass(frozen=True)
class Origin:
    """Teacher or start. No folder: a hub model, or a tokenizer of its own. No config: it is not known here. A map: its vocabulary
    was cut. Made: only the tokenizer is the folder's, the weights are not."""

    part: str
    config: Config | None = None
    folder: Path | None = None
    map: VocabularyMap | None = None
    made: bool = False

    @property
    def quantized(self) -> bool:
        """Whether the folder holds codes."""
        return self.folder is not None and not self.made and (self.folder / _CODES).is_file()


def look_at(recipe: Recipe, notes: list[str]) -> dict[str, Origin]:
    """Return `teacher` and `start`; what is wrong with them goes into the recipe's document, what is not known into notes."""
    head = recipe.head
    teacher = _origin(recipe, "teacher", head.teacher, notes) if head.teacher else Origin("teacher")
    student = head.student
    if "student" in recipe.broken or ("teacher" in recipe.broken and student.init):
        start = Origin("student")
    elif student.init:
        start = _from_teacher(recipe, teacher)
    else:
        start = _origin(recipe, "student", student, notes)
    return {"teacher": teacher, "start": start}


def _from_teacher(recipe: Recipe, teacher: Origin) -> Origin:
    """Return the start that `init` makes; sizes that are not legal go into the document, each at its place."""
    student, document = recipe.head.student, recipe.document
    if student.vocab:
        problems = llama_problems(student)
        config = None if problems else llama_config(student, student.vocab)
    elif student.init == "teacher" and not student.every:
        return teacher
    elif teacher.config is None:
        config, problems = None, []
    elif student.every:
        config, problems = _every(student.every, teacher.config)
    else:
        problems = fresh_problems(student, teacher.config)
        config = None if problems else fresh_config(student, teacher.config)
    for name, words in problems:
        document.complain(("student", name), f"student.{name}: {words}")
    return (
        Origin("student", config)
        if student.vocab
        else Origin("student", config, teacher.folder, teacher.map, made=True)
    )


def _every(every: int, teacher: Config) -> tuple[Config | None, list[tuple[str, str]]]:
    try:
        return every_config(every, teacher), []
    except ValueError as error:
        return None, [("every", str(error))]


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


def different_tokenizers(recipe: Recipe, origins: dict[str, Origin], tokens: int) -> str:
    """Return why the teacher cannot answer for a student of `tokens` tokens that comes from the start; empty where it can, or
    where that is not known."""
    if recipe.head.student.vocab:
        return "student.vocab makes a tokenizer of its own, but distill needs the teacher's; leave student.vocab out"
    teacher, start = origins["teacher"], origins["start"]
    sizes = [(origin.config or {}).get("vocab_size") for origin in (teacher, start)]
    folders = [origin.folder for origin in (teacher, start) if origin.folder is not None]
    if len(folders) < 2 or not all((folder / "tokenizer.json").is_file() for folder in folders):
        return _different_sizes(*sizes)
    if folders[0] == folders[1]:
        return ""
    try:
        if tokens != sizes[1]:
            refuse_cut(*folders)
        else:
            teacher_tokens(*folders)
    except (ValueError, ArtifactError) as error:
        return str(error)
    return ""


def _different_sizes(teacher: int | None, start: int | None) -> str:
    """What is known without the tokenizers: rows may differ by padding, of which there are less than some hundreds."""
    if not teacher or not start or abs(teacher - start) < _PADDING:
        return ""
    return (
        f"the teacher has {teacher} tokens, the student {start}; both need the same tokenizer. Start from the teacher"
    )


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
