from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from compress.models.quantized import QuantizedWeight, dequantize, store
from compress.models.scheme import Scheme
from compress.quantize.finished import Finished, put
from compress.quantize.rtn import round_to_nearest


def entry(weight: torch.Tensor, symmetric: bool) -> QuantizedWeight:
    rounded = round_to_nearest(weight, 4, 16, symmetric)
    zeros = None if symmetric else rounded.zeros.numpy()
    scheme = Scheme(4, 16, symmetric, (weight.shape[0], weight.shape[1]))
    return store(scheme, rounded.codes.numpy(), rounded.scales.numpy(), zeros)


def model(seed: int) -> Any:
    torch.manual_seed(seed)
    return torch.nn.ModuleDict({"a": torch.nn.Linear(20, 6), "b": torch.nn.Linear(6, 3)})


@pytest.mark.parametrize("symmetric", [True, False])
def test_a_part_comes_back_as_it_was(tmp_path: Path, symmetric: bool) -> None:
    source, finished = model(0), Finished(tmp_path / "deep" / "layers")
    assert not finished.has("layer-0000")
    stored = {"a.weight": entry(source["a"].weight.detach(), symmetric)}
    others = {name: weight for name, weight in source.named_parameters() if name in ("a.bias", "b.weight")}
    finished.write("layer-0000", stored, others)
    assert finished.has("layer-0000")
    assert not finished.has("layer-0001")
    target = model(1)
    bias = target["b"].bias.detach().clone()
    found = Finished(tmp_path / "deep" / "layers").read("layer-0000", target)
    assert found.keys() == stored.keys()
    np.testing.assert_array_equal(found["a.weight"].codes, stored["a.weight"].codes)
    np.testing.assert_array_equal(found["a.weight"].scales, stored["a.weight"].scales)
    assert found["a.weight"].scheme == stored["a.weight"].scheme
    np.testing.assert_array_equal(target["a"].weight.detach().numpy(), dequantize(stored["a.weight"]))
    assert torch.equal(target["a"].bias, source["a"].bias)
    assert torch.equal(target["b"].weight, source["b"].weight)
    assert torch.equal(target["b"].bias, bias)


def test_what_was_left_half_written_is_none_and_gives_way(tmp_path: Path) -> None:
    finished, source = Finished(tmp_path), model(0)
    half = tmp_path / "layer-0000.unfinished"
    half.mkdir()
    (half / "rubbish").write_bytes(b"half")
    assert not finished.has("layer-0000")
    finished.write("layer-0000", {}, dict(source.named_parameters()))
    assert [path.name for path in tmp_path.iterdir()] == ["layer-0000"]
    assert not (tmp_path / "layer-0000" / "rubbish").exists()
    target = model(1)
    assert finished.read("layer-0000", target) == {}
    assert all(torch.equal(weight, source.get_parameter(name)) for name, weight in target.named_parameters())


def test_a_write_that_fails_leaves_no_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError("disk full")

    finished = Finished(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("compress.quantize.finished.flush", fail)
        with pytest.raises(OSError, match="disk full"):
            finished.write("embedding", {}, dict(model(0).named_parameters()))
    assert not finished.has("embedding")
    finished.write("embedding", {}, dict(model(0).named_parameters()))
    assert finished.has("embedding")


def test_codes_are_put_into_a_weight_that_stays_the_same_tensor() -> None:
    weight = torch.nn.Parameter(torch.randn(4, 20))
    before = weight.data_ptr()
    stored = entry(weight.detach(), True)
    put(weight, stored)
    assert weight.data_ptr() == before
    np.testing.assert_array_equal(weight.detach().numpy(), dequantize(stored))
