"""What can be said of a recipe before any weight is loaded: from config.json, the options and the names of files. No torch."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from compress.check_distill import look_at_distill
from compress.check_models import (
    Origin,
    different_tokenizers,
    has_chat_template,
    look_at,
    special_tokens,
)
from compress.check_sizes import cut_words
from compress.data.columns import columns_of
from compress.data.given import COLUMNS, Given
from compress.data.options import Source
from compress.data.written.check import find_problems, nested_sources
from compress.data.written.options import Instructions
from compress.document import PathKey
from compress.errors import ArtifactError, RecipeError, StageError
from compress.explain import name_of
from compress.export.options import ExportOptions
from compress.models.kind import class_name, is_causal
from compress.overrides import is_folder
from compress.quantize.options import QuantizeOptions
from compress.recipe import Recipe, Step, read_draft
from compress.stages import STAGES
from compress.training.options import TrainingOptions
from compress.training.trackers import missing, missing_words

Config = dict[str, Any]
_PARTS = ("train", "validation", "calibration", "evaluation")
_BY_TOKEN = ("perplexity_increase", "kl_to_teacher")
_LEARNED = ("train", "validation", "calibration")


def open_recipe(path: Path, overrides: Iterable[str] = ()) -> tuple[Recipe, list[str]]:
    """Return the recipe of a file, and notes: what could not be checked here, and why.

    Raises RecipeError with everything that is wrong, in the text and in what it asks for.
    """
    recipe = read_draft(path, overrides)
    return recipe, check(recipe)


def check(recipe: Recipe) -> list[str]:
    """Return notes: what could not be checked here, and why.

    Raises RecipeError with every problem found, those of a draft's text among them.
    """
    before = list(recipe.document.problems)
    notes: list[str] = []
    try:
        _data(recipe, notes)
        origins = look_at(recipe, notes)
        _tokens_and_templates(recipe, origins)
        _written(recipe, origins)
        configs = _steps(recipe, origins)
        _slow(recipe, configs, notes)
        _limits(recipe, configs)
        _benchmark(recipe, configs, notes)
        found = recipe.document.in_order(recipe.document.problems)
    finally:
        recipe.document.problems[:] = before
    if found:
        raise RecipeError(found)
    return list(dict.fromkeys(notes))


def forecasts(recipe: Recipe) -> list[str]:
    """Return what each step of a recipe without problems will make of sizes; empty where it changes none or a config is not known here."""
    configs = _steps(recipe, look_at(recipe, []))
    pairs = [(configs.get(step.source), configs.get(step.id)) for step in recipe.steps]
    return [_forecast(step, before, after) for step, (before, after) in zip(recipe.steps, pairs, strict=True)]


def _forecast(step: Step, before: Config | None, after: Config | None) -> str:
    if isinstance(step.options, QuantizeOptions):
        from compress.check_quantize import quantize_words

        return quantize_words(step.options, before) if before else ""
    return cut_words(before, after) if step.word == "prune" and before and after else ""


def _data(recipe: Recipe, notes: list[str]) -> None:
    data = recipe.head.data
    for part in _PARTS:
        source: Source | None = getattr(data, part)
        if source is None:
            continue
        for dataset in [source.dataset, *(given.dataset for _, given in nested_sources(source))]:
            if dataset:
                notes.append(f"data.{part}: {dataset} is a dataset of the hub; it is first looked at in the run")
        _files(recipe, ("data", part, "files"), source)
        _columns(recipe, part, source)
        for kind, given in nested_sources(source):
            _files(recipe, ("data", part, "prompts", kind, "files"), given)
            _instructions(recipe, ("data", part, "prompts", kind), given)
        if part == "evaluation" and source.writer:
            notes.append(
                "data.evaluation is written by the teacher: what is measured on it says how well it is imitated, not more"
            )
        if part in _LEARNED and source == data.evaluation:
            notes.append(
                f"data.{part} and data.evaluation are the same text: what is measured on it looks better than it is"
            )


def _written(recipe: Recipe, origins: dict[str, Origin]) -> None:
    """Refuse what a teacher cannot write, or a classifier not judge."""
    for part in _PARTS:
        source: Source | None = getattr(recipe.head.data, part)
        if source is None or source.writer is None:
            continue
        teacher = origins["teacher"]
        for place, message in find_problems(source, teacher.config):
            path = ("data", part, *place)
            if path not in recipe.document.unread:
                recipe.document.complain(path, f"{name_of(path)}: {message}")
        if source.chat and teacher.folder is not None and not has_chat_template(teacher.folder):
            message = f"data.{part}.chat is true, but the teacher ({teacher.folder}) has no chat template; leave it out"
            recipe.document.complain(("data", part, "chat"), message)


def _instructions(recipe: Recipe, path: PathKey, given: Given) -> None:
    """Refuse tables without a column of instructions, as far as their heads say."""
    if not isinstance(given, Instructions):
        return
    for file in _found_files(recipe, path, given):
        columns = columns_of(file)
        if columns is not None and given.instruction not in columns:
            message = f"{name_of(path)}: {file} has no column '{given.instruction}'; the columns are {', '.join(map(repr, columns))}"
            recipe.document.complain(path, f"{message}. Name it with instruction:")
            return


def _files(recipe: Recipe, path: PathKey, source: Given) -> None:
    """Look for the files of a source, one by one so that each problem has its place, then together."""
    if not source.files or any(known[: len(path)] == path for known in recipe.document.unread):
        return
    # the reader of text imports numpy, which most checks do not need
    from compress.data.sources import expand_files

    good = True
    for files in [*([name] for name in source.files), source.files]:
        place = (*path, source.files.index(files[0])) if len(files) == 1 else path
        try:
            if len(files) == 1 and is_folder(Path(files[0])):
                raise StageError(f"data file {files[0]}: this is a folder; name its files, such as {files[0]}/*.txt")
            if len(files) == 1 or good:
                expand_files(source.model_copy(update={"files": files}))
        except (StageError, OSError, ValueError) as error:
            good = False
            recipe.document.complain(place, str(error))


def _columns(recipe: Recipe, part: str, source: Source) -> None:
    """Refuse a column that is named and is not there, as far as the heads of files say, and labels where nobody reads them."""
    path = ("data", part)
    if source.label and part in _LEARNED:
        message = f"data.{part}.label: labels are read of data.evaluation alone, to measure accuracy; leave it out"
        recipe.document.complain((*path, "label"), message)
    named = [(name, column) for name in COLUMNS if (column := getattr(source, name))]
    files = _found_files(recipe, path, source) if named else []
    heads = ((file, found) for file in files if (found := columns_of(file)) is not None)
    for file, found in heads:
        missing = [(name, column) for name, column in named if column not in found]
        for name, column in missing:
            message = (
                f"data.{part}.{name}: {file} has no column '{column}'; the columns are {', '.join(map(repr, found))}"
            )
            recipe.document.complain((*path, name), message)
        if missing:
            return


def _found_files(recipe: Recipe, path: PathKey, source: Given) -> list[Path]:
    """Return the files of a source; none where something is wrong with them, which is said already."""
    if not source.files or any(known[: len(path)] == path for known in recipe.document.unread):
        return []
    # what reads the files also imports numpy
    from compress.data.sources import expand_files

    try:
        return expand_files(source)
    except (StageError, OSError, ValueError):
        return []


def _tokens_and_templates(recipe: Recipe, origins: dict[str, Origin]) -> None:
    """Refuse a joining token or a chat template that a model does not have."""
    data, options = recipe.head.data, recipe.head.benchmark
    joins: dict[PathKey, str | None] = {("data", "join"): data.join}
    if options and options.perplexity:
        joins["benchmark", "perplexity", "join"] = options.perplexity.join
    folders = {origin.folder: name for name, origin in reversed(origins.items()) if origin.folder is not None}
    for folder, name in folders.items():
        special = special_tokens(folder)
        for path, join in joins.items():
            if special and ((join == "bos" and special.bos is None) or (join == "eos" and not special.eos)):
                message = f"{'.'.join(map(str, path))} is {join}, but {name} ({folder}) has no {join.upper()} token"
                recipe.document.complain(path, f"{message}; use another")
        for part in _PARTS:
            source: Source | None = getattr(data, part)
            if source and source.messages and not has_chat_template(folder):
                message = f"data.{part}.messages needs a chat template, and {name} ({folder}) has none"
                recipe.document.complain(("data", part, "messages"), f"{message}; use prompt and completion")


def _steps(recipe: Recipe, origins: dict[str, Origin]) -> dict[str, Config | None]:
    """Check step by step, with the config that each will give; return the configs."""
    configs = {name: origin.config for name, origin in origins.items()}
    quantized = {name for name, origin in origins.items() if origin.quantized}
    symmetric: dict[str, bool | None] = dict.fromkeys(quantized)
    tokenizers = {name: origin.folder for name, origin in origins.items()}
    for step in recipe.steps:
        config = configs.get(step.source)
        if step.source in quantized and not step.stage.quantized_source:
            takers = ", ".join(word for word, stage in STAGES.items() if stage.quantized_source)
            message = f"'{step.source}' is quantized, and {step.word} would lose its codes; use the model that it was made from, or one of {takers}"
            recipe.document.complain((*step.path, "from"), f"{step.where}: {message}")
        if step.word == "quantize" or (step.gives == "torch" and step.source in quantized):
            quantized.add(step.id)
            symmetric[step.id] = _symmetric(step, symmetric.get(step.source))
        after = _planned(recipe, step, config) if step.valid and config is not None else None
        tokenizers[step.id] = tokenizers.get(step.source)
        if config and after and config.get("vocab_size") != after.get("vocab_size"):
            _tokens(recipe, step, tokenizers.pop(step.id), (config, after))
        if step.valid and isinstance(step.options, TrainingOptions):
            asked = [("teacher", configs["teacher"])] if step.stage.teacher else []
            _length(recipe, step, step.options.length, [(step.source, config), *asked])
            _next_token(recipe, step, [(step.source, config), *asked])
            for tracker in missing(step.options.report_to):
                recipe.document.complain((*step.path, "report_to"), f"{step.where}.{missing_words(tracker)}")
        if step.stage.teacher:
            _vocabulary(recipe, step, configs, origins)
            if step.valid:
                look_at_distill(recipe, step, configs, symmetric)
        if step.gives == "torch":
            configs[step.id] = after
    return configs


def _symmetric(step: Step, source: bool | None) -> bool | None:
    """Return whether no weight has zero points after a step; None where it depends on the weight."""
    if not isinstance(step.options, QuantizeOptions):
        return source
    differ = any(other.symmetric not in (None, step.options.symmetric) for other in step.options.weights.values())
    return None if differ else step.options.symmetric


def _planned(recipe: Recipe, step: Step, config: Config) -> Config | None:
    if step.stage.plan is None:
        return config
    try:
        return step.stage.plan(step.options, config)
    except (ValueError, ArtifactError) as error:
        recipe.document.complain(step.path, f"{step.where}: {error}")
        return None


def _tokens(recipe: Recipe, step: Step, folder: Path | None, configs: tuple[Config, Config]) -> None:
    """Refuse a cut of the vocabulary that the tokenizer does not allow; after a cut it is not known here."""
    if folder is None or not (folder / "tokenizer.json").is_file():
        return
    # imports numpy, which most checks do not need
    from compress.prune.tokenizer import refuse_tokens

    try:
        refuse_tokens(folder, configs[0]["vocab_size"], configs[1]["vocab_size"])
    except (ValueError, ArtifactError) as error:
        recipe.document.complain(step.path, f"{step.where}: {error}")


def _length(recipe: Recipe, step: Step, length: int, models: list[tuple[str, Config | None]]) -> None:
    for name, config in models:
        context = _context(config)
        if context and length > context:
            message = f"is {length}, the context of '{name}' is {context} tokens; use at most {context}"
            recipe.document.complain((*step.path, "length"), f"{step.where}.length {message}")
            return


def _next_token(recipe: Recipe, step: Step, models: list[tuple[str, Config | None]]) -> None:
    """Refuse models that do not write text: they see the token that they would learn to predict."""
    for name, config in models:
        if config and not is_causal(config):
            message = f"'{name}' is a {class_name(config)}, and {step.word} needs a causal language model; leave it out"
            recipe.document.complain(step.path, f"{step.where}: {message}")
            return


def _context(config: Config | None) -> int | None:
    found = (config or {}).get("max_position_embeddings")
    return found if isinstance(found, int) else None


def _vocabulary(recipe: Recipe, step: Step, configs: dict[str, Config | None], origins: dict[str, Origin]) -> None:
    student = configs.get(step.source)
    if not configs["teacher"] or not student:
        return
    if message := different_tokenizers(recipe, origins, student.get("vocab_size", 0)):
        recipe.document.complain(step.path, f"{step.where}: {message}")


def _limits(recipe: Recipe, configs: dict[str, Config | None]) -> None:
    """Refuse limits that set tokens of a cut vocabulary against the teacher's."""
    whole = (configs["teacher"] or {}).get("vocab_size")
    for id, limit in recipe.head.limits.items():
        left = (configs.get(id) or {}).get("vocab_size")
        for name in _BY_TOKEN if whole and left and whole != left else ():
            if getattr(limit, name) is not None:
                why = f"'{id}' has {left} tokens, the teacher {whole}, and it is measured by token"
                recipe.document.complain(
                    ("limits", id, name), f"limits.{id}.{name} can never be met: {why}; leave it out"
                )


