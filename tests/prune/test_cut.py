from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch

from compress.models.families import shape_of
from compress.models.folder import load_model, read_config
from compress.prune.cut import Cut, Kept
from tests.references.masked import Float64, mask_channels, mask_columns, mask_heads, mask_layers
from tests.references.tiny_families import ARCHITECTURES, CONFIGS, COUPLED, DECODERS, GROUPED, tiny_model

LAYERS = [0, 2, 3]
VOCAB = sorted({*range(5), *torch.randperm(64, generator=torch.Generator().manual_seed(3))[:45].tolist()})
IDS = torch.tensor(VOCAB)[torch.randint(3, len(VOCAB), (2, 12), generator=torch.Generator().manual_seed(1))]
# Head h of 4 reads key/value head h // 2: equally many of both groups, one whole group, one head of one group.
EQUAL = {"heads": [[0, 3], [1, 2], [0, 2], [1, 3]], "kv_heads": [[0, 1]] * 4}
GROUPS = {"heads": [[0, 1], [2, 3], [2, 3], [0, 1]], "kv_heads": [[0], [1], [1], [0]]}
ONE = {"heads": [[0], [3], [2], [1]], "kv_heads": [[0], [1], [1], [0]]}
OWN = {"heads": [[0, 1, 3], [1, 2, 3], [0, 1, 2], [0, 2, 3]], "kv_heads": [[0, 1, 3], [1, 2, 3], [0, 1, 2], [0, 2, 3]]}

MODELS = [(family, architecture) for family in CONFIGS for architecture in ARCHITECTURES[family]]


def _some(of: int, kept: int, seed: int = 2) -> list[int]:
    return sorted(torch.randperm(of, generator=torch.Generator().manual_seed(seed))[:kept].tolist())


FFN = [_some(48, 31, seed) for seed in range(4)]
ALONE: dict[str, dict[str, Any]] = {"layers": {"layers": LAYERS}, "ffn": {"ffn": FFN}, "vocab": {"vocab": VOCAB}}
TOGETHER: dict[str, Any] = {"layers": LAYERS, "ffn": FFN[:3], "vocab": VOCAB}
CASES: dict[str, dict[str, Any]] = {
    "grouped": {
        **ALONE,
        "equal heads": EQUAL,
        "groups": GROUPS,
        "hidden": {"hidden": _some(32, 28)},
        "everything": {**TOGETHER, **{axis: lists[:3] for axis, lists in ONE.items()}, "hidden": _some(32, 26)},
    },
    "coupled": {
        **ALONE,
        "heads and hidden": {**OWN, "hidden": _some(32, 24)},
        "everything": {**TOGETHER, **{axis: lists[:3] for axis, lists in OWN.items()}, "hidden": _some(32, 24)},
    },
}


@functools.lru_cache(maxsize=1)
def _uncut(family: str, architecture: str, tied: bool) -> Any:
    return tiny_model(family, tied, architectures=[architecture])


def _masked(model: Any, kept: Kept) -> Any:
    masked, shape = copy.deepcopy(model), shape_of(model.config.to_dict())
    layers = list(range(shape.layers) if kept.layers is None else kept.layers)
    mask_layers(masked, layers)
    if kept.ffn is not None:
        mask_columns(masked, dict(zip(layers, kept.ffn, strict=True)))
    if kept.heads is not None:
        mask_heads(masked, dict(zip(layers, kept.heads, strict=True)), shape.head_dim)
    if kept.hidden is not None:
        mask_channels(masked, kept.hidden, shape.hidden)
    return masked


def _said(model: Any, ids: torch.Tensor, kept: Kept | None = None) -> torch.Tensor:
    """Everything that a model says about ids; of an uncut model only what stands for kept channels and tokens."""
    with torch.no_grad(), Float64():
        found = model(input_ids=ids)
    if hasattr(found, "logits"):
        logits: torch.Tensor = found.logits
        with_tokens = kept is not None and kept.vocab is not None and logits.shape[-1] == 64
        return logits[..., kept.vocab] if kept is not None and with_tokens else logits
    states = [found.last_hidden_state]
    if found.get("pooler_output") is not None:
        states.append(found.pooler_output[:, None])
    joined = torch.cat(states, 1)
    return joined if kept is None or kept.hidden is None else joined[..., kept.hidden]


