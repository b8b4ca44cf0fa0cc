"""A process of its own that loads one artifact and times it: JSON lines in, JSON lines out.

For an ONNX folder it imports onnxruntime and numpy, never torch or transformers, so that its load time and peak memory
are those of an edge user. Run by `process.py` as `python -m compress.benchmark.worker`.

  {"do": "load", "folder", "threads"}        -> {"seconds", "runtime", "vocabulary", "context", "imports"}
  {"do": "run", "prompt", "new", "seed"}     -> {"start_seconds", "first_token_seconds", "steps_seconds"}
                                                of an encoder: {"start_seconds"}, the time of one text of `prompt` tokens
  {"do": "peak"}                             -> {"bytes", "method"}
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np

from compress.errors import CompressError
from compress.models.decoder import Decoder, format_of, open_decoder
from compress.models.encoder import open_encoder
from compress.models.folder import read_config
from compress.models.kind import is_causal

if TYPE_CHECKING:
    from compress.models.torch_encoder import TorchEncoder

Json = dict[str, Any]
_WATCHED = ("onnxruntime", "torch", "transformers")


class Worker:
    """One artifact in this process."""

    def __init__(self) -> None:
        self._decoder: Decoder | None = None
        self._encoder: TorchEncoder | None = None

    @property
    def decoder(self) -> Decoder:
        """The artifact, once `load` has been asked for."""
        if self._decoder is None:
            raise RuntimeError("load comes first")
        return self._decoder

    def load(self, folder: str, threads: int) -> Json:
        """Open the artifact; seconds count from its files to a model that can answer, without the imports of Python."""
        package = _import_runtime(Path(folder))
        started = perf_counter()
        opened: Decoder | TorchEncoder
        if is_causal(read_config(Path(folder))):
            opened = self._decoder = open_decoder(Path(folder), threads)
        else:
            opened = self._encoder = open_encoder(Path(folder), threads)
        seconds = perf_counter() - started
        return {
            "seconds": seconds,
            "runtime": f"{package} {version(package)}",
            "vocabulary": opened.vocabulary,
            "context": opened.context,
            "imports": [name for name in _WATCHED if name in sys.modules],
        }

    def run(self, prompt: int, new: int, seed: int) -> Json:
        """Read a prompt of seeded random ids, then decode `new` tokens greedily, EOS or not; an encoder only reads."""
        reader = self._encoder or self.decoder
        ids = np.random.default_rng(seed).integers(0, reader.vocabulary, (1, prompt), dtype=np.int64)
        if self._encoder:
            begun = perf_counter()
            self._encoder.outputs(ids)
            return {"start_seconds": perf_counter() - begun}
        begun = perf_counter()
        logits = self.decoder.start(ids)
        read = perf_counter()
        token = logits.argmax(-1)
        first = perf_counter()
        for _ in range(new):
            token = self.decoder.step(token).argmax(-1)
        ended = perf_counter()
        return {"start_seconds": read - begun, "first_token_seconds": first - begun, "steps_seconds": ended - first}

    def peak(self) -> Json:
        """Return the most memory that this process has held, in bytes, and how that is known."""
        size, method = peak_rss()
        return {"bytes": size, "method": method}


def peak_rss() -> tuple[int, str]:
    """Return the peak resident set size of this process in bytes, and the source of the number.

    Linux's ru_maxrss keeps the parent's size across fork and exec, so that VmHWM is read there.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        lines = (line.split() for line in status.read_text(encoding="ascii").splitlines())
        for parts in lines:
            if parts[0] == "VmHWM:":
                return int(parts[1]) * 1024, "VmHWM of /proc/self/status"
    if sys.platform == "win32":
        import psutil

        return int(psutil.Process().memory_info().peak_wset), "peak_wset"
    import resource

    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return size if sys.platform == "darwin" else size * 1024, "ru_maxrss"


def _import_runtime(folder: Path) -> str:
    """Import everything that opening the folder would import, and return the runtime's package."""
    if format_of(folder) == "onnx":
        import compress.models.onnx_decoder

        return "onnxruntime"
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

    import compress.models.torch_decoder
    import compress.models.torch_encoder  # noqa: F401
    from compress.models.skeleton import model_class

    # transformers imports the modelling code of a family when its class is first looked up.
    model_class(read_config(folder))
    MODEL_FOR_CAUSAL_LM_MAPPING.get(type(AutoConfig.from_pretrained(folder, local_files_only=True)), None)
    return "torch"


def serve(requests: TextIO, answer: Callable[[Json], None]) -> None:
    """Answer every request line until the requests end; an error for the user is answered as {"error": message}."""
    worker = Worker()
    for line in requests:
        request = json.loads(line)
        actions: dict[str, Callable[..., Json]] = {"load": worker.load, "run": worker.run, "peak": worker.peak}
        action = actions[request.pop("do")]
        try:
            answer(action(**request))
        except CompressError as error:
            answer({"error": str(error)})


def main() -> None:
    """Speak JSON lines on stdin and stdout; what libraries print goes to stderr."""
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def answer(message: Json) -> None:
        channel.write(json.dumps(message) + "\n")
        channel.flush()

    serve(sys.stdin, answer)


if __name__ == "__main__":
    main()
