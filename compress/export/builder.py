"""The float graph of a decoder, made by onnxruntime-genai's builder in memory: GroupQueryAttention, tied embedding once.

The builder's classes are used below their command line, so that nothing is asked of the network, nothing is printed, no
float file is written on the way to a packed one, and the graph depends on the model folder alone.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import math
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from compress.errors import StageError
from compress.export.options import FAMILIES
from compress.export.rope import compute_tables, frequencies_of
from compress.models.folder import load_model, special_ids

_BUILDER = "onnxruntime_genai.models.builder"
# What the builder raises for models that it cannot take.
_ERRORS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)
_TAIL_LINES = 12
_ROPE_MULTIPLE = 16


@dataclass(frozen=True)
class BuiltGraph:
    """The builder's work: an onnx_ir.Model whose weights still live in the torch model, and genai_config.json."""

    model: Any
    genai_config_text: str


def build_graph(folder: Path, can_join_qkv: Callable[[int], bool] = lambda layer: True) -> BuiltGraph:
    """Return the float32 CPU graph of a model folder; `can_join_qkv` says of a layer whether its query, key and value
    projections may be joined.

    Memory: the float32 model, the joined projections once more.
    Raises StageError, with the end of what the builder printed, where the builder does not take the model.
    """
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            return _build(folder, can_join_qkv)
    except _ERRORS as error:
        tail = "\n".join(said.getvalue().splitlines()[-_TAIL_LINES:])
        raise StageError(
            f"{folder}: onnxruntime-genai {version('onnxruntime-genai')} cannot build the graph of this model: "
            f"{type(error).__name__}: {error}" + (f"\nThe builder said:\n{tail}" if tail else "")
        ) from error


def _build(folder: Path, can_join_qkv: Callable[[int], bool]) -> BuiltGraph:
    import onnx_ir
    import torch
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    family = FAMILIES[config.model_type]
    config.architectures = [family.architecture]
    model_class = _exporting(getattr(_builder_module(), _builder_name(config)), config, folder, can_join_qkv)
    extra = {
        "shared_embeddings": bool(config.tie_word_embeddings),
        # Without RoPE inside the attention node there is nothing that would part a joined projection again.
        "fuse_qkv": _head_size(config) % _ROPE_MULTIPLE == 0,
        # A cache of the window's size would ask every runtime to know the window.
        "windowed_kv_cache": False,
        "hf_token": False,
        "hf_remote": False,
    }
    # The builder makes random layers on its way to Phi-3's projections: the caller's seed must not notice.
    with tempfile.TemporaryDirectory() as scratch, torch.random.fork_rng(devices=[]), torch.inference_mode():
        floating = onnx_ir.DataType.FLOAT
        built = model_class(_prepared(config), floating, floating, "cpu", scratch, extra)
        if config.model_type.startswith("gemma"):
            # The builder rounds this factor to two decimals.
            built.embed_attrs["scale"] = math.sqrt(config.hidden_size)
        built.make_model(str(folder))
        compute_tables(built.model.graph, built.frequencies)
        built.model.graph.sort()
        if config.model_type == "gemma3_text":
            built.model_type = "gemma3_text"
        built.make_genai_config(config, {"local_files_only": True}, scratch)
        genai_config = json.loads((Path(scratch) / "genai_config.json").read_text(encoding="utf-8"))
    # The builder would stamp the commit of whatever git repository it runs in.
    built.model.producer_version = version("onnxruntime-genai")
    if genai_config["model"]["bos_token_id"] is None:
        del genai_config["model"]["bos_token_id"]
    return BuiltGraph(built.model, json.dumps(genai_config, indent=4) + "\n")


def _head_size(config: Any) -> int:
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def _builder_name(config: Any) -> str:
    if config.model_type == "phi3" and config.rope_parameters.get("rope_type") == "longrope":
        return "Phi3MiniLongRoPEModel"
    return FAMILIES[config.model_type].builder


