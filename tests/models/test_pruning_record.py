"""pruning.safetensors: what is written is read, byte for byte the same; what does not fit is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from compress.errors import ArtifactError
from compress.models.pruning_record import FILE, read_record, write_record

SCORES = {
    "ffn": torch.tensor([[1.0, 3.0, 2.0], [float("nan")] * 3], dtype=torch.float64),
    "layers": torch.tensor([0.5, 0.1]),
}
KEPT = {"ffn": torch.tensor([[False, True, True], [False] * 3]), "layers": torch.tensor([True, False])}
NAMES = {"ffn": "activation", "layers": "block_influence"}


def test_what_is_written_is_read_in_the_order_of_the_axes(tmp_path: Path) -> None:
    assert write_record(tmp_path, SCORES, KEPT, NAMES) == tmp_path / FILE
    record = read_record(tmp_path)
    assert record is not None
    assert list(record) == ["layers", "ffn"]
    assert {axis: entry.score for axis, entry in record.items()} == NAMES
    for axis, entry in record.items():
        np.testing.assert_array_equal(entry.scores, SCORES[axis].numpy())
        np.testing.assert_array_equal(entry.kept, KEPT[axis].numpy())
        assert entry.scores.dtype == (np.float64 if axis == "ffn" else np.float32)


def test_tensors_and_arrays_in_any_order_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    one = write_record(tmp_path / "a", SCORES, KEPT, NAMES).read_bytes()
    turned = {axis: np.asfortranarray(SCORES[axis].numpy()) for axis in reversed(SCORES)}
    names = dict(reversed(NAMES.items()))
    assert write_record(tmp_path / "b", turned, KEPT, names).read_bytes() == one


def test_a_folder_without_the_file_has_no_record(tmp_path: Path) -> None:
    assert read_record(tmp_path) is None


def test_a_damaged_file_is_refused_by_name(tmp_path: Path) -> None:
    path = write_record(tmp_path, SCORES, KEPT, NAMES)
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(ArtifactError) as caught:
        read_record(tmp_path)
    assert str(caught.value).startswith(f"{path}: not readable (")
    assert str(caught.value).endswith("); prune the model again")


@pytest.mark.parametrize(
    ("scores", "kept", "names", "message"),
    [
        ({"ffn": torch.ones(1, 3)}, {"ffn": torch.ones(1, 2).bool()}, {"ffn": "taylor"}, r"ffn: scores \(1, 3\) and kept \(1, 2\) need"),
        ({"ffn": torch.ones(3)}, {"ffn": torch.ones(3).bool()}, {"ffn": "taylor"}, "one shape of 2 dimensions"),
        ({"vocab": torch.ones(3).long()}, {"vocab": torch.ones(3).bool()}, {"vocab": "usage"}, "scores are int64 and kept is bool"),
        ({"hidden": torch.ones(3)}, {}, {"hidden": "taylor"}, r"scores of \['hidden'\], kept of \[\]"),
        ({"width": torch.ones(3)}, {"width": torch.ones(3).bool()}, {"width": "taylor"}, r"scores of \['width'\]"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(
    scores: dict[str, torch.Tensor], kept: dict[str, torch.Tensor], names: dict[str, str], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        write_record(tmp_path, scores, kept, names)
    assert not (tmp_path / FILE).exists()
