"""Apply a recipe: plan, reuse or run each stage, measure, report. The only caller of stages."""

from __future__ import annotations

import errno
import importlib
import json
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from compress import artifact
from compress.artifact import Artifact
from compress.check import check
from compress.contract import Context, Json, Outcome, Progress
from compress.data.load import RecipeData
from compress.errors import ArtifactError, CompressError, StageError
from compress.memory import PeakMemory
from compress.models.origin import fetch
from compress.recipe import Recipe, Step
from compress.rows import measure_and_report
from compress.run import SCRATCH, STATE, Listener, Node, Run, save_state
from compress.versions import versions

START_REVISION = 1


def apply(recipe: Recipe, folder: Path, listener: Listener, fresh: bool = False) -> Json:
    """Run the recipe in `folder` and return its results; what is there and still true is reused.

    Raises RecipeError before anything runs, StageError and ArtifactError on the way; what was finished stays.
    """
    for note in check(recipe):
        listener.say(note)
    run = Run(recipe, folder, RecipeData(recipe.head.data, recipe.head.seed), listener, fresh, _device())
    with artifact.run_lock(folder):
        for kind in ("torch", "onnx"):
            artifact.sweep(folder / kind)
        if fresh:
            shutil.rmtree(folder / SCRATCH, ignore_errors=True)
            shutil.rmtree(folder / STATE, ignore_errors=True)
        nodes = _plan(run)
        for node in nodes:
            _make(run, node, nodes)
        _forget_unused_scratch(run, nodes)
        return measure_and_report(run, nodes)


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _plan(run: Run) -> list[Node]:
    """Return every artifact of the recipe in order, with its key: a key follows from the keys before it alone."""
    head = run.recipe.head
    nodes: dict[tuple[str, str], Node] = {}
    if head.teacher:
        with run.listener.task("teacher: reading"):
            folder = fetch(head.teacher.model, head.teacher.revision, head.teacher.builtin)
            key = artifact.fingerprint_folder(folder)
        nodes["teacher", "torch"] = Node("teacher", "teacher", "torch", folder, key, {})
    nodes["start", "torch"] = _start(run, nodes.get(("teacher", "torch")))
    for step in run.recipe.steps:
        parent = nodes[step.source, "torch"]
        made = _made(run, step, parent, nodes.get(("teacher", "torch")))
        folder = run.folder / step.gives / step.id
        nodes[step.id, step.gives] = Node(
            step.id, step.word, step.gives, folder, artifact.key_of(made), made, step.source, step
        )
    return list(nodes.values())


def _start(run: Run, teacher: Node | None) -> Node:
    student = run.recipe.head.student
    if student.init == "teacher" and teacher:
        return Node("start", "start", "torch", teacher.folder, teacher.key, {}, "teacher")
    if student.model:
        folder = fetch(student.model, student.revision)
        return Node("start", "start", "torch", folder, artifact.fingerprint_folder(folder), {})
    made: Json = {
        "stage": "start",
        "revision": START_REVISION,
        "options": student.model_dump(mode="json", exclude_none=True),
        "seed": run.recipe.head.seed,
        "data": {"train": run.data.fingerprint("train")} if student.vocab else {},
        "teacher": teacher.key if teacher and not student.vocab else None,
    }
    return Node("start", "start", "torch", run.folder / "torch" / "start", artifact.key_of(made), made)


def _made(run: Run, step: Step, parent: Node, teacher: Node | None) -> Json:
    stage = step.stage
    parts = [*stage.needs, *(part for part in stage.reads if run.data.has(part))]
    return {
        "stage": stage.word,
        "revision": stage.revision,
        "options": step.options.model_dump(mode="json"),
        "parent": parent.key,
        "teacher": teacher.key if teacher and stage.teacher else None,
        "data": {part: run.data.fingerprint(part) for part in parts},
        "seed": run.recipe.head.seed,
        "device": run.device,
    }