def _renumbered(ids: torch.Tensor, kept: Kept) -> torch.Tensor:
    if kept.vocab is None:
        return ids
    return torch.searchsorted(torch.tensor(kept.vocab), ids)


def check_cut_equals_masked(model: Any, kept: Kept) -> Any:
    expected = _said(_masked(model, kept), IDS, kept)
    uncut = _said(model, IDS, kept)
    cut = Cut(copy.deepcopy(model), kept).run()
    found = _said(cut, _renumbered(IDS, kept))
    assert found.shape == expected.shape
    assert found.dtype == torch.float64
    assert (found - expected).abs().max() < 1e-8
    if kept.layers or kept.ffn or kept.heads or kept.hidden:
        assert (found - uncut).abs().max() > 1e-3
    return cut


def _sizes(kept: Kept) -> dict[str, int]:
    counts = {axis: len(getattr(kept, axis)) for axis in ("layers", "hidden", "vocab") if getattr(kept, axis)}
    counts |= {axis: len(getattr(kept, axis)[0]) for axis in ("ffn", "heads", "kv_heads") if getattr(kept, axis)}
    return {"vocabulary" if axis == "vocab" else axis: count for axis, count in counts.items()}


@pytest.mark.parametrize("case", list(CASES["grouped"]))
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("family", GROUPED)
def test_a_cut_decoder_with_heads_of_its_own_width_equals_the_masked_one(family, tied, case):
    check_family(family, ARCHITECTURES[family][0], tied, CASES["grouped"][case])


@pytest.mark.parametrize("case", list(CASES["coupled"]))
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize(("family", "architecture"), [each for each in MODELS if each[0] in COUPLED])
def test_a_cut_model_whose_heads_share_the_width_equals_the_masked_one(family, architecture, tied, case):
    check_family(family, architecture, tied, CASES["coupled"][case])


def check_family(family: str, architecture: str, tied: bool, parts: dict[str, Any]) -> None:
    model, kept = _uncut(family, architecture, tied), Kept(**parts)
    before = shape_of(model.config.to_dict())
    cut = check_cut_equals_masked(model, kept)
    after = shape_of(cut.config.to_dict())
    assert {**vars(before), **_sizes(kept)} == vars(after)
    assert type(cut) is type(model)
    head = cut.get_output_embeddings()
    if head is not None:
        assert (cut.get_input_embeddings().weight is head.weight) == tied
    assert all(parameter.device.type == "cpu" for parameter in cut.parameters())


VARIANTS: dict[str, tuple[str, dict[str, Any], str]] = {
    "llama with wide heads": ("llama", {"head_dim": 12, "attention_bias": False, "mlp_bias": False}, "grouped"),
    "qwen3 without biases": ("qwen3", {"attention_bias": False}, "grouped"),
    "phi3 with half of each head turned": (
        "phi3",
        {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}},
        "grouped",
    ),
    "gemma2 without caps": ("gemma2", {"attn_logit_softcapping": None, "final_logit_softcapping": None}, "grouped"),
    "gpt2 with a derived ffn": ("gpt2", {"n_inner": None}, "coupled"),
    "gpt_neo with a derived ffn": ("gpt_neo", {"intermediate_size": None}, "coupled"),
    "gpt_neox one after the other": ("gpt_neox", {"use_parallel_residual": False, "attention_bias": False}, "coupled"),
    "opt without biases": ("opt", {"enable_bias": False}, "coupled"),
    "roberta with more labels and padding elsewhere": (
        "roberta",
        {
            "architectures": ["RobertaForSequenceClassification"],
            "num_labels": 5,
            "pad_token_id": 1,
            "type_vocab_size": 1,
        },
        "coupled",
    ),
}


@pytest.mark.parametrize("variant", list(VARIANTS))
def test_variants_of_a_family_too(variant):
    family, changes, kind = VARIANTS[variant]
    check_cut_equals_masked(tiny_model(family, **changes), Kept(**CASES[kind]["everything"]))


def test_groups_of_three_lose_equally_many_and_whole_groups():
    model = tiny_model("mistral", num_attention_heads=6, num_key_value_heads=2, hidden_size=30, head_dim=8)
    fewer = Kept(heads=[[0, 2, 3, 4], [1, 2, 4, 5], [0, 1, 3, 5], [0, 2, 4, 5]], kv_heads=[[0, 1]] * 4)
    check_cut_equals_masked(model, fewer)
    check_cut_equals_masked(model, Kept(heads=[[3, 4, 5]] * 4, kv_heads=[[1]] * 4, hidden=_some(30, 17)))


