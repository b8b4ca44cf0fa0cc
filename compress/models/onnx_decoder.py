"""An ONNX model folder as a Decoder: onnxruntime and numpy alone, as on an edge machine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state

from compress.errors import ArtifactError
from compress.models.decoder import ONNX_FILE, Format, Ids, Logits, check_prompt, check_step, context_of, vocabulary_of
from compress.models.folder import read_config, read_object

_TYPES: dict[str, type[np.floating[Any]]] = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
# ONNX Runtime's errors have no common class but Exception.
_ERRORS = tuple(
    kind for kind in vars(onnxruntime_pybind11_state).values() if isinstance(kind, type) and issubclass(kind, Exception)
)
# The shared cache grows by this many tokens at least, so that most answers need no second copy.
_SPARE_TOKENS = 256


class OnnxDecoder:
    """A graph with input_ids, attention_mask, optionally position_ids, past_key_values.N.* -> logits, present.N.*.

    The cache stays in ONNX Runtime's memory. Where genai_config.json declares `past_present_share_buffer`
    (GroupQueryAttention), one buffer is read and written in place, as onnxruntime-genai does it; elsewhere each step's
    present is handed on as the next step's past.

    Memory: of the shared cache 2 · L · B · K · (T + up to 256, later doubled) · head width · 4 bytes.
    """

    def __init__(self, folder: Path, threads: int | None = None) -> None:
        self.folder = folder
        config = read_config(folder)
        self.session = _open_session(folder / ONNX_FILE, threads)
        self._inputs = {entry.name: entry for entry in self.session.get_inputs()}
        self._outputs = {entry.name: entry for entry in self.session.get_outputs()}
        if not {"input_ids", "attention_mask"} <= self._inputs.keys() or "logits" not in self._outputs:
            raise ArtifactError(
                f"{folder / ONNX_FILE}: a decoder has inputs input_ids, attention_mask and an output logits; "
                f"found {', '.join(self._inputs)} -> {', '.join(self._outputs)}"
            )
        self._past = [name for name in self._inputs if name.startswith("past_key_values.")]
        self._present = [name.replace("past_key_values.", "present.", 1) for name in self._past]
        if missing := [name for name in self._present if name not in self._outputs]:
            raise ArtifactError(f"{folder / ONNX_FILE}: outputs {', '.join(missing)} are missing")
        genai = _read_genai(folder)
        width = self._outputs["logits"].shape[-1]
        self.vocabulary: int = width if isinstance(width, int) else vocabulary_of(config, folder)
        self.context: int = context_of(config, folder)
        self.format: Format = "onnx"
        self._heads, self._head_width = _cache_shape(config, genai, folder)
        self._type = _float_type(self._inputs[self._past[0]].type, folder) if self._past else np.float32
        self._shared = bool(self._past) and bool(genai.get("search", {}).get("past_present_share_buffer", False))
        self._binding = self.session.io_binding()
        self._cache: list[Any] = []
        self._rows = self._used = 0

    def logits(self, ids: Ids, lengths: Ids | None = None) -> Logits:
        """Return float32 logits [B, T, V] of right-padded ids [B, T]; no cache output is computed into numpy."""
        check_prompt(ids, self.context, lengths)
        rows, tokens = ids.shape
        mask = np.ones(ids.shape, np.int64)
        if lengths is not None:
            mask = (np.arange(tokens)[None, :] < lengths[:, None]).astype(np.int64)
        feed: dict[str, npt.NDArray[Any]] = {
            "input_ids": np.ascontiguousarray(ids, dtype=np.int64),
            "attention_mask": mask,
        }
        if "position_ids" in self._inputs:
            feed["position_ids"] = _positions(rows, 0, tokens)
        for name in self._past:
            feed[name] = np.zeros(self._shape(name, rows, 0), self._type)
        with _explained(self.folder / ONNX_FILE, "run"):
            output: Logits = self.session.run(["logits"], feed)[0]
        return output.astype(np.float32, copy=False)

    def start(self, ids: Ids) -> Logits:
        """Empty the cache, read ids [B, T], return float32 logits [B, V] of the last token."""
        check_prompt(ids, self.context)
        self._need_cache()
        self._rows, self._used = ids.shape[0], 0
        capacity = min(self.context, ids.shape[1] + _SPARE_TOKENS) if self._shared else 0
        # A buffer of the right size is used again: what it holds beyond the mask is never read.
        if not (
            self._shared
            and self._cache
            and self._cache[0].shape() == list(self._shape(self._past[0], ids.shape[0], capacity))
        ):
            self._cache = [
                self._value(np.zeros(self._shape(name, self._rows, capacity), self._type)) for name in self._past
            ]
        return self._read(ids)

    def step(self, tokens: Ids) -> Logits:
        """Read tokens [B] with the cache, return float32 logits [B, V]."""
        check_step(tokens, self._rows, self._used, self.context)
        if self._shared and self._used >= self._cache[0].shape()[2]:
            self._grow()
        return self._read(tokens[:, None])

    def _read(self, ids: Ids) -> Logits:
        rows, tokens = ids.shape
        binding = self._binding
        binding.clear_binding_inputs()
        binding.clear_binding_outputs()
        binding.bind_cpu_input("input_ids", np.ascontiguousarray(ids, dtype=np.int64))
        binding.bind_cpu_input("attention_mask", np.ones((rows, self._used + tokens), np.int64))
        if "position_ids" in self._inputs:
            binding.bind_cpu_input("position_ids", _positions(rows, self._used, tokens))
        binding.bind_output("logits", "cpu")
        for past, present, value in zip(self._past, self._present, self._cache, strict=True):
            binding.bind_ortvalue_input(past, value)
            if self._shared:
                binding.bind_ortvalue_output(present, value)
            else:
                binding.bind_output(present, "cpu")
        with _explained(self.folder / ONNX_FILE, "run"):
            self.session.run_with_iobinding(binding)
        outputs = binding.get_outputs()
        if not self._shared:
            self._cache = list(outputs[1:])
        self._used += tokens
        last: Logits = outputs[0].numpy()[:, -1]
        return last.astype(np.float32, copy=False)

    def _grow(self) -> None:
        capacity = min(self.context, max(2 * self._used, self._used + _SPARE_TOKENS))
        grown = []
        for name, value in zip(self._past, self._cache, strict=True):
            block = np.zeros(self._shape(name, self._rows, capacity), self._type)
            block[:, :, : self._used] = value.numpy()[:, :, : self._used]
            grown.append(self._value(block))
        self._cache = grown

    def _shape(self, name: str, rows: int, tokens: int) -> tuple[int, int, int, int]:
        _, heads, _, width = self._inputs[name].shape
        return (
            rows,
            heads if isinstance(heads, int) else self._heads,
            tokens,
            width if isinstance(width, int) else self._head_width,
        )

    def _need_cache(self) -> None:
        if not self._past:
            raise ArtifactError(
                f"{self.folder / ONNX_FILE}: no inputs past_key_values.N.*: it cannot decode; export it with a cache"
            )

    @staticmethod
    def _value(block: npt.NDArray[Any]) -> Any:
        return onnxruntime.OrtValue.ortvalue_from_numpy(block)


def _open_session(path: Path, threads: int | None) -> Any:
    options = onnxruntime.SessionOptions()
    if threads is not None:
        options.intra_op_num_threads = threads
    options.log_severity_level = 3
    with _explained(path, "open"):
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


@contextmanager
def _explained(path: Path, what: str) -> Iterator[None]:
    try:
        yield
    except _ERRORS as error:
        raise ArtifactError(f"{path}: ONNX Runtime {onnxruntime.__version__} cannot {what} it: {error}") from error


def _read_genai(folder: Path) -> dict[str, Any]:
    path = folder / "genai_config.json"
    return read_object(path) if path.is_file() else {}


def _cache_shape(config: dict[str, Any], genai: dict[str, Any], folder: Path) -> tuple[int, int]:
    """Return key/value heads and head width, for graphs whose past inputs leave them open."""
    decoder = genai.get("model", {}).get("decoder", {})
    if "num_key_value_heads" in decoder and "head_size" in decoder:
        return int(decoder["num_key_value_heads"]), int(decoder["head_size"])
    heads = config.get("num_attention_heads") or config.get("n_head")
    hidden = config.get("hidden_size") or config.get("n_embd")
    if not heads or not hidden:
        raise ArtifactError(f"{folder / 'config.json'}: num_attention_heads and hidden_size are needed there")
    return int(config.get("num_key_value_heads") or heads), int(config.get("head_dim") or hidden // heads)


def _float_type(name: str, folder: Path) -> type[np.floating[Any]]:
    if name not in _TYPES:
        raise ArtifactError(f"{folder / ONNX_FILE}: the cache is {name}; {' or '.join(_TYPES)} can be run")
    return _TYPES[name]


def _positions(rows: int, first: int, count: int) -> Ids:
    return np.tile(np.arange(first, first + count, dtype=np.int64), (rows, 1))