def _make(run: Run, node: Node, nodes: list[Node]) -> None:
    """Reuse the node's folder where it is what the recipe asks for and every byte is right, else make it."""
    if not node.made:
        return
    why = "--fresh" if run.fresh else _why_not(node)
    if not why:
        run.listener.say(f"{node.label}: reused")
        return
    run.listener.say(f"{node.label}: {why}")
    started = time.perf_counter()
    with run.listener.task(node.label) as progress, PeakMemory() as memory:
        try:
            finished = _run_stage(run, node, nodes, progress)
        except OSError as error:
            raise _explained(node, error) from error
    seconds = time.perf_counter() - started
    state = {"seconds": round(seconds, 3), "peak_memory_bytes": memory.peak_bytes}
    save_state(run, f"stage-{node.key}", state)
    shutil.rmtree(_scratch(run, node), ignore_errors=True)
    run.listener.say(f"{node.label}: done in {seconds:.1f} s" + _skipped_words(finished))


def _why_not(node: Node) -> str:
    """Return why the node must be made, or an empty string when its folder can be reused."""
    try:
        found = artifact.read(node.folder)
    except ArtifactError as error:
        return f"made again: {error}"
    if found is None:
        return "making"
    if found.key != node.key:
        return f"made again: {', '.join(differences(found.made, node.made)) or 'its key changed'}"
    if damaged := artifact.damage(found):
        return f"made again: damaged, {damaged}"
    return ""


def differences(before: Mapping[str, Any], after: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Return what changed between two descriptions of how an artifact is made, in words."""
    found = []
    for name in sorted({*before, *after}):
        old, new = before.get(name), after.get(name)
        if old == new:
            continue
        if isinstance(old, dict) and isinstance(new, dict):
            found += differences(old, new, f"{prefix}{name}.")
        elif name in ("parent", "teacher") or prefix == "data.":
            found.append(f"{prefix}{name} changed")
        else:
            found.append(f"{prefix}{name} was {json.dumps(old)}, is {json.dumps(new)}")
    return found


def _run_stage(run: Run, node: Node, nodes: list[Node], progress: Progress) -> Artifact:
    folders = {other.id: other.folder for other in nodes if other.gives == "torch"}
    scratch = _scratch(run, node)
    scratch.mkdir(parents=True, exist_ok=True)
    with artifact.temporary_folder(node.folder) as temporary:
        context = Context(
            source=folders.get(node.source or "", temporary),
            target=temporary,
            scratch=scratch,
            seed=run.recipe.head.seed,
            device=run.device,
            teacher=folders.get("teacher"),
            data=run.data if run.data.has("calibration") else None,
            progress=progress,
        )
        outcome = _call(run, node, context)
        said = {
            "facts": dict(outcome.facts),
            "skipped": [{"name": entry.name, "reason": entry.reason} for entry in outcome.skipped],
            "versions": versions(),
        }
        return artifact.finish(temporary, node.folder, node.made, said)


def _call(run: Run, node: Node, context: Context) -> Outcome:
    if node.step is None:
        from compress.models.scratch import make_scratch

        texts = run.data.texts("train") if run.recipe.head.student.vocab else ()
        make_scratch(run.recipe.head.student, texts, context.teacher, context.target, context.seed)
        return Outcome()
    module, _, function = node.step.stage.run.partition(":")
    stage = getattr(importlib.import_module(module), function)
    try:
        outcome: Outcome = stage(node.step.options, context)
    except CompressError as error:
        raise (
            type(error)(f"{node.label}: {error}") if isinstance(error, StageError | ArtifactError) else error
        ) from error
    return outcome


def _explained(node: Node, error: OSError) -> StageError:
    if error.errno == errno.ENOSPC:
        return StageError(f"{node.label}: the disk is full; nothing half-made was kept. Make room and apply again")
    return StageError(f"{node.label}: {error}")


def _skipped_words(finished: Artifact) -> str:
    if not finished.skipped:
        return ""
    names = [entry["name"] for entry in finished.skipped]
    return f"; left as it was: {', '.join(names[:5])}" + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _scratch(run: Run, node: Node) -> Path:
    return run.folder / SCRATCH / node.key[:16]


def _forget_unused_scratch(run: Run, nodes: list[Node]) -> None:
    used = {_scratch(run, node).name for node in nodes}
    for folder in (run.folder / SCRATCH).glob("*"):
        if folder.name not in used:
            shutil.rmtree(folder, ignore_errors=True)
