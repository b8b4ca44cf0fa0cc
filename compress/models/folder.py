"""A model folder on disk: its config, tokenizer and weights. What needs no torch imports none."""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.errors import ArtifactError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

# Which tokens a cut vocabulary kept, see vocabulary.py: it goes wherever the tokenizer goes.
MAP_FILE = "vocabulary_map.json"
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "chat_template.jinja",
    MAP_FILE,
)


@dataclass(frozen=True)
class SpecialIds:
    """The token ids with a meaning of their own; None where the model has none."""

    bos: int | None
    eos: tuple[int, ...]
    pad: int | None


def read_config(folder: Path) -> dict[str, Any]:
    """Return config.json of a model folder.

    Raises ArtifactError where there is none or it is no JSON object.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise ArtifactError(f"{folder}: no config.json there; a model folder is needed")
    return read_object(path)


def read_object(path: Path) -> dict[str, Any]:
    """Return the JSON object of a file.

    Raises ArtifactError where it holds no JSON object.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ArtifactError(f"{path}: not JSON ({error})") from error
    if not isinstance(found, dict):
        raise ArtifactError(f"{path}: a JSON object is needed, found {type(found).__name__}")
    return found


def load_tokenizer(folder: Path) -> Tokenizer:
    """Return the tokenizer of a folder; encode with add_special_tokens=False, the special tokens are ours to place.

    Raises ArtifactError where there is no tokenizer.json.
    """
    from tokenizers import Tokenizer

    path = folder / "tokenizer.json"
    if not path.is_file():
        raise ArtifactError(
            f"{folder}: no tokenizer.json there; save the tokenizer in the fast format "
            "(AutoTokenizer.from_pretrained(...).save_pretrained(folder))"
        )
    try:
        tokenizer: Tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises nothing narrower
        raise ArtifactError(f"{path}: no tokenizer can be read from it ({error})") from error
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def special_ids(folder: Path) -> SpecialIds:
    """Return the ids of BOS, EOS and PAD as generation_config.json and config.json give them."""
    config = read_config(folder)
    generation = folder / "generation_config.json"
    if generation.is_file():
        config = config | {key: value for key, value in read_object(generation).items() if value is not None}
    eos = config.get("eos_token_id")
    ends = () if eos is None else tuple(eos) if isinstance(eos, list) else (eos,)
    return SpecialIds(config.get("bos_token_id"), ends, config.get("pad_token_id"))


def copy_tokenizer(source: Path, target: Path) -> None:
    """Copy the tokenizer's files; the class is named so that transformers 4 and 5 both open it."""
    for name in TOKENIZER_FILES:
        if (source / name).is_file() and source != target:
            shutil.copyfile(source / name, target / name)
    path = target / "tokenizer_config.json"
    settings = read_object(path) if path.is_file() else {}
    if (target / "tokenizer.json").is_file():
        settings["tokenizer_class"] = "PreTrainedTokenizerFast"
        settings.pop("backend", None)
        settings.pop("auto_map", None)
    path.write_text(json.dumps(settings, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")


def weight_files(folder: Path) -> list[Path]:
    """Return the safetensors files of a model's weights (not quantization.safetensors).

    Raises ArtifactError where there are none.
    """
    found = sorted(path for path in folder.glob("model*.safetensors"))
    if not found:
        raise ArtifactError(f"{folder}: no model*.safetensors there; save the weights as safetensors")
    return found


def load_model(folder: Path, device: str = "cpu") -> Any:
    """Return the model of a folder, float32, in eval mode, from local files alone: a causal language model, or what the
    architecture of a family in the table names.

    Raises ArtifactError when weights are missing or do not fit the config.
    """
    import torch
    from safetensors import SafetensorError
    from transformers.utils import logging

    from compress.models.skeleton import model_class

    logging.disable_progress_bar()
    weight_files(folder)
    try:
        model, report = model_class(read_config(folder)).from_pretrained(
            folder, dtype=torch.float32, local_files_only=True, output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise ArtifactError(f"{folder}: the model does not load: {error}") from error
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if report.get(kind):
            raise ArtifactError(
                f"{folder}: {kind.replace('_', ' ')} in the weights: {sorted(map(str, report[kind]))[:5]}"
            )
    return model.to(device).eval()


def take_into_memory(model: Any, folder: Path) -> None:
    """Replace weights that are mapped from the folder's files by copies, one by one: letting go of one then frees its memory.

    A mapped file stays in memory as a whole for as long as one of its weights is used.

    Memory: one weight beside the model.
    """
    from safetensors import safe_open

    files: dict[str, Path] = {}
    for path in weight_files(folder):
        with safe_open(path, framework="pt") as file:
            files |= dict.fromkeys(file.keys(), path)
    for name, parameter in model.named_parameters():
        if name in files:
            # opened anew for each weight, so that the pages of one at a time are held
            with safe_open(files[name], framework="pt") as file:
                stored = file.get_tensor(name)
                if (stored.dtype, stored.shape) == (parameter.dtype, parameter.shape):
                    parameter.data = stored.to(parameter.device, copy=True)


def stored_weights(folder: Path, names: Collection[str]) -> Iterator[tuple[str, Any]]:
    """Yield the weights of these names as the folder's files hold them; names that are not there are passed over.

    Memory: one weight.
    """
    from safetensors import safe_open

    for path in weight_files(folder):
        with safe_open(path, framework="pt") as file:
            found = [name for name in file.keys() if name in names]  # noqa: SIM118
        for name in found:
            # opened anew for each weight, so that the pages of one at a time are held
            with safe_open(path, framework="pt") as file:
                yield name, file.get_tensor(name)


def save_model(model: Any, folder: Path, tokenizer_from: Path) -> None:
    """Write config, generation config, weights (tied weights once) and the tokenizer of another folder."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    model.save_pretrained(folder)
    copy_tokenizer(tokenizer_from, folder)