def _slow(recipe: Recipe, configs: dict[str, Config | None], notes: list[str]) -> None:
    in_blocks: set[str] = set()
    for step in recipe.steps:
        if isinstance(step.options, QuantizeOptions):
            in_blocks |= {step.id} if step.options.has_blocks else set()
        elif step.gives == "torch" and step.source in in_blocks:
            in_blocks.add(step.id)
        config = configs.get(step.source)
        if step.valid and config and isinstance(step.options, QuantizeOptions):
            # imports numpy, which most checks do not need
            from compress.check_quantize import slow_notes

            notes += [f"{step.where} {note}" for note in slow_notes(step.options, config)]
        exact = isinstance(step.options, ExportOptions) and step.options.accuracy_level == 0
        if step.valid and exact and step.source in in_blocks:
            notes.append(
                f"{step.where} slow: at accuracy_level 0 MatMulNBits turns weights into float at each token, some ten times slower "
                "than a float model; leave it out where speed counts"
            )


def _benchmark(recipe: Recipe, configs: dict[str, Config | None], notes: list[str]) -> None:
    options = recipe.head.benchmark
    if not options or "benchmark" in recipe.broken:
        return
    if recipe.head.data.evaluation is None and "data" not in recipe.broken:
        notes.append("no data.evaluation: quality is not measured")
    contexts = [
        (context, name)
        for name, config in configs.items()
        if config is not None and is_causal(config) and (context := _context(config))
    ]
    if not contexts:
        return
    context, name = min(contexts, key=lambda found: found[0])
    end = f"the context of '{name}' is {context} tokens"
    if options.perplexity and options.perplexity.length > context:
        message = f"benchmark.perplexity.length is {options.perplexity.length}, {end}; use at most {context}"
        recipe.document.complain(("benchmark", "perplexity", "length"), message)
    if options.latency and (both := options.latency.prompt + options.latency.new) > context:
        message = f"benchmark.latency: prompt + new is {both}, {end}; use fewer"
        recipe.document.complain(("benchmark", "latency"), message)
