"""What kind of model a folder holds, from the class that its config.json names. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from compress.models.families import architecture_of
from compress.models.family_table import FAMILIES

Config = Mapping[str, Any]
_CAUSAL = ("ForCausalLM", "LMHeadModel")
_CLASSIFIER = "ForSequenceClassification"


def class_name(config: Config) -> str:
    """Return transformers' class of a model; empty where config.json names none and its family is not in the table."""
    try:
        return architecture_of(config)
    except ValueError:
        named = config.get("architectures")
        return str(named[0]) if isinstance(named, list) and named else ""


def is_known(config: Config) -> bool:
    """Say whether the family table has the class of a model."""
    family = FAMILIES.get(str(config.get("model_type")))
    return family is not None and class_name(config) in family.heads


def is_causal(config: Config) -> bool:
    """Say whether a model is a causal language model; one that names no class, or a base model without a head, counts as
    what its family is by default."""
    name = class_name(config)
    if name.endswith(_CAUSAL):
        return True
    if "For" in name:
        # a decoder that reads images too is one, T5 is not
        return name.endswith("ForConditionalGeneration") and not config.get("is_encoder_decoder")
    family = FAMILIES.get(str(config.get("model_type")))
    return family is None or next(iter(family.heads)).endswith(_CAUSAL)


def is_classifier(config: Config) -> bool:
    """Say whether a model gives a whole text one of several classes."""
    return class_name(config).endswith(_CLASSIFIER)


def not_causal(config: Config) -> str:
    """Return the words for a model that is no causal language model."""
    return f"{class_name(config)} is no causal language model"
