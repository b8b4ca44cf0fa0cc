"""Every kind of source gives its documents; what is not as it should be is named, with its file or row."""

from __future__ import annotations

import json
import os
import time

import datasets
import pyarrow
import pytest
from pyarrow import parquet

from compress.data import sources
from compress.data.options import Source
from compress.data.sources import expand_files, fingerprint_source, read_documents
from compress.errors import StageError


def texts(*files, **options):
    return [document.text for document in read_documents(Source(files=[str(file) for file in files], **options))]


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_text_is_cut_at_its_separator_and_stripped(tmp_path):
    file = write(tmp_path / "a.txt", "one\n<|endoftext|>\n two \n<|endoftext|>\n\n<|endoftext|>")
    assert texts(file, separator="<|endoftext|>") == ["one", "two"]
    assert texts(file) == ["one\n<|endoftext|>\n two \n<|endoftext|>\n\n<|endoftext|>"]


def test_a_byte_order_mark_is_no_text(tmp_path):
    assert texts(write(tmp_path / "a.txt", b"\xef\xbb\xbfone")) == ["one"]


def test_files_follow_each_other_and_patterns_are_sorted(tmp_path):
    write(tmp_path / "b.txt", "second")
    write(tmp_path / "a.txt", "first")
    assert texts(tmp_path / "*.txt") == ["first", "second"]
    assert texts(tmp_path / "b.txt", tmp_path / "a.txt") == ["second", "first"]


@pytest.mark.parametrize("name", ["a[1].txt", "a b.txt", "ü.txt"])
def test_a_name_is_no_pattern(tmp_path, name):
    assert texts(write(tmp_path / name, "found")) == ["found"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", '{"n": 1, "text": "x"}\n{"n": 2, "text": "null"}\n'),
        ("a.json", '[{"n": 1, "text": "x"}, {"n": 2, "text": "null"}]'),
        ("a.csv", "n,text\n1,x\n2,null\n"),
        ("a.tsv", "n\ttext\n1\tx\n2\tnull\n"),
    ],
)
def test_tables_give_the_text_column(tmp_path, name, content):
    assert texts(write(tmp_path / name, content)) == ["x", "null"]


def test_parquet_gives_the_named_column(tmp_path):
    parquet.write_table(pyarrow.table({"n": [1, 2], "story": ["x", "y"]}), tmp_path / "a.parquet")
    assert texts(tmp_path / "a.parquet", text="story") == ["x", "y"]


def test_quoted_cells_of_csv_hold_commas_and_lines(tmp_path):
    file = write(tmp_path / "a.csv", 'text,n\n"a, b\nc",1\n"d ""e""",2\n')
    assert texts(file) == ["a, b\nc", 'd "e"']


def test_prompt_and_completion_are_segments(tmp_path):
    file = write(tmp_path / "a.jsonl", '{"q": "Why?", "a": " So."}\n{"q": "Who?", "a": null}\n')
    found = list(read_documents(Source(files=[str(file)], prompt="q", completion="a")))
    assert [document.segments for document in found] == [(("Why?", False), (" So.", True))]


def test_columns_called_prompt_and_completion_need_no_naming(tmp_path):
    file = write(tmp_path / "a.jsonl", '{"prompt": "Why?", "completion": " So."}\n')
    found = list(read_documents(Source(files=[str(file)])))
    assert [document.segments for document in found] == [(("Why?", False), (" So.", True))]


def test_null_and_empty_cells_are_left_out(tmp_path):
    file = write(tmp_path / "a.jsonl", '{"text": "x"}\n{"text": null}\n{"text": "  "}\n{"text": "y"}\n')
    assert texts(file) == ["x", "y"]
    assert texts(write(tmp_path / "a.csv", "n,text\n1,x\n2,\n")) == ["x"]


def test_documents_limits_what_is_read(tmp_path):
    file = write(tmp_path / "a.txt", "one--two--three")
    assert texts(file, separator="--", documents=2) == ["one", "two"]


def test_empty_files_hold_no_documents(tmp_path):
    for suffix in ("txt", "jsonl", "csv"):
        assert texts(write(tmp_path / f"a.{suffix}", "")) == []


