"""What can be said of a recipe before any weight is loaded: from config.json, the options and the names of files. No torch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from compress.artifact import sha256_of
from compress.data.options import Windows
from compress.data.sources import expand_files
from compress.errors import ArtifactError, Problem, RecipeError, StageError
from compress.models.options import StudentOptions
from compress.models.origin import local_folder, peek_config
from compress.recipe import Recipe, Step
from compress.stages import STAGES
from compress.training.options import TrainingOptions

Config = dict[str, Any]
_PARTS = ("train", "validation", "calibration", "evaluation")


def check(recipe: Recipe) -> list[str]:
    """Return notes: what could not be checked here, and why.

    Raises RecipeError with every problem found.
    """
    problems, notes = list(_data_problems(recipe)), []
    configs: dict[str, Config | None] = {}
    for name in ("teacher", "start"):
        try:
            configs[name] = _origin_config(recipe, name, configs.get("teacher"))
        except ArtifactError as error:
            problems.append(recipe.problem("teacher" if name == "teacher" else "student", str(error)))
            configs[name] = None
            continue
        if configs[name] is None and (name == "start" or recipe.head.teacher):
            notes.append(f"{name}: the hub cannot be asked now, so what depends on its config.json was not checked")
    quantized: set[str] = set()
    for step in recipe.steps:
        problems += _step_problems(recipe, step, configs, quantized)
    problems += _benchmark_problems(recipe, configs)
    if problems:
        raise RecipeError(problems)
    return list(dict.fromkeys(notes))


def _origin_config(recipe: Recipe, name: str, teacher: Config | None) -> Config | None:
    head = recipe.head
    if name == "teacher":
        return peek_config(head.teacher.model, head.teacher.revision, head.teacher.builtin) if head.teacher else None
    student = head.student
    if student.init == "teacher":
        return teacher
    if student.init == "scratch":
        vocabulary = student.vocab or (teacher or {}).get("vocab_size")
        return scratch_config(student, vocabulary) if vocabulary else None
    return peek_config(student.model, student.revision)


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


def _data_problems(recipe: Recipe) -> Iterator[Problem]:
    for part in _PARTS:
        source = getattr(recipe.head.data, part)
        if source is not None and source.files:
            try:
                expand_files(source)
            except StageError as error:
                yield recipe.problem(f"data.{part}.files", str(error))


def _step_problems(
    recipe: Recipe, step: Step, configs: dict[str, Config | None], quantized: set[str]
) -> Iterator[Problem]:
    """Check one step, and note the config that it will give."""
    config = configs.get(step.source)
    if step.source in quantized and not step.stage.quantized_source:
        takers = ", ".join(word for word, stage in STAGES.items() if stage.quantized_source)
        yield recipe.problem(
            step.where,
            f"{step.where}: '{step.source}' is quantized, and {step.word} would lose its codes; only {takers} takes it",
        )
    if step.word == "quantize":
        quantized.add(step.id)
    after = config
    if config is not None:
        yield from _length_problems(recipe, step, config)
        try:
            after = step.stage.plan(step.options, config) if step.stage.plan else config
        except (ValueError, ArtifactError) as error:
            yield recipe.problem(step.where, f"{step.where}: {error}")
    if step.stage.teacher:
        yield from _vocabulary_problems(recipe, step, configs)
    if step.gives == "torch":
        configs[step.id] = after


def _length_problems(recipe: Recipe, step: Step, config: Config) -> Iterator[Problem]:
    context = config.get("max_position_embeddings")
    windows = getattr(step.options, "calibration", None)
    length = windows.length if isinstance(windows, Windows) else None
    if isinstance(step.options, TrainingOptions):
        length = step.options.length
        if step.options.batch % step.options.accumulate:
            yield recipe.problem(
                step.where,
                f"{step.where}: accumulate ({step.options.accumulate}) must divide batch ({step.options.batch})",
            )
    if context and length and length > context and isinstance(step.options, TrainingOptions):
        yield recipe.problem(
            step.where,
            f"{step.where}.length is {length}, the model's context is {context} tokens; use at most {context}",
        )


def _vocabulary_problems(recipe: Recipe, step: Step, configs: dict[str, Config | None]) -> Iterator[Problem]:
    teacher, student = configs.get("teacher"), configs.get(step.source)
    if not teacher or not student:
        return
    sizes = teacher.get("vocab_size"), student.get("vocab_size")
    if sizes[0] != sizes[1]:
        yield recipe.problem(
            step.where,
            f"{step.where}: the teacher has {sizes[0]} tokens, '{step.source}' has {sizes[1]}; both need the same tokenizer. "
            "Start from the teacher, or leave student.vocab out",
        )
    elif different := _different_tokenizers(recipe):
        yield recipe.problem(step.where, f"{step.where}: {different}")


def _different_tokenizers(recipe: Recipe) -> str:
    head = recipe.head
    if head.student.vocab:
        return "student.vocab makes a tokenizer of its own, but distill needs the teacher's; leave student.vocab out"
    if head.student.model is None or head.teacher is None:
        return ""
    folders = local_folder(head.teacher.model, head.teacher.builtin), local_folder(head.student.model)
    files = [folder / "tokenizer.json" for folder in folders if folder is not None]
    if len(files) < 2 or not all(file.is_file() for file in files) or sha256_of(files[0]) == sha256_of(files[1]):
        return ""
    return f"teacher and student have different tokenizers ({files[0]}, {files[1]}); distill needs the same one"


def _benchmark_problems(recipe: Recipe, configs: dict[str, Config | None]) -> Iterator[Problem]:
    options = recipe.head.benchmark
    contexts = [
        config["max_position_embeddings"]
        for config in configs.values()
        if config and config.get("max_position_embeddings")
    ]
    if not options or not contexts:
        return
    context = min(contexts)
    if options.perplexity and options.perplexity.length > context:
        yield recipe.problem(
            "benchmark.perplexity.length",
            f"benchmark.perplexity.length is {options.perplexity.length}, the context is {context} tokens",
        )
    if options.latency and options.latency.prompt + options.latency.new > context:
        both = options.latency.prompt + options.latency.new
        yield recipe.problem(
            "benchmark.latency",
            f"benchmark.latency: prompt + new is {both}, the context is {context} tokens; use fewer",
        )
