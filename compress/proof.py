"""Before the first stage runs: every config that the recipe will cut a model to is built on the meta device."""

from __future__ import annotations

from compress import artifact
from compress.contract import Json
from compress.errors import ArtifactError, StageError
from compress.models.folder import read_config
from compress.run import Node
from compress.stages import Plan


def prove_plans(nodes: list[Node]) -> None:
    """Build the model of each planned config without weights, and compare its shapes with the family table.

    A start that is still to be made has no config yet; what is cut from it is proven when the stage runs.

    Raises StageError, which names the stage, for the first one that transformers refuses or builds otherwise.
    """
    configs: dict[str, Json] = {}
    for node in nodes:
        if node.step is None:
            if _is_there(node):
                configs[node.id] = read_config(node.folder)
            continue
        before, plan = configs.get(node.source or ""), node.step.stage.plan
        if before is None or node.gives != "torch":
            continue
        configs[node.id] = _proven(node, plan, before) if plan else before


def _is_there(node: Node) -> bool:
    """Say whether the folder holds the model that the recipe begins with, and not one made by an earlier recipe."""
    if not node.made:
        return (node.folder / "config.json").is_file()
    try:
        found = artifact.read(node.folder)
    except ArtifactError:
        return False
    return found is not None and found.key == node.key


def _proven(node: Node, plan: Plan, before: Json) -> Json:
    assert node.step is not None
    try:
        after = plan(node.step.options, before)
        if after != before:
            # torch and transformers are needed only where something is cut
            from compress.models.skeleton import prove_shapes

            prove_shapes(after)
    except ValueError as error:
        raise StageError(f"{node.label}: {error}; nothing was run") from error
    return after
