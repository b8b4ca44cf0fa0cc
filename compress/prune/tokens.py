"""Which tokens the stage keeps, and the cut tokenizer that goes with them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from compress.artifact import write_text
from compress.contract import Context, DataAccess
from compress.data.corpus import Corpus
from compress.errors import StageError
from compress.models.folder import read_config, read_object
from compress.models.kind import is_causal
from compress.prune.extra_bits import choose_by_model
from compress.prune.tokenizer import named_ids, remap_ids, write_tokenizer
from compress.prune.vocabulary import choose_tokens, count_tokens


@dataclass(frozen=True)
class KeptTokens:
    """The ids that stay, ascending; how often the text uses each id of the uncut model [V]."""

    kept: list[int]
    uses: Tensor


def keep_tokens(context: Context, model: Any, keep: int) -> KeptTokens:
    """Choose the tokens that cost the model most to do without on training text, and write the cut tokenizer.

    The text is calibration text where the recipe has no other. A model that writes no text goes by uses alone.

    Raises StageError where the tokenizer cannot be cut.
    """
    config = read_config(context.source)
    corpus = _text(context.data, context)
    tokenizer, always = read_object(context.source / "tokenizer.json"), named_ids(context.source)
    uses = count_tokens(corpus, model.get_input_embeddings().weight.shape[0])
    if is_causal(config):
        kept = choose_by_model(model, tokenizer, corpus, keep, always, context.progress)
    else:
        kept = choose_tokens(tokenizer, uses, keep, always)
    try:
        write_tokenizer(context.source, context.target, kept)
    except ValueError as error:
        raise StageError(f"prune {context.source}: {error}") from error
    # Calibration text is tokenized with the cut tokenizer before the cut model writes its own config.
    named = json.dumps(remap_ids(config, kept), indent=2, sort_keys=True)
    write_text(context.target / "config.json", named + "\n")
    return KeptTokens(kept, torch.tensor(uses, dtype=torch.float64))


def _text(data: DataAccess | None, context: Context) -> Corpus:
    if data is None:
        raise StageError("prune: remove.vocab needs text to count tokens in; give the recipe data.train")
    return data("train" if data.has("train") else "calibration", context.source)
