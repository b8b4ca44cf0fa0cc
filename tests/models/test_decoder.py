from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from compress.errors import ArtifactError
from compress.models import onnx_decoder
from compress.models.decoder import Decoder, open_decoder
from compress.models.onnx_decoder import OnnxDecoder
from tests.models.tiny_decoder import CONTEXT, make_concat_folder, make_onnx_folder, make_torch_folder

FORMATS = ("torch", "onnx")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    parent = tmp_path_factory.mktemp("decoders")
    source = make_torch_folder(parent / "torch")
    return {"torch": source, "onnx": make_onnx_folder(source, parent / "onnx")}


@pytest.fixture
def ids() -> np.ndarray:
    return np.random.default_rng(1).integers(2, 300, (3, 20), dtype=np.int64)


def stepped(decoder: Decoder, ids: np.ndarray, prompt: int) -> np.ndarray:
    """Logits [B, T - prompt + 1, V] from the prompt's last token on, one token at a time."""
    found = [decoder.start(ids[:, :prompt])]
    found += [decoder.step(ids[:, place]) for place in range(prompt, ids.shape[1])]
    return np.stack(found, axis=1)


def test_onnx_equals_torch(folders: dict[str, Path], ids: np.ndarray) -> None:
    both = [open_decoder(folders[name]) for name in FORMATS]
    assert [decoder.format for decoder in both] == ["torch", "onnx"]
    assert {(decoder.vocabulary, decoder.context) for decoder in both} == {(300, CONTEXT)}
    left, right = (decoder.logits(ids) for decoder in both)
    assert left.dtype == right.dtype == np.float32
    assert left.shape == right.shape == (3, 20, 300)
    np.testing.assert_allclose(left, right, atol=2e-4)


@pytest.mark.parametrize("name", FORMATS)
def test_right_padding_changes_nothing(folders: dict[str, Path], ids: np.ndarray, name: str) -> None:
    decoder = open_decoder(folders[name])
    lengths = np.array([20, 7, 1])
    together = decoder.logits(ids, lengths)
    for row, length in enumerate(lengths):
        alone = decoder.logits(ids[row : row + 1, :length])
        np.testing.assert_allclose(together[row, :length], alone[0], atol=1e-4)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("prompt", [1, 9])
def test_steps_equal_logits(folders: dict[str, Path], ids: np.ndarray, name: str, prompt: int) -> None:
    decoder = open_decoder(folders[name])
    whole = decoder.logits(ids)
    np.testing.assert_allclose(stepped(decoder, ids, prompt), whole[:, prompt - 1 :], atol=2e-4)


@pytest.mark.parametrize("name", FORMATS)
def test_start_empties_the_cache(folders: dict[str, Path], ids: np.ndarray, name: str) -> None:
    decoder = open_decoder(folders[name])
    first = stepped(decoder, ids, 5)
    stepped(decoder, ids[:2, ::-1], 3)
    np.testing.assert_array_equal(stepped(decoder, ids, 5), first)


def test_shared_cache_grows(folders: dict[str, Path], ids: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_decoder, "_SPARE_TOKENS", 3)
    decoder = OnnxDecoder(folders["onnx"])
    assert decoder._shared
    np.testing.assert_allclose(stepped(decoder, ids, 4), decoder.logits(ids)[:, 3:], atol=2e-4)


def test_without_genai_config_the_cache_is_handed_on(folders: dict[str, Path], ids: np.ndarray, tmp_path: Path) -> None:
    folder = shutil.copytree(folders["onnx"], tmp_path / "plain")
    (folder / "genai_config.json").unlink()
    decoder = OnnxDecoder(folder)
    assert not decoder._shared
    np.testing.assert_allclose(stepped(decoder, ids, 4), decoder.logits(ids)[:, 3:], atol=2e-4)


