"""Documents are written once, the same after every kill, and counted at every filter."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from compress.data.load import RecipeData
from compress.data.options import DataOptions
from compress.data.written import texts as texts_module
from compress.data.written import write
from compress.data.written.texts import Teacher
from compress.errors import StageError
from compress.models.folder import load_model, load_tokenizer
from tests.data.written.tiny_teacher import make_source, make_teacher, stories
from tests.models.tiny_decoder import BOS
from tests.references.near_duplicates import perplexity

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    return make_teacher(tmp_path_factory.mktemp("model") / "plain")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("COMPRESS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def files(cache: Path) -> dict[str, bytes]:
    return {
        path.relative_to(cache).as_posix(): path.read_bytes()
        for path in sorted(cache.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


def batches(cache: Path) -> list[Path]:
    return sorted(cache.glob("written/*/0*.jsonl"))


def openings(tmp_path, **options):
    return make_source({"openings": stories(tmp_path) | {"tokens": 3}}, **options)


class Killed(BaseException):
    """What a test raises where a kill would fall."""


def test_documents_continue_the_openings(teacher, tmp_path):
    found = write.written_documents(openings(tmp_path, documents=6), teacher)
    assert len(found) == 6
    assert all(document.segments[0][1] and len(document.segments) == 1 for document in found)
    begun = {text[:5] for text in ("The red", "A blue", "Tom gave")}
    assert {document.text[:5] for document in found} <= begun
    report = write.written_report(openings(tmp_path, documents=6), teacher)
    assert (report["texts"], report["documents"], report["kept"], report["prompts_too_long"]) == (8, 8, 6, 0)
    assert report["tokens"] <= 8 * 12
    assert len(report["samples"]) == 6


def test_it_is_written_once_and_more_goes_on_from_it(teacher, tmp_path, cache, monkeypatch):
    first = write.written_documents(openings(tmp_path, documents=6), teacher)
    before = files(cache)
    monkeypatch.setattr(texts_module, "load_model", lambda *_: pytest.fail("the teacher was asked again"))
    assert write.written_documents(openings(tmp_path, documents=6), teacher) == first
    assert files(cache) == before
    assert write.written_documents(openings(tmp_path, documents=5, filters=["exact_duplicates"]), teacher)
    monkeypatch.undo()
    monkeypatch.setenv("COMPRESS_CACHE", str(cache))
    more = write.written_documents(openings(tmp_path, documents=10), teacher)
    assert more[:6] == first
    assert {name: text for name, text in files(cache).items() if name in before} == before


def test_what_determines_the_texts_is_in_the_key(teacher, tmp_path):
    base = {"documents": 4}
    sources = [openings(tmp_path, **(base | change)) for change in (
        {}, {"seed": 1}, {"new_tokens": 11}, {"sampling": {"batch": 2}}, {"stop": ["x"]}, {"documents": 5},
        {"filters": ["repetition"]}, {"prompt_is": "dropped"}, {"attempts": 2},
    )]  # fmt: skip
    sources.append(make_source({"openings": stories(tmp_path) | {"tokens": 4}}, documents=4))
    keys = [write.fingerprint_written(source, teacher) for source in sources]
    keys.append(write.fingerprint_written(sources[0], Teacher(teacher.folder, "another")))
    assert len(set(keys)) == len(keys)


def test_a_killed_writing_goes_on_and_gives_the_same_bytes(teacher, tmp_path, cache, monkeypatch):
    source = openings(tmp_path, documents=12, filters=["exact_duplicates", {"perplexity": {"max": 1e9}}])
    straight = write.written_documents(source, teacher)
    expected = files(cache)
    monkeypatch.setenv("COMPRESS_CACHE", str(tmp_path / "other"))

    def kill(done, total, unit="", note=""):
        if done >= 8:
            raise Killed

    with pytest.raises(Killed):
        write.written_documents(source, teacher, kill)
    left = batches(tmp_path / "other")
    assert len(left) == 2
    times = [path.stat().st_mtime_ns for path in left]
    assert write.written_documents(source, teacher) == straight
    assert files(tmp_path / "other") == expected
    assert [path.stat().st_mtime_ns for path in left] == times


def test_kill_9_loses_no_finished_batch(teacher, tmp_path, cache):
    source = openings(tmp_path, documents=400, sampling={"batch": 8})
    code = (
        "import sys; from compress.data.options import Source; from compress.data.written import write;"
        f"from compress.data.written.texts import Teacher; from pathlib import Path;"
        f"write.written_documents(Source.model_validate_json(sys.argv[1]), Teacher(Path({str(teacher.folder)!r}), {teacher.key!r}))"
    )
    given = source.model_dump_json(exclude_none=True, by_alias=True)
    process = subprocess.Popen([sys.executable, "-c", code, given], cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"})
    deadline = time.monotonic() + 300
    while len(batches(cache)) < 3 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait(timeout=60) == -signal.SIGKILL
    left = {path: path.stat().st_mtime_ns for path in batches(cache)}
    assert 3 <= len(left) < 50
    resumed = write.written_documents(source, teacher)
    assert {path: path.stat().st_mtime_ns for path in left} == left
    assert len(resumed) == 400
    assert not list(cache.rglob(".tmp-*"))


def test_a_damaged_batch_is_written_again(teacher, tmp_path, cache):
    source = openings(tmp_path, documents=8)
    expected = write.written_documents(source, teacher)
    path = batches(cache)[1]
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    document = next(cache.rglob("documents.jsonl"))
    document.write_text(document.read_text().replace("o", "0"))
    assert write.written_report(source, teacher) is None
    assert write.written_documents(source, teacher) == expected
    assert path.read_bytes() == whole


def test_without_documents_each_prompt_is_answered_once(teacher, tmp_path, cache):
    found = write.written_documents(openings(tmp_path), teacher)
    assert len(found) == 3
    assert len(batches(cache)) == 1


def test_too_few_is_said_with_the_counts(teacher, tmp_path):
    source = openings(tmp_path, documents=8, attempts=2, filters=["exact_duplicates", {"length": {"min": 1000}}])
    with pytest.raises(StageError) as caught:
        write.written_documents(source, teacher)
    assert str(caught.value) == (
        "of 16 prompts, the teacher's texts and the filters left 0 documents, 8 are asked for, and attempts (2) allows no "
        "more (documents 16, exact_duplicates 16, length 0); loosen the filters, raise attempts, or ask for fewer documents"
    )
    with pytest.raises(StageError, match=r"left 0 documents .*; loosen the filters, or look at the prompts"):
        write.written_documents(openings(tmp_path, filters=[{"length": {"min": 1000}}]), teacher)


def test_prompts_without_room_are_counted(teacher, tmp_path):
    (tmp_path / "long.txt").write_text("the red fox " * 40 + "--short")
    given = {"openings": {"files": str(tmp_path / "long.txt"), "separator": "--"}}
    source = make_source(given)
    assert [document.text[:5] for document in write.written_documents(source, teacher)] == ["short"]
    report = write.written_report(source, teacher)
    assert (report["texts"], report["prompts_too_long"], report["documents"]) == (2, 1, 1)


def test_prompts_are_learned_read_or_dropped(teacher, tmp_path):
    flags = {}
    for role in ("learned", "read", "dropped"):
        found = write.written_documents(openings(tmp_path, documents=4, prompt_is=role), teacher)
        flags[role] = {tuple(learned for _, learned in document.segments) for document in found}
    assert flags == {"learned": {(True,)}, "read": {(False, True)}, "dropped": {(True,)}}


@pytest.mark.parametrize("chat", [False, True])
def test_every_route_gives_documents(tmp_path, chat):
    teacher = make_teacher(tmp_path / "model", chat)
    (tmp_path / "asked.jsonl").write_text('{"instruction": "Sing."}\n{"instruction": "Run."}\n')
    pairs = "(?P<question>..)(?P<answer>.+)"
    chunks = {"chunks": stories(tmp_path) | {"tokens": 8, "ask": "{chunk}?", "pairs": pairs}}
    template = {"template": "A {noun}", "words": {"noun": ["fox", "owl"]}}
    instructions = {"instructions": {"files": str(tmp_path / "asked.jsonl"), "template": "{instruction}"}}
    begun = "[user] " if chat else ""
    for prompts, options, first in (
        (instructions, {}, f"{begun}Sing."),
        (template, {"documents": 3}, f"{begun}A "),
        (chunks, {}, begun),
        ({"openings": "bos"}, {"documents": 3}, ""),
    ):
        found = write.written_documents(make_source(prompts, **options), teacher)
        assert len(found) >= 2
        if first:
            starts = [document.segments[0][0] for document in found]
            assert any(text.startswith(first) for text in starts)
            assert all([learned for _, learned in document.segments] == [False, True] for document in found)


def test_a_text_ends_before_its_stop(teacher, tmp_path):
    free = write.written_documents(openings(tmp_path, documents=4, prompt_is="dropped"), teacher)
    stop = free[0].text[4]
    stopped = write.written_documents(openings(tmp_path, documents=4, prompt_is="dropped", stop=[stop]), teacher)
    assert all(stop not in document.text for document in stopped)
    assert stopped[0].text == free[0].text.partition(stop)[0].strip()


def test_perplexity_is_that_of_the_teacher(teacher, tmp_path):
    source = openings(tmp_path, documents=3, prompt_is="read", filters=[{"perplexity": {"max": 1e9}}])
    found = write.written_documents(source, teacher)
    values = write.written_report(source, teacher)["filters"][0]["values"]
    model, tokenizer = load_model(teacher.folder), load_tokenizer(teacher.folder)
    expected = []
    for document in found:
        parts = [tokenizer.encode(text, add_special_tokens=False).ids for text, _ in document.segments]
        ids = [BOS, *parts[0], *parts[1]]
        with torch.no_grad():
            likely = model.double()(torch.tensor([ids])).logits[0].log_softmax(-1)
        first = 1 + len(parts[0])
        expected.append(perplexity([float(likely[place - 1, ids[place]]) for place in range(first, len(ids))]))
    scores = json.loads(next(tmp_path.rglob("scores-*/000000.json")).read_text())
    assert np.sort(list(scores.values())[:4])[[0, -1]] == pytest.approx([values["0"], values["1"]], rel=1e-3)
    assert all(min(abs(np.array(list(scores.values())) / one - 1)) < 1e-4 for one in expected)


def test_recipe_data_reads_slices_and_reports_what_was_written(teacher, tmp_path):
    options = DataOptions(train=openings(tmp_path, documents=60))
    data = RecipeData(options, 0, teacher)
    assert data.fingerprint("train") != data.fingerprint("validation")
    assert data.reports() == {}
    said = []

    class Task:
        def __init__(self, label):
            said.append(label)

        def __enter__(self):
            return lambda *_: None

        def __exit__(self, *_):
            return None

    data.write(["train", "validation"], Task)
    data.write(["train"], Task)
    assert said == ["data.train: the teacher writes"]
    assert data.reports()["train"]["kept"] == 60
    corpus = data("train", teacher.folder)
    assert len(corpus) + len(data("validation", teacher.folder)) + len(data("calibration", teacher.folder)) == 60
    assert corpus.counted.all()
    with pytest.raises(StageError, match=r"data\.train: from teacher needs a teacher, and there is none here"):
        RecipeData(options, 0)("train", teacher.folder)