@pytest.mark.parametrize("family", DECODERS)
@torch.no_grad()
def test_the_cache_of_a_cut_model_works(family):
    kind = "coupled" if family in COUPLED else "grouped"
    kept = Kept(**CASES[kind]["everything"])
    cut = Cut(tiny_model(family), kept).run()
    ids = _renumbered(IDS, kept)
    with Float64():
        whole = cut(ids, use_cache=False).logits
        started = cut(ids[:, :5], use_cache=True)
        cache, pieces = started.past_key_values, [started.logits]
        for position in range(5, ids.shape[1]):
            pieces.append(cut(ids[:, position : position + 1], past_key_values=cache, use_cache=True).logits)
    assert (torch.cat(pieces, 1) - whole).abs().max() < 1e-8


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize(("family", "architecture"), MODELS)
@torch.no_grad()
def test_a_cut_model_reloads_to_the_same_and_generates(family, architecture, tied, tmp_path):
    kept = Kept(**CASES["coupled" if family in COUPLED else "grouped"]["everything"])
    cut = Cut(tiny_model(family, tied, torch.float32, architectures=[architecture]), kept).run()
    cut.save_pretrained(tmp_path)
    reloaded = load_model(tmp_path)
    ids = _renumbered(IDS, kept)
    assert torch.equal(_floats(reloaded, ids), _floats(cut, ids))
    assert type(reloaded) is type(cut)
    assert shape_of(read_config(tmp_path)) == shape_of(cut.config.to_dict())
    if family in DECODERS:
        said = reloaded.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=4, do_sample=False, eos_token_id=None
        )
        assert said.shape == (2, 16)
        assert torch.equal(said[:, 12], reloaded(ids).logits[:, -1].argmax(-1))


def _floats(model: Any, ids: torch.Tensor) -> torch.Tensor:
    # Saving keeps no choice of attention: both use the same one.
    model.set_attn_implementation("eager")
    found: torch.Tensor = model(input_ids=ids)[0]
    return found


@pytest.mark.parametrize(
    ("family", "key"),
    [
        ("gemma3_text", "layer_types"),
        ("qwen2", "layer_types"),
        ("smollm3", "no_rope_layers"),
        ("gpt_neo", "attention_layers"),
    ],
)
def test_lists_with_an_entry_per_layer_follow_the_layers(family, key):
    model = tiny_model(family)
    before = list(getattr(model.config, key))
    cut = Cut(model, Kept(layers=[1, 2])).run()
    assert getattr(cut.config, key) == [before[1], before[2]]
    if family == "gpt_neo":
        assert cut.config.attention_types == [[["local", "global"], 1]]


@pytest.mark.parametrize("family", sorted({"llama", "gpt2", "distilbert"}))
@torch.no_grad()
def test_keeping_everything_changes_nothing(family):
    model = tiny_model(family)
    expected, before = model(IDS).logits, model.config.to_dict()
    every = [list(range(48))] * 4
    heads = [list(range(4))] * 4
    kv_heads = heads if family in COUPLED else [[0, 1]] * 4
    cut = Cut(model, Kept(range(4), every, heads, kv_heads, range(32), range(64))).run()
    assert torch.equal(cut(IDS).logits, expected)
    assert {key: value for key, value in cut.config.to_dict().items() if key != "dtype"} == {
        key: value for key, value in before.items() if key != "dtype"
    }


@torch.no_grad()
def test_one_of_each_is_enough():
    one = Kept([2], [[5]], [[3]], [[1]], [7], [0, 1, 2])
    cut = Cut(tiny_model("llama"), one).run()
    assert torch.isfinite(cut(torch.tensor([[1, 2, 1]])).logits).all()
    assert cut.model.layers[0].mlp.down_proj.weight.shape == (1, 1)


def test_layers_that_are_filled_are_let_go_and_hold_the_same_weights():
    model = tiny_model("llama")
    last = model.model.layers[3].mlp.up_proj.weight.clone()
    cut = Cut(model, Kept(layers=[3]))
    result = cut.run()
    assert torch.equal(result.model.layers[0].mlp.up_proj.weight, last)
    assert [type(layer) for layer in model.model.layers] == [torch.nn.Identity] * 4


