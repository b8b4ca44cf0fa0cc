"""The page: self-contained, everything escaped, everything said."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from compress.report.page import _highlights, inline_svg, write_page
from compress.report.plots import draw
from compress.report.results import title_of

Json = dict[str, Any]
VOID = {"meta", "link", "br", "img", "hr", "input"}


class Reader(HTMLParser):
    """Collects tags and attributes, and whether elements are closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.open: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def read(page: Path) -> Reader:
    reader = Reader()
    reader.feed(page.read_text(encoding="utf-8"))
    assert reader.open == []
    return reader


@pytest.fixture
def page(results: Json, tmp_path: Path) -> Path:
    draw(results, tmp_path / "plots")
    write_page(results, tmp_path / "plots", tmp_path / "report.html")
    return tmp_path / "report.html"


def test_the_page_asks_nothing_of_network_or_disk(page: Path) -> None:
    reader = read(page)
    for _, name, value in reader.attributes:
        if name in ("src", "href", "xlink:href", "data", "action", "poster", "srcset"):
            assert value.startswith("#"), (name, value)
    text = page.read_text(encoding="utf-8")
    assert not re.search(r"@import|url\((?!#)", text)
    assert not {"script", "iframe", "link", "img", "object"} & set(reader.tags)
    assert "default-src 'none'" in text


def test_hostile_text_is_escaped_everywhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert "<script" not in text
    assert "recipe: 1  # &lt;script&gt;alert(" in text
    assert '<script>alert("x")</script> & $\\frac{1}{0}$' in "".join(read(page).text)


def test_ids_are_unique_and_references_lead_somewhere(page: Path) -> None:
    reader = read(page)
    ids = [value for _, name, value in reader.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    links = {value[1:] for _, name, value in reader.attributes if name == "href"}
    clips = set(re.findall(r"url\(#([^)]+)\)", page.read_text(encoding="utf-8")))
    assert links | clips <= set(ids)
    assert len(links) > 6


def test_the_page_says_all_there_is(page: Path) -> None:
    reader = read(page)
    text = " ".join(" ".join(reader.text).split())
    for said in ("int4", "7.200", "machine.cpu", "Xeon", "e" * 64, "norm: 1-D", "onnx/int4", "size_mb"):
        assert said in text, said
    assert reader.tags.count("svg") == 4
    assert "warning" not in text.split("Artifacts")[0]


def test_missed_limits_come_before_regressions_and_before_the_table(results: Json, tmp_path: Path) -> None:
    results["limits"][0].update(found=2.5, met=False)
    results["rows"][5]["measurements"]["decode_tokens_per_second"]["value"] = 500.0
    write_page(results, tmp_path, tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text()
    places = [text.index(part) for part in ("2 warnings", "Limit missed: int4", "Slower than fp32", "<table>")]
    assert places == sorted(places)
    assert '<td class="number bad">500 ▼</td>' in text


def test_the_same_results_give_the_same_bytes_and_nothing_is_left_beside(results: Json, page: Path) -> None:
    before = page.read_bytes()
    write_page(results, page.parent / "plots", page)
    assert page.read_bytes() == before
    assert sorted(path.name for path in page.parent.iterdir()) == ["plots", "report.html"]


def test_a_bare_result_makes_a_page_without_plots(results: Json, tmp_path: Path) -> None:
    results.update(rows=results["rows"][:1], stages=[], limits=[], recipe={"name": "bare", "text": ""})
    write_page(results, tmp_path / "nowhere", tmp_path / "report.html")
    reader = read(tmp_path / "report.html")
    assert "svg" not in reader.tags
    assert "1 artifact, measured side by side." in " ".join(" ".join(reader.text).split())


def test_an_inline_svg_follows_the_scheme_and_keeps_its_ids_to_itself() -> None:
    svg = (
        '<?xml version="1.0"?>\n<svg xmlns:xlink="http://www.w3.org/1999/xlink" width="9pt" viewBox="0 0 9 9">'
        '<metadata>http://x</metadata><!-- <b> --><path id="p1" style="fill: #1B1F24" clip-path="url(#c)"/>'
        '<use xlink:href="#p1"/></svg>'
    )
    assert inline_svg(svg, "a", "A plot") == (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 9 9" role="img" aria-label="A plot">'
        '<path id="a-p1" style="fill: var(--ink)" clip-path="url(#a-c)"/><use href="#a-p1"/></svg>'
    )


def test_of_artifacts_of_one_size_the_better_is_named(results: Json) -> None:
    shipped = [row for row in results["rows"] if row["format"] == "onnx" and row["id"] != "teacher"]
    first, second = shipped[:2]
    for row, perplexity in ((first, 9.0), (second, 2.0)):
        row["size_bytes"] = 1
        row["measurements"]["perplexity"]["value"] = perplexity
    named = [title for what, title, _ in _highlights(results) if what.startswith("Smallest")]
    assert named == [title_of(second)]
