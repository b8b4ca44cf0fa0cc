"""A model without weights: built from a config by transformers' own class, to prove a plan and to be filled by a cut.

Memory: parameters stand on the meta device and take none; buffers (rotary frequencies, masks) are real.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from compress.models.families import architecture_of, parameter_shapes


def model_class(config: Mapping[str, Any]) -> Any:
    """Return transformers' class for a config.json: what its architecture names, a causal language model where unknown."""
    import transformers

    try:
        return getattr(transformers, architecture_of(config))
    except ValueError:
        return transformers.AutoModelForCausalLM


def empty_model(config: Mapping[str, Any], attention: str | None = None) -> Any:
    """Return the model of a config.json with every parameter on the meta device, in eval mode, ties tied.

    attention   transformers' name of the attention implementation (None: its default)

    Raises ValueError where transformers refuses the config.
    """
    import torch
    import transformers
    from accelerate import init_empty_weights

    plain = {key: value for key, value in config.items() if key not in ("dtype", "torch_dtype")}
    try:
        built = transformers.AutoConfig.for_model(**plain)
        with init_empty_weights(include_buffers=False):
            model = model_class(config)._from_config(built, dtype=torch.float32, attn_implementation=attention)
    except Exception as error:
        # transformers 5 validates configs with errors of several kinds, some without a base of their own
        raise ValueError(f"transformers refuses the config: {_one_line(error)}") from error
    model.tie_weights()
    return model.eval()


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def prove_shapes(config: Mapping[str, Any]) -> None:
    """Build the model of a config.json on the meta device, and compare every shape with the family table.

    Raises ValueError where transformers refuses the config, and with the first differences.
    """
    expected = parameter_shapes(config)
    model = empty_model(config)
    found = {name: tuple(parameter.shape) for name, parameter in model.named_parameters(remove_duplicate=False)}
    wrong = [
        f"{name} is {found.get(name, 'missing')}, the family table says {expected.get(name, 'nothing of it')}"
        for name in sorted({*found, *expected})
        if found.get(name) != expected.get(name)
    ]
    if wrong:
        raise ValueError(f"the model of this config is not what the family table says: {'; '.join(wrong[:3])}")
