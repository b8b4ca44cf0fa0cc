"""Apply a recipe: plan, reuse or run each stage, measure, report. The only caller of stages."""

from __future__ import annotations

import errno
import importlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import cache
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from compress import artifact
from compress.artifact import Artifact
from compress.check import check
from compress.contract import Context, Json, Outcome, Progress, silent
from compress.data.load import RecipeData
from compress.data.written.texts import Teacher
from compress.distributed import Launch, Silent, join, process
from compress.errors import ArtifactError, StageError
from compress.memory import PeakMemory
from compress.models.origin import fetch
from compress.proof import prove_plans
from compress.recipe import Recipe, Step
from compress.rows import measure_and_report
from compress.run import (
    SCRATCH,
    STATE,
    Listener,
    Node,
    Run,
    StageClock,
    call,
    is_called,
    refuse_processes,
    save_state,
    wait_for_source,
)
from compress.training.checkpoint import resume_step
from compress.versions import versions

START_REVISION = 2
# torch names no errno: its writer of files and its allocator say it in words.
_FULL_DISK = ("No space left on device", "inline_container", "PytorchStreamWriter failed writing")
_NO_MEMORY = ("can't allocate memory", "out of memory")


def apply(
    recipe: Recipe, folder: Path, listener: Listener, fresh: bool = False, launch: Launch | None = None
) -> Json | None:
    """Run the recipe in `folder` and return its results; what is there and still true is reused.

    Started by a launcher, the first process does all this, and the others come in where there is something to train: they
    say nothing, and return None. They have joined the launch before they call this, the first one joins it here.

    Raises RecipeError and CommandError before anything runs, StageError and ArtifactError on the way; what was finished stays.
    """
    notes = check(recipe)
    device = _device()
    refuse_processes(recipe, process().size, device)
    launch = launch or join()
    data = RecipeData(recipe.head.data, recipe.head.seed)
    with launch.reporting():
        if not launch.process.first:
            assist(Run(recipe, folder, data, Silent(), fresh, device, launch))
            return None
        for note in notes:
            listener.say(note)
        return _apply(Run(recipe, folder, data, listener, fresh, device, launch))


def _apply(run: Run) -> Json:
    folder = run.folder
    with artifact.run_lock(folder), _explained(str(folder)):
        for place in (folder, folder / STATE, folder / "torch", folder / "onnx"):
            artifact.sweep(place)
        if run.fresh:
            shutil.rmtree(folder / SCRATCH, ignore_errors=True)
            shutil.rmtree(folder / STATE, ignore_errors=True)
        nodes = _plan(run)
        # once, and only where a stage has to run
        proof = cache(lambda: prove_plans(nodes))
        for node in nodes:
            _make(run, node, nodes, proof)
        # what finished needs no checkpoint, also one that was finished by a run that was killed right after
        shutil.rmtree(folder / SCRATCH, ignore_errors=True)
        results = measure_and_report(run, nodes)
        shutil.rmtree(folder / SCRATCH, ignore_errors=True)
        return results


def assist(run: Run) -> None:
    """Work on what the first process trains, for as long as there is something to train."""
    nodes = _plan(run)
    for node in nodes:
        if is_called(run, node):
            wait_for_source(node, nodes)
            # beside the first one's: what is written here is thrown away
            own = node.folder.with_name(f"{node.folder.name}.{run.launch.process.rank}")
            with artifact.temporary_folder(own) as temporary:
                _call(run, node, _context(run, node, nodes, temporary, silent))


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
            artifact.refuse_damaged(folder)
            key = artifact.fingerprint_folder(folder)
        run.data.teacher = Teacher(folder, key, run.device)
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
    if student.init == "teacher" and teacher and not student.every:
        return Node("start", "start", "torch", teacher.folder, teacher.key, {}, "teacher")
    if student.model:
        folder = fetch(student.model, student.revision)
        artifact.refuse_damaged(folder)
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
    parts = [*stage.needs_of(step.options), *(part for part in stage.reads if run.data.has(part))]
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


def _make(run: Run, node: Node, nodes: list[Node], proof: Callable[[], None]) -> None:
    """Reuse the node's folder where it is what the recipe asks for and every byte is right, else make it."""
    if not node.made:
        return
    why = "--fresh" if run.fresh else _why_not(node)
    if not why:
        run.listener.say(f"{node.label}: reused")
        call(run, node, False)
        return
    if not run.fresh and (same := _same_elsewhere(run, node)):
        run.listener.say(f"{node.label}: taken from {same.path.relative_to(run.folder).as_posix()}, which is the same")
        _copy(same, node)
        call(run, node, False)
        return
    proof()
    step = resume_step(_scratch(run, node))
    run.listener.say(f"{node.label}: {why}" + (f", going on from step {step}" if step else ""))
    with _explained(node.label):
        run.data.write(node.made["data"], run.listener.task)
    clock = StageClock(_scratch(run, node))
    call(run, node, True)
    with run.listener.task(node.label) as progress, _explained(node.label):
        finished = _run_stage(run, node, nodes, clock, progress)
    shutil.rmtree(_scratch(run, node), ignore_errors=True)
    run.listener.say(f"{node.label}: done in {clock.seconds():.1f} s" + _skipped_words(finished))