REFUSED: dict[str, tuple[Callable[[], Kept], str]] = {
    "too few lists": (lambda: Kept(ffn=[[1]]), r"ffn: needs a list for each of 4 layers, got 1"),
    "lists for the uncut layers": (
        lambda: Kept(layers=[0], ffn=[[1]] * 4),
        r"ffn: needs a list for each of 1 layers, got 4",
    ),
    "uneven": (lambda: Kept(ffn=[[1], [1, 2], [1], [1]]), r"ffn: every layer must keep equally many, got \[1, 2\]"),
    "twice": (lambda: Kept(hidden=[1, 1]), r"hidden: needs ascending indices from 0 to 31"),
    "beyond": (lambda: Kept(vocab=[1, 64]), r"vocab: needs ascending indices from 0 to 63"),
    "nothing": (lambda: Kept(hidden=[]), r"hidden: needs ascending indices from 0 to 31"),
    "layers beyond": (lambda: Kept(layers=[0, 4]), r"layers: needs ascending indices from 0 to 3"),
    "no layers": (lambda: Kept(layers=[]), r"layers: needs ascending indices from 0 to 3"),
    "heads alone": (lambda: Kept(heads=[[0]] * 4), r"heads and kv_heads stand together; give both"),
    "heads of other groups": (
        lambda: Kept(heads=[[0, 1]] * 4, kv_heads=[[0, 1]] * 4),
        r"heads: layer 0 keeps query heads \[0, 1\] for key/value heads \[0, 1\], which do not read them in equal numbers",
    ),
    "a special token": (
        lambda: Kept(vocab=[0, 1, 5]),
        r"vocab: token 2 must stay, config.json names it as eos_token_id",
    ),
    "a width that its heads do not divide": (
        lambda: Kept(hidden=list(range(30))),
        r"transformers refuses the config: .*hidden size \(30\) is not a multiple of the number of attention heads \(4\)",
    ),
}


@pytest.mark.parametrize("case", list(REFUSED))
def test_parts_that_do_not_fit_are_refused(case):
    kept, message = REFUSED[case]
    with pytest.raises(ValueError, match=message):
        Cut(tiny_model("llama"), kept())


def test_special_tokens_get_their_new_ids():
    model = tiny_model("llama", bos_token_id=40, eos_token_id=[7, 50], pad_token_id=63, sep_token_id=900)
    model.generation_config.decoder_start_token_id = 9
    cut = Cut(model, Kept(vocab=[7, 8, 9, 40, 50, 63])).run()
    assert (cut.config.bos_token_id, cut.config.eos_token_id, cut.config.pad_token_id) == (3, [0, 4], 5)
    said = cut.generation_config
    assert (said.bos_token_id, said.eos_token_id, said.pad_token_id, said.decoder_start_token_id) == (3, [0, 4], 5, 2)
    assert cut.config.to_dict()["sep_token_id"] == 900
    assert (model.config.bos_token_id, model.generation_config.bos_token_id) == (40, 40)
    assert cut.get_input_embeddings().padding_idx == 5


def test_roberta_counts_positions_from_padding_and_refuses_to_move_it():
    model = tiny_model("roberta", bos_token_id=0, pad_token_id=3)
    with pytest.raises(
        ValueError, match=r"vocab: roberta counts positions from pad_token_id 3; keep every token before it"
    ):
        Cut(model, Kept(vocab=[0, *range(2, 64)]))


@pytest.mark.parametrize("parts", [OWN, {"hidden": list(range(24))}], ids=["heads", "hidden"])
def test_heads_and_hidden_that_do_not_shrink_together_are_refused(parts):
    found = (3, 24, 32) if "heads" in parts else (4, 32, 24)
    message = "heads and hidden shrink together in family opt: {} heads need a width of {}, got {}".format(*found)
    with pytest.raises(ValueError, match=message):
        Cut(tiny_model("opt"), Kept(**parts))


@pytest.mark.parametrize("family", ["bert", "gpt_neo", "gemma3_text"])
def test_buffers_of_every_kind_stand_where_the_weights_do(family):
    uncut = tiny_model(family).to("meta")
    buffers = dict(Cut(uncut, Kept(ffn=FFN)).model.named_buffers())
    assert len(buffers) >= 2
    assert {buffer.device.type for buffer in buffers.values()} == {"meta"}
    assert {buffer.dtype for buffer in buffers.values() if buffer.is_floating_point()} <= {torch.float64}
