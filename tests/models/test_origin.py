"""From what a recipe says to a folder; the hub is asked only where it answers."""

from __future__ import annotations

import socket
import time
from pathlib import Path

import pytest

from compress.errors import StageError
from compress.models import origin
from compress.models.folder import read_config


@pytest.fixture
def no_hub(monkeypatch):
    monkeypatch.setattr(origin, "hub_is_reachable", lambda: False)


def test_a_local_folder_is_itself(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    assert origin.fetch(str(tmp_path), None) == tmp_path
    assert origin.local_folder(str(tmp_path)) == tmp_path
    assert origin.local_folder("nobody/nothing") is None
    assert origin.peek_config(str(tmp_path), None) == {"model_type": "llama"}


def test_the_embedded_teacher_is_a_llama_of_about_3_million_parameters_in_8_megabytes():
    folder = origin.fetch(None, None, "storyteller")
    config = read_config(folder)
    assert config["model_type"] == "llama"
    assert config["num_key_value_heads"] < config["num_attention_heads"]
    assert (folder / "model.safetensors").stat().st_size <= 8_000_000
    assert {path.name for path in folder.iterdir()} >= {
        "recipe.yaml",
        "log-first-pass.jsonl",
        "log-storyteller.jsonl",
        "tokenizer.json",
    }


def test_a_hub_model_without_a_network_is_refused_at_once(no_hub):
    started = time.monotonic()
    assert origin.peek_config("nobody/nothing", None) is None
    with pytest.raises(
        StageError, match=r"model nobody/nothing: no such folder, and the hub cannot be asked now"
    ) as caught:
        origin.fetch("nobody/nothing", None)
    assert "--set 'teacher={model: path/to/folder}'" in str(caught.value)
    assert time.monotonic() - started < 5


def test_what_the_hub_says_is_told(monkeypatch):
    import huggingface_hub
    from huggingface_hub.errors import HFValidationError

    def refuse(*_, **__):
        raise HFValidationError("no such repository\nand more")

    monkeypatch.setattr(origin, "hub_is_reachable", lambda: True)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    with pytest.raises(StageError, match=r"and the hub says: no such repository\. Give a local folder"):
        origin.fetch("nobody/nothing", None)


def test_offline_mode_asks_no_socket(monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(socket, "create_connection", lambda *_, **__: pytest.fail("a socket was opened"))
    origin.hub_is_reachable.cache_clear()
    assert origin.hub_is_reachable() is False
    origin.hub_is_reachable.cache_clear()


def test_paths_below_the_home_folder_are_found(monkeypatch, tmp_path):
    (tmp_path / "model").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path))
    assert origin.local_folder("~/model") == Path(tmp_path / "model")