def _same_elsewhere(run: Run, node: Node) -> Artifact | None:
    """Return a whole artifact of the same key under another id: that of a recipe whose ids were renamed, say."""
    for manifest in sorted((run.folder / node.gives).glob(f"*/{artifact.MANIFEST}")):
        try:
            found = artifact.read(manifest.parent)
        except ArtifactError:
            continue
        if found and found.path != node.folder and found.key == node.key and not artifact.damage(found):
            return found
    return None


def _copy(same: Artifact, node: Node) -> None:
    with _explained(node.label), artifact.temporary_folder(node.folder) as temporary:
        for name in same.files:
            (temporary / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(same.path / name, temporary / name)
        said = {"facts": same.facts, "skipped": list(same.skipped), "versions": same.versions}
        artifact.finish(temporary, node.folder, same.made, said)


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


def _context(run: Run, node: Node, nodes: list[Node], target: Path, progress: Progress) -> Context:
    folders = {other.id: other.folder for other in nodes if other.gives == "torch"}
    sources = {other.id: other.source for other in nodes if other.gives == "torch"}
    return Context(
        source=folders.get(node.source or "", target),
        target=target,
        scratch=_scratch(run, node),
        seed=run.recipe.head.seed,
        device=run.device,
        teacher=folders.get("teacher"),
        origin=folders.get(sources.get(node.source or "") or ""),
        data=run.data if run.data.has("calibration") else None,
        progress=progress,
        curves=run.folder / "tensorboard" / node.id,
    )


def _run_stage(run: Run, node: Node, nodes: list[Node], clock: StageClock, progress: Progress) -> Artifact:
    with artifact.temporary_folder(node.folder) as temporary:
        context = _context(run, node, nodes, temporary, progress)
        with PeakMemory() as memory:
            outcome = _call(run, node, context)
        said = {
            "facts": dict(outcome.facts),
            "skipped": [{"name": entry.name, "reason": entry.reason} for entry in outcome.skipped],
            "versions": versions(),
        }
        # before the artifact, so that a kill between the two leaves no artifact without its times
        state = {"seconds": round(clock.seconds(), 3), "peak_memory_bytes": memory.peak_bytes}
        save_state(run, f"stage-{node.key}", state)
        return artifact.finish(temporary, node.folder, node.made, said)


def _call(run: Run, node: Node, context: Context) -> Outcome:
    if node.step is None:
        return _make_start(run, context)
    module, _, function = node.step.stage.run.partition(":")
    stage = getattr(importlib.import_module(module), function)
    try:
        with run.launch.group(node.id, run.device) if node.trains else nullcontext():
            outcome: Outcome = stage(node.step.options, context)
    except (StageError, ArtifactError) as error:
        raise type(error)(f"{node.label}: {error}") from error
    return outcome


def _make_start(run: Run, context: Context) -> Outcome:
    student = run.recipe.head.student
    try:
        if student.every and context.teacher:
            from compress.models.teacher_layers import take_layers

            return Outcome(take_layers(context.teacher, student.every, context.target))
        from compress.models.scratch import make_scratch

        texts = run.data.texts("train") if student.vocab else ()
        make_scratch(student, texts, context.teacher, context.target, context.seed)
    except ValueError as error:
        # sizes that check could not look at: the teacher is a model of the hub
        raise StageError(f"start: {error}") from error
    return Outcome()


@contextmanager
def _explained(where: str) -> Iterator[None]:
    """Turn what a full disk or a refused write raises, in whatever library, into a message for the user."""
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        if full or any(words in str(error) for words in _FULL_DISK):
            message = f"{where}: the disk is full; nothing half-made was kept. Make room and apply again"
        elif any(words in str(error) for words in _NO_MEMORY):
            message = f"{where}: there is not enough memory ({_first_line(error)}); use a smaller batch, more pieces (accumulate), or a smaller model"
        elif isinstance(error, OSError):
            message = f"{where}: {error}"
        else:
            raise
        raise StageError(message) from error


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0]


def _skipped_words(finished: Artifact) -> str:
    if not finished.skipped:
        return ""
    names = [entry["name"] for entry in finished.skipped]
    return f"; left as it was: {', '.join(names[:5])}" + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _scratch(run: Run, node: Node) -> Path:
    return run.folder / SCRATCH / node.key[:16]
