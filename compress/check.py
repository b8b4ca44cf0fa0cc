"""What can be said of a recipe before any weight is loaded: from config.json, the options and the names of files. No torch."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from compress.check_models import (
    Origin,
    different_tokenizers,
    has_chat_template,
    look_at,
    lost_tokens,
    special_tokens,
)
from compress.check_sizes import cut_words
from compress.data.columns import columns_of
from compress.data.options import COLUMNS, Source
from compress.document import PathKey
from compress.errors import ArtifactError, RecipeError, StageError
from compress.models.kind import class_name, is_causal
from compress.overrides import is_folder
from compress.recipe import Recipe, Step, read_draft
from compress.stages import STAGES
from compress.training.options import TrainingOptions

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
        configs = _steps(recipe, origins)
        _limits(recipe, configs)
        _benchmark(recipe, configs, notes)
        found = recipe.document.in_order(recipe.document.problems)
    finally:
        recipe.document.problems[:] = before
    if found:
        raise RecipeError(found)
    return list(dict.fromkeys(notes))


def forecasts(recipe: Recipe) -> list[str]:
    """Return what each step of a recipe without problems will cut; empty where it cuts nothing or a config is not known here."""
    configs = _steps(recipe, look_at(recipe, []))
    pairs = [(configs.get(step.source), configs.get(step.id)) for step in recipe.steps]
    return [
        cut_words(before, after) if step.word == "prune" and before and after else ""
        for step, (before, after) in zip(recipe.steps, pairs, strict=True)
    ]


def _data(recipe: Recipe, notes: list[str]) -> None:
    data = recipe.head.data
    for part in _PARTS:
        source: Source | None = getattr(data, part)
        if source is None:
            continue
        if source.dataset:
            notes.append(f"data.{part}: {source.dataset} is a dataset of the hub; it is first looked at in the run")
        _files(recipe, ("data", part, "files"), source)
        _columns(recipe, part, source)
        if part in _LEARNED and source == data.evaluation:
            notes.append(
                f"data.{part} and data.evaluation are the same text: what is measured on it looks better than it is"
            )


def _files(recipe: Recipe, path: PathKey, source: Source) -> None:
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
    if not named or not source.files or any(known[:2] == path for known in recipe.document.unread):
        return
    # what reads the files also imports numpy
    from compress.data.sources import expand_files

    try:
        files = expand_files(source)
    except (StageError, OSError, ValueError):
        return
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
    uncut = {name: origin.map.size for name, origin in origins.items() if origin.map}
    tokenizers = {name: origin.folder for name, origin in origins.items()}
    for step in recipe.steps:
        config = configs.get(step.source)
        if step.source in quantized and not step.stage.quantized_source:
            takers = ", ".join(word for word, stage in STAGES.items() if stage.quantized_source)
            message = f"'{step.source}' is quantized, and {step.word} would lose its codes; only {takers} takes it"
            recipe.document.complain((*step.path, "from"), f"{step.where}: {message}")
        if step.word == "quantize":
            quantized.add(step.id)
        after = _planned(recipe, step, config) if step.valid and config is not None else None
        tokenizers[step.id] = tokenizers.get(step.source)
        if config and after and config.get("vocab_size") != after.get("vocab_size"):
            _tokens(recipe, step, tokenizers.pop(step.id), (config, after))
        if step.valid and isinstance(step.options, TrainingOptions):
            asked = [("teacher", configs["teacher"])] if step.stage.teacher else []
            _length(recipe, step, step.options.length, [(step.source, config), *asked])
            _next_token(recipe, step, [(step.source, config), *asked])
        if step.stage.teacher:
            _vocabulary(recipe, step, configs, origins, uncut)
        if step.gives == "torch":
            configs[step.id] = after
            if before := _uncut(step, uncut, config, after):
                uncut[step.id] = before
    return configs


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


def _uncut(step: Step, uncut: dict[str, int], before: Config | None, after: Config | None) -> int | None:
    """Return how many tokens there were before the first cut of the vocabulary that a step gives; None where it is whole."""
    if step.source in uncut or not before or not after or before.get("vocab_size") == after.get("vocab_size"):
        return uncut.get(step.source)
    return before.get("vocab_size")


def _vocabulary(
    recipe: Recipe,
    step: Step,
    configs: dict[str, Config | None],
    origins: dict[str, Origin],
    uncut: dict[str, int],
) -> None:
    teacher, student = configs["teacher"], configs.get(step.source)
    if not teacher or not student:
        return
    sizes = teacher.get("vocab_size"), student.get("vocab_size")
    if step.source in uncut and uncut[step.source] in (sizes[0], uncut.get("teacher")):
        sizes = sizes[0], sizes[0]  # a cut student asks the teacher for the tokens that it still has
    if sizes[0] != sizes[1]:
        message = (
            f"the teacher has {sizes[0]} tokens, '{step.source}' has {sizes[1]}; both need the same tokenizer. "
            "Start from the teacher, or leave student.vocab out"
        )
    else:
        message = different_tokenizers(recipe, origins) or lost_tokens(origins, student["vocab_size"])
    if message:
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
