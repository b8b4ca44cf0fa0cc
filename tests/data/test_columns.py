"""Names of columns, from the head of a table."""

from __future__ import annotations

import pyarrow
import pytest
from pyarrow import parquet

from compress.data.columns import columns_of


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.csv", '\ufeffn,"the, text"\n1,x\n', ["n", "the, text"]),
        ("a.TSV", "n\ttext, too\n1\tx\n", ["n", "text, too"]),
        ("a.jsonl", '\n{"n": 1, "text": "x"}\n{"other": 1}\n', ["n", "text"]),
        ("a.jsonl", "[1]\n", None),
        ("a.jsonl", "{\n", None),
        ("a.json", '[{"n": 1}]', None),
        ("a.txt", "n,text", None),
        ("a.csv", "", None),
        ("a.parquet", "no parquet", None),
    ],
)
def test_the_head_says_them_or_nothing_does(tmp_path, name, content, expected):
    (tmp_path / name).write_text(content, encoding="utf-8")
    assert columns_of(tmp_path / name) == expected


def test_parquet_says_them_in_its_schema(tmp_path):
    parquet.write_table(pyarrow.table({"n": [1], "text": ["x"]}), tmp_path / "a.parquet")
    assert columns_of(tmp_path / "a.parquet") == ["n", "text"]


def test_a_file_that_is_not_there_says_nothing(tmp_path):
    assert columns_of(tmp_path / "none.csv") is None