def _builder_module() -> Any:
    """Import the builder; its package puts its own folder on sys.path, which is taken back."""
    before = list(sys.path)
    try:
        return importlib.import_module(_BUILDER)
    finally:
        sys.path[:] = before


def _exporting(model_class: Any, config: Any, folder: Path, can_join_qkv: Callable[[int], bool]) -> Any:
    """Return the builder's class with weights, lm_head and special ids taken from our folder in our way."""
    llama = _builder_module().LlamaModel

    def load_weights(self: Any, input_path: str) -> Any:
        return load_model(folder)

    def has_lm_head(self: Any, module: Any) -> bool:
        # The builder takes every layer with as many outputs as there are tokens for the lm_head.
        return module is self.weights.get_output_embeddings()

    def is_fused_rope_supported(self: Any) -> bool:
        # Inside GroupQueryAttention, ONNX Runtime turns heads of a multiple of 16 only; others take position ids.
        return bool(self.head_size % _ROPE_MULTIPLE == 0)

    def is_qkv_projection_packable(self: Any, layer_id: int, attention: Any) -> bool:
        return can_join_qkv(layer_id) and bool(model_class.is_qkv_projection_packable(self, layer_id, attention))

    def make_attention(self: Any, layer_id: int, attention: Any, root_input: str, **kwargs: Any) -> None:
        # SmolLM3 has layers without RoPE; the builder would ask for position ids there.
        rope = self.attention_attrs["rope"]
        # A layer of joined projections would read the keys and values of the last one that has its own.
        self.attention_attrs.update(k_path="", v_path="")
        if config.model_type == "smollm3":
            self.attention_attrs["rope"] = bool(config.no_rope_layers[layer_id])
        model_class.make_attention(self, layer_id, attention, root_input, **kwargs)
        self.attention_attrs["rope"] = rope

    def make_rope_init(self: Any, said: Any) -> None:
        # The builder's Llama knows the rope types default and llama3, and would leave any other out without a word.
        if issubclass(model_class, llama) and said.rope_parameters["rope_type"] != "llama3":
            llama.__bases__[0].make_rope_init(self, said)
        else:
            model_class.make_rope_init(self, said)

    def make_rotary_embedding_caches_from_scratch(self: Any) -> Any:
        self.frequencies.append(frequencies_of(self))
        return model_class.make_rotary_embedding_caches_from_scratch(self)

    def resolve_special_token_ids(self: Any, said: Any, extra: Any) -> tuple[int | None, int | list[int], int]:
        ids = special_ids(folder)
        ends: int | list[int] = ids.eos[0] if len(ids.eos) == 1 else list(ids.eos)
        # onnxruntime-genai pads with a token of the vocabulary, whatever the model has.
        return ids.bos, ends, ids.pad if ids.pad is not None else ids.eos[0] if ids.eos else 0

    return type(
        model_class.__name__,
        (model_class,),
        {
            "load_weights": load_weights,
            "has_lm_head": has_lm_head,
            "is_fused_rope_supported": is_fused_rope_supported,
            "is_qkv_projection_packable": is_qkv_projection_packable,
            "make_attention": make_attention,
            "make_rope_init": make_rope_init,
            "make_rotary_embedding_caches_from_scratch": make_rotary_embedding_caches_from_scratch,
            "frequencies": [],
            "resolve_special_token_ids": resolve_special_token_ids,
        },
    )


def _prepared(config: Any) -> Any:
    """Give the config the names that the builder reads and that transformers 5 has moved or never had."""
    rope = config.rope_parameters
    if "full_attention" in rope:
        config.rope_local_base_freq = rope["sliding_attention"]["rope_theta"]
        config.rope_parameters = dict(rope["full_attention"])
    if getattr(config, "layer_types", None) is None and getattr(config, "sliding_window", None):
        # Mistral and Phi-3 use the window in every layer; without layer_types the builder would leave it out.
        config.layer_types = ["sliding_attention"] * config.num_hidden_layers
    return config