def test_stories_carry_their_question():
    found = list(read_documents(Source(builtin="stories", seed=3, start=5, documents=2)))
    assert len(found) == 2
    assert all(document.question.answer in document.question.choices for document in found)
    assert found[1].text == next(iter(read_documents(Source(builtin="stories", seed=3, start=6, documents=1)))).text


REFUSALS = [
    ("a.jsonl", '{"story": "x"}\n', {}, r"row 1: no column 'text'; the columns are 'story'\. Name it with text:"),
    ("a.jsonl", '{"text": "x"}\n{"text": 3}\n', {}, r"(row \d|cannot be read)"),
    ("a.jsonl", '{"text": 3}\n', {}, r"row 1: column 'text' holds int, text is needed"),
    ("a.jsonl", '{"text": "x"}\n{"text": \n', {}, r"a\.jsonl: cannot be read \(ArrowInvalid: JSON parse error"),
    ("a.txt", b"gr\xfcn", {}, r"a\.txt: not UTF-8 text \(.* at byte 2\); convert it to UTF-8"),
    ("a.csv", b"text\ngr\xfcn\n", {}, r"a\.csv: not UTF-8 text"),
    ("a.csv", "text\nHello, world\n", {}, "a row has more cells than the header; put text that holds the separator"),
    ("a.csv", "text,n\nx,1\ny,2,3\n", {}, "a.csv: cannot be read .*Expected 2 fields in line 3, saw 3"),
    ("a.parquet", b"PAR1 but no more", {}, r"a\.parquet: cannot be read \(ArrowInvalid"),
    (
        "a.jsonl",
        '{"text": "x"}\n',
        {"separator": "--"},
        "a separator stands in text files; here each row is a document",
    ),
    ("a.docx", "x", {}, r"a\.docx: format '\.docx' is not read; use one of \.txt"),
    ("a.jsonl", '{"m": "hi"}\n', {"messages": "m"}, "row 1: messages need a model with a chat template"),
]


@pytest.mark.parametrize(("name", "content", "options", "message"), REFUSALS)
def test_what_cannot_be_read_is_named(tmp_path, name, content, options, message):
    with pytest.raises(StageError, match=message):
        texts(write(tmp_path / name, content), **options)


def test_a_missing_file_and_two_formats_are_refused(tmp_path):
    with pytest.raises(StageError, match=r"data file .*none\.txt: there is no such file"):
        expand_files(Source(files=[str(tmp_path / "none.txt")]))
    write(tmp_path / "a.txt", "x")
    for other in ("a.jsonl", "a.csv"):
        write(tmp_path / other, "x")
        with pytest.raises(StageError, match="one source holds one format; make a source of each"):
            expand_files(Source(files=[str(tmp_path / "a.txt"), str(tmp_path / other)]))


def test_messages_of_another_shape_are_refused():
    def render(messages, prompt):
        return ""

    for wrong in ("hi", [1], [{"content": "x"}], None):
        with pytest.raises(StageError, match=r"messages must be a list of \{role, content\} in every row"):
            list(sources._chat_segments(wrong, render))


def test_a_template_that_rewrites_turns_is_refused():
    def render(messages, prompt):
        return f"{len(messages)}{prompt}"

    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    with pytest.raises(StageError, match="this chat template rewrites earlier turns"):
        list(sources._chat_segments(turns, render))


def test_a_fingerprint_follows_the_text_and_how_it_is_read(tmp_path):
    file = write(tmp_path / "a.txt", "one--two")
    plain = fingerprint_source(Source(files=[str(file)], separator="--"))
    os.utime(file, (1, 1))
    file = file.rename(tmp_path / "b.txt")
    assert fingerprint_source(Source(files=[str(file)], separator="--")) == plain
    others = [
        fingerprint_source(Source(files=[str(file)])),
        fingerprint_source(Source(files=[str(file)], separator="-")),
        fingerprint_source(Source(files=[str(file)], separator="--", documents=1)),
        fingerprint_source(Source(files=[str(file.rename(tmp_path / "b.csv"))])),
        fingerprint_source(Source(files=[str((tmp_path / "b.csv").rename(tmp_path / "b.tsv"))])),
        fingerprint_source(Source(files=[str(write(tmp_path / "c.txt", "one--twO"))], separator="--")),
        fingerprint_source(Source(builtin="stories")),
        fingerprint_source(Source(builtin="stories", seed=1)),
    ]
    assert len({plain, *others}) == len(others) + 1