def test_traced_graph_gets_positions_and_a_growing_cache(tmp_path: Path) -> None:
    folder, by_id, by_position = make_concat_folder(tmp_path / "concat")
    decoder = OnnxDecoder(folder)
    ids = np.random.default_rng(0).integers(0, 7, (2, 9), dtype=np.int64)
    expected = by_id[ids] + by_position[None, :9]
    np.testing.assert_allclose(decoder.logits(ids), expected, atol=1e-6)
    np.testing.assert_allclose(stepped(decoder, ids, 4), expected[:, 3:], atol=1e-6)
    np.testing.assert_array_equal(decoder._cache[0].numpy()[:, 0, :, 0], ids)


def test_threads_are_set(folders: dict[str, Path]) -> None:
    before = torch.get_num_threads()
    try:
        open_decoder(folders["torch"], threads=1)
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)
    assert OnnxDecoder(folders["onnx"], threads=1).session.get_session_options().intra_op_num_threads == 1


def test_onnx_needs_no_torch(folders: dict[str, Path]) -> None:
    script = (
        "import sys; from pathlib import Path; import numpy; from compress.models.decoder import open_decoder; "
        "open_decoder(Path(sys.argv[1])).start(numpy.ones((1, 3), dtype=numpy.int64)); "
        "raise SystemExit(any(name in sys.modules for name in ('torch', 'transformers')))"
    )
    root = Path(__file__).resolve().parents[2]
    assert subprocess.run([sys.executable, "-c", script, str(folders["onnx"])], cwd=root, check=False).returncode == 0


def test_refuses_folders_that_are_no_models(folders: dict[str, Path], tmp_path: Path) -> None:
    def refusal(folder: Path) -> str:
        with pytest.raises(ArtifactError) as caught:
            open_decoder(folder)
        return str(caught.value)

    nowhere = tmp_path / "nowhere"
    assert refusal(nowhere) == (
        f"{nowhere}: no such folder; give a model folder (model.onnx or model.safetensors, and config.json)"
    )
    empty = tmp_path / "empty"
    empty.mkdir()
    assert refusal(empty) == f"{empty}: neither model.onnx nor model*.safetensors there; a model folder is needed"
    bare = tmp_path / "bare"
    bare.mkdir()
    shutil.copyfile(folders["onnx"] / "model.onnx", bare / "model.onnx")
    assert refusal(bare) == f"{bare}: no config.json there; a model folder is needed"
    shutil.copyfile(folders["onnx"] / "config.json", bare / "config.json")
    assert "cannot open it" in refusal(bare)
    assert "model.onnx.data" in refusal(bare)


def test_refuses_graphs_that_are_no_decoders(tmp_path: Path) -> None:
    folder, _, _ = make_concat_folder(tmp_path / "concat")
    model = onnx.load(folder / "model.onnx")
    del model.graph.input[1]
    onnx.save(model, folder / "model.onnx")
    with pytest.raises(ArtifactError) as caught:
        open_decoder(folder)
    assert str(caught.value) == (
        f"{folder / 'model.onnx'}: a decoder has inputs input_ids, attention_mask and an output logits; "
        "found input_ids, position_ids, past_key_values.0.key -> logits, present.0.key"
    )


@pytest.mark.parametrize("name", FORMATS)
def test_refuses_what_the_cache_cannot_hold(folders: dict[str, Path], name: str) -> None:
    decoder = open_decoder(folders[name])
    with pytest.raises(ValueError, match="step before start: the cache is empty"):
        decoder.step(np.array([3]))
    with pytest.raises(ValueError, match="65 tokens are more than the context of 64"):
        decoder.start(np.full((1, CONTEXT + 1), 3))
    decoder.start(np.full((1, CONTEXT), 3))
    with pytest.raises(ValueError, match="the context of 64 tokens is full"):
        decoder.step(np.array([3]))
    with pytest.raises(ValueError, match=r"tokens must be \[1\] as in start, got shape \(2,\)"):
        decoder.step(np.array([3, 3]))
    with pytest.raises(ValueError, match=r"lengths must be 1 numbers from 1 to 4, got \[5\]"):
        decoder.logits(np.full((1, 4), 3), np.array([5]))
