"""The verb `export`: an ONNX folder that runs in ONNX Runtime and onnxruntime-genai, from a torch folder, float or quantized."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import onnx_ir as ir

from compress.artifact import write_text
from compress.contract import Context, Json, Outcome
from compress.errors import StageError
from compress.export.builder import BuiltGraph, build_graph
from compress.export.graph_edit import forget_types
from compress.export.options import ExportOptions, plan
from compress.export.packing import can_join_qkv, pack_graph
from compress.export.parity import prove_parity
from compress.models import quantized
from compress.models.folder import copy_tokenizer, read_config, special_ids
from compress.models.scheme import weight_class

GRAPH_FILE = "model.onnx"
DATA_FILE = "model.onnx.data"
_STEPS = ("graph", "files", "parity")


def run(options: ExportOptions, context: Context) -> Outcome:
    """Write the ONNX folder context.target from context.source, and prove that both say the same.

    Raises StageError where the model's family is not taken or ONNX and torch differ.
    """
    try:
        config = plan(options, read_config(context.source))
    except ValueError as error:
        raise StageError(f"{context.source}: {error}") from error
    precision = quantized.precision(context.source)
    context.progress(0, len(_STEPS), "steps", _STEPS[0])
    facts: Json = {"precision": precision, **_write_graph(options, context)}
    context.progress(1, len(_STEPS), "steps", _STEPS[1])
    _write_companions(config, context)
    context.progress(2, len(_STEPS), "steps", _STEPS[2])
    facts["parity"] = prove_parity(context, options.tolerance if precision == "fp32" else None)
    context.progress(3, len(_STEPS), "steps")
    return Outcome(facts)


def _write_graph(options: ExportOptions, context: Context) -> Json:
    """Write model.onnx, model.onnx.data and genai_config.json; the torch weights are freed on return."""
    built = _graph(context.source, options.accuracy_level)
    built.model.graph.sort()
    forget_types(built.model.graph)
    ir.save(built.model, context.target / GRAPH_FILE, external_data=DATA_FILE, size_threshold_bytes=0)
    write_text(context.target / "genai_config.json", built.genai_config_text)
    return _facts(built.model, context.target)


def _graph(source: Path, accuracy_level: int) -> BuiltGraph:
    if not quantized.is_quantized(source):
        return build_graph(source)
    with quantized.QuantizedFile(source) as file:
        built = build_graph(source, partial(can_join_qkv, file.schemes.weights))
        pack_graph(built.model, file, accuracy_level)
    return built


def _write_companions(config: Json, context: Context) -> None:
    write_text(context.target / "config.json", json.dumps(config, indent=2, sort_keys=True) + "\n")
    path = context.source / "generation_config.json"
    generation: Json = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else _generation(context.source)
    write_text(context.target / "generation_config.json", json.dumps(generation, indent=2, sort_keys=True) + "\n")
    copy_tokenizer(context.source, context.target)


def _generation(source: Path) -> Json:
    ids = special_ids(source)
    ends = ids.eos[0] if len(ids.eos) == 1 else list(ids.eos) or None
    return {"bos_token_id": ids.bos, "eos_token_id": ends, "pad_token_id": ids.pad}


def _facts(model: Any, folder: Path) -> Json:
    operators: dict[str, set[str]] = {}
    for node in model.graph:
        operators.setdefault(node.domain or "ai.onnx", set()).add(node.op_type)
    classes: dict[str, int] = {}
    for name, value in model.graph.initializers.items():
        key = weight_class(name)
        classes[key] = classes.get(key, 0) + int(value.const_value.nbytes)
    if "embedding" not in classes and "head" in classes:
        # A tied embedding is stored once, under the head's name.
        classes["embedding"] = classes.pop("head")
    return {
        "opset": {domain or "ai.onnx": number for domain, number in sorted(model.graph.opset_imports.items())},
        "operators": {domain: sorted(names) for domain, names in sorted(operators.items())},
        "bytes": {name: (folder / name).stat().st_size for name in (GRAPH_FILE, DATA_FILE)},
        "weight_bytes": dict(sorted(classes.items())),
    }