def test_columns_change_the_fingerprint(tmp_path):
    file = write(tmp_path / "a.jsonl", json.dumps({"a": "x", "b": "y"}))
    assert fingerprint_source(Source(files=[str(file)], text="a")) != fingerprint_source(
        Source(files=[str(file)], text="b")
    )


def test_reading_writes_nothing_into_the_cache_of_datasets(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    assert texts(write(tmp_path / "a.txt", "x"), write(tmp_path / "b.txt", "y")) == ["x", "y"]
    assert not (tmp_path / "cache").exists()


def test_a_hub_dataset_without_a_network_is_refused_at_once(monkeypatch):
    monkeypatch.setattr(sources, "hub_is_reachable", lambda: False)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    started = time.monotonic()
    with pytest.raises(
        StageError, match=r"dataset nobody/nothing: cannot be opened .*Without a network, give local files"
    ):
        list(read_documents(Source(dataset="nobody/nothing")))
    with pytest.raises(StageError, match="dataset nobody/nothing: cannot be opened"):
        fingerprint_source(Source(dataset="nobody/nothing"))
    assert time.monotonic() - started < 5


@pytest.mark.parametrize(
    ("name", "content", "labels"),
    [
        ("a.tsv", "sentence\tlabel\nit 's good \t1\nbad\t0\n", [1, 0]),
        ("a.csv", "sentence,label\nit 's good,positive\nbad,null\n", ["positive", "null"]),
        ("a.jsonl", '{"sentence": "it \'s good", "label": 2}\n{"sentence": "bad", "label": 0}\n', [2, 0]),
        ("a.jsonl", '{"sentence": "it \'s good", "label": "2"}\n{"sentence": "bad", "label": "no"}\n', ["2", "no"]),
    ],
)
def test_a_column_of_labels_is_read_beside_the_text(tmp_path, name, content, labels):
    source = Source(files=[str(write(tmp_path / name, content))], text="sentence", label="label")
    found = list(read_documents(source))
    assert [(document.text, document.label) for document in found] == list(
        zip(("it 's good", "bad"), labels, strict=True)
    )
    plain = source.model_copy(update={"label": None})
    assert [document.label for document in read_documents(plain)] == [None, None]
    assert fingerprint_source(plain) != fingerprint_source(source)


def test_a_table_of_labels_is_read_from_parquet(tmp_path):
    table = pyarrow.table({"text": ["a", "b"], "label": pyarrow.array([1, 0], pyarrow.int8())})
    parquet.write_table(table, tmp_path / "a.parquet")
    found = read_documents(Source(files=[str(tmp_path / "a.parquet")], label="label"))
    assert [document.label for document in found] == [1, 0]


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ("0.5", "column 'label' holds float; a label is a whole number or a name"),
        ("null", "column 'label' holds nothing; a label is a whole number or a name"),
        ('""', "column 'label' holds nothing; a label is a whole number or a name"),
    ],
)
def test_what_is_no_label_is_named_with_its_row(tmp_path, value, problem):
    write(tmp_path / "a.jsonl", f'{{"text": "a", "label": {value}}}\n')
    with pytest.raises(StageError) as caught:
        list(read_documents(Source(files=[str(tmp_path / "a.jsonl")], label="label")))
    assert str(caught.value) == f"row 1: {problem}"


def test_a_text_file_has_no_labels(tmp_path):
    file = write(tmp_path / "a.txt", "x")
    with pytest.raises(StageError, match=r"a\.txt: a text file has no column 'class'; labels stand in tables"):
        expand_files(Source(files=[str(file)], label="class"))


def test_with_labels_the_text_is_a_column_of_its_own(tmp_path):
    write(tmp_path / "a.jsonl", '{"prompt": "a", "completion": "b", "label": 1}\n')
    with pytest.raises(StageError, match=r"row 1: no column 'text'"):
        list(read_documents(Source(files=[str(tmp_path / "a.jsonl")], label="label")))
