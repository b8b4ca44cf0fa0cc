"""Makers of tiny decoder folders: a random Llama with its own tokenizer, its ONNX file, and a hand-made ONNX graph."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, LlamaConfig, LlamaForCausalLM

BOS, EOS = 0, 1
CONTEXT = 64
TEXT = [
    "The red fox ran to the old barn.",
    "A blue bird sang in the tall tree.",
    "Tom gave the ball to his friend Mia.",
]


def make_torch_folder(folder: Path, seed: int = 0, vocab: int = 300, context: int = CONTEXT) -> Path:
    """Write a random two-layer Llama with grouped queries and a byte-level tokenizer."""
    folder.mkdir(parents=True)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(TEXT * 4, trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = LlamaConfig(
        vocab_size=vocab,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=context,
        bos_token_id=BOS,
        eos_token_id=EOS,
        initializer_range=0.3,
        tie_word_embeddings=False,
    )
    torch.manual_seed(seed)
    LlamaForCausalLM(config).save_pretrained(folder)
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def make_onnx_folder(source: Path, folder: Path) -> Path:
    """Build the float32 ONNX file of a torch folder with onnxruntime-genai's builder."""
    from onnxruntime_genai.models.builder import create_model

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        details = {"extra_kwargs": {}, "hf_name": str(source), "hf_config": AutoConfig.from_pretrained(source)}
        create_model(None, str(source), str(folder), "fp32", "cpu", str(folder / "cache"), hf_details=details)
    for name in ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(source / name, folder / name)
    return folder


def make_concat_folder(folder: Path, vocab: int = 7, context: int = 12) -> tuple[Path, np.ndarray, np.ndarray]:
    """Write a graph whose cache grows by Concat and whose logits are E[id] + P[position]; return folder, E, P."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    by_id, by_position = (rng.normal(size=(n, vocab)).astype(np.float32) for n in (vocab, context))
    integers = [
        helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["B", "T"]),
        helper.make_tensor_value_info("attention_mask", TensorProto.INT64, ["B", "S"]),
        helper.make_tensor_value_info("position_ids", TensorProto.INT64, ["B", "T"]),
    ]
    past = helper.make_tensor_value_info("past_key_values.0.key", TensorProto.FLOAT, ["B", 1, "P", 1])
    outputs = [
        helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["B", "T", vocab]),
        helper.make_tensor_value_info("present.0.key", TensorProto.FLOAT, ["B", 1, "S", 1]),
    ]
    nodes = [
        helper.make_node("Gather", ["E", "input_ids"], ["a"]),
        helper.make_node("Gather", ["P", "position_ids"], ["b"]),
        helper.make_node("Add", ["a", "b"], ["logits"]),
        helper.make_node("Cast", ["input_ids"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["floats", "axes"], ["block"]),
        helper.make_node("Concat", ["past_key_values.0.key", "block"], ["present.0.key"], axis=2),
    ]
    weights = [
        numpy_helper.from_array(by_id, "E"),
        numpy_helper.from_array(by_position, "P"),
        numpy_helper.from_array(np.array([1, 3], dtype=np.int64), "axes"),
    ]
    graph = helper.make_graph(nodes, "concat", [*integers, past], outputs, weights)
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=9), folder / "model.onnx")
    config = {"vocab_size": vocab, "max_position_embeddings": context, "num_attention_heads": 1, "hidden_size": 1}
    (folder / "config.json").write_text(json.dumps(config))
    return folder, by_id, by_position
