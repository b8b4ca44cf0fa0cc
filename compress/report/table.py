"""One row per artifact with its differences to the teacher: a neutral table for terminal, Markdown and HTML."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from compress.contract import Json
from compress.report.regressions import Regression, find_regressions
from compress.report.results import (
    FLOATS,
    FORMATS,
    bits_of,
    megabytes_of,
    other_vocabulary,
    perplexity_increase,
    reason_of,
    teacher_of,
    value_of,
)

ABSENT = "–"
WORSE = "▼"


@dataclass(frozen=True)
class Table:
    """Headers with units, and rows of strings.

    numeric    for each column: numbers, to be aligned right
    worse      for each row: the columns in which it got worse; their cells end with WORSE
    footnotes  `[1] …`: why a cell has no number
    warnings   one sentence for each regression
    """

    headers: tuple[str, ...]
    numeric: tuple[bool, ...]
    rows: tuple[tuple[str, ...], ...]
    worse: tuple[frozenset[int], ...]
    footnotes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Column:
    """`cell` gives the text of a row, or None where there is none; `name` is what the reason is looked up under;
    `rank`: the higher, the sooner it is left out of a narrow terminal."""

    header: str
    name: str
    cell: Callable[[Json, Json], str | None]
    rank: int = 0
    numeric: bool = True


def _measured(name: str, form: Callable[[float], str], scale: float = 1.0) -> Callable[[Json, Json], str | None]:
    def cell(results: Json, row: Json) -> str | None:
        value = value_of(row, name)
        return None if value is None else form(value * scale)

    return cell


def _id(results: Json, row: Json) -> str | None:
    return str(row["id"])


def _run(results: Json, row: Json) -> str | None:
    return row.get("run")


def _format(results: Json, row: Json) -> str | None:
    return FORMATS.get(row["format"], str(row["format"]))


def _precision(results: Json, row: Json) -> str | None:
    return str(row["precision"])


def _parameters(results: Json, row: Json) -> str | None:
    count = row.get("parameters")
    return None if count is None else f"{count / 1e6:.2f}" if count < 1e8 else f"{count / 1e6:,.0f}"


def _megabytes(results: Json, row: Json) -> str | None:
    size = megabytes_of(row)
    return None if size is None else f"{size:.2f}" if size < 100 else f"{size:,.0f}"


def _size_ratio(results: Json, row: Json) -> str | None:
    teacher = teacher_of(results, row, same_format=True)
    return _ratio(megabytes_of(row), None if teacher is None else megabytes_of(teacher))


def _bits(results: Json, row: Json) -> str | None:
    quantized = (other for other in results["rows"] if other["precision"] not in FLOATS)
    if all(bits_of(results, other) is None for other in quantized):
        return None
    bits = bits_of(results, row)
    return None if bits is None else f"{bits:.2f}"


def _decode_ratio(results: Json, row: Json) -> str | None:
    teacher = teacher_of(results, row, same_format=True)
    before = None if teacher is None else value_of(teacher, "decode_tokens_per_second")
    return _ratio(value_of(row, "decode_tokens_per_second"), before)


def _perplexity_change(results: Json, row: Json) -> str | None:
    teacher = teacher_of(results, row, same_format=False)
    increase = perplexity_increase(row, teacher)
    if increase is None:
        return None
    change = 100 * increase
    return "0.0" if round(change, 1) == 0 else f"{change:+,.1f}" if abs(change) < 1000 else f"{change:+,.0f}"


def _ratio(value: float | None, before: float | None) -> str | None:
    return None if value is None or not before else f"{value / before:.2f}"


def _significant(value: float) -> str:
    """Four significant digits, and never fewer digits than stand before the point."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:#.4g}".rstrip(".")


def _fixed(digits: int) -> Callable[[float], str]:
    return lambda value: f"{value:,.{digits}f}"


def _speed(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


_COLUMNS = (
    _Column("Run", "run", _run, 0, False),
    _Column("Artifact", "id", _id, 0, False),
    _Column("Format", "format", _format, 0, False),
    _Column("Precision", "precision", _precision, 2, False),
    _Column("Parameters (M)", "parameters", _parameters, 7),
    _Column("Size (MB)", "size_bytes", _megabytes, 0),
    _Column("Size (× teacher)", "size_bytes", _size_ratio, 8),
    _Column("Bits per weight", "bits_per_weight", _bits, 5),
    _Column("Perplexity", "perplexity", _measured("perplexity", _significant), 0),
    _Column("Perplexity (% vs teacher)", "perplexity", _perplexity_change, 3),
    _Column("Bits per byte", "bits_per_byte", _measured("bits_per_byte", _fixed(3)), 9),
    _Column("KL to teacher (nats)", "kl_to_teacher", _measured("kl_to_teacher", _fixed(3)), 6),
    _Column("Top-1 agreement (%)", "top1_agreement", _measured("top1_agreement", _fixed(1), 100), 6),
    _Column("Accuracy (%)", "accuracy", _measured("accuracy", _fixed(1), 100), 4),
    _Column("First token (ms)", "first_token_ms", _measured("first_token_ms", _fixed(1)), 5),
    _Column("Prefill (tokens/s)", "prefill_tokens_per_second", _measured("prefill_tokens_per_second", _speed), 6),
    _Column("Decode (tokens/s)", "decode_tokens_per_second", _measured("decode_tokens_per_second", _speed), 0),
    _Column("Decode (× teacher)", "decode_tokens_per_second", _decode_ratio, 4),
    _Column("Peak memory (MB)", "peak_rss_bytes", _measured("peak_rss_bytes", _fixed(0), 1e-6), 7),
    _Column("Load (s)", "load_seconds", _measured("load_seconds", _fixed(2)), 10),
)


def table(results: Json) -> Table:
    """Return the table of a run or of merged runs. A column stands when at least one row has a value in it.

    Differences are to the teacher of the same run: sizes and speeds to the teacher in the same format, perplexity to
    the teacher in the other format where that one is missing.
    """
    return _build(results, _present(results))


def fit(results: Json, width: int) -> Table:
    """Return the table cut to a terminal of `width` characters: the least important columns go first, and are named."""
    columns = _present(results)
    whole = _build(results, columns)
    built, left_out = whole, []
    while _width(built) > width:
        last = max(columns, key=lambda column: column.rank)
        if last.rank == 0:
            break
        columns = [column for column in columns if column is not last]
        left_out.append(last.header)
        built = _build(results, columns)
    if not left_out:
        return whole
    names = [header for header in whole.headers if header in left_out]
    note = f"Left out for width: {', '.join(names)}. A wider terminal or --json shows them."
    return replace(built, footnotes=(*built.footnotes, note))


def column_widths(table: Table) -> tuple[int, ...]:
    """Return the least width of each column in characters, with headers broken at spaces.

    Give it to Rich as `min_width`: left alone, it cuts words before it breaks headers.
    """
    return tuple(
        max([*(len(word) for word in header.split()), *(len(row[place]) for row in table.rows)])
        for place, header in enumerate(table.headers)
    )


def markdown(table: Table) -> str:
    """Return the table as GitHub Markdown, with warnings above and footnotes below."""
    lines = [f"> **{_escape(warning)}**  " for warning in table.warnings]
    lines += [""] if lines else []
    widths = [
        max(3, *(len(_escape(row[i])) for row in (table.headers, *table.rows))) for i in range(len(table.headers))
    ]
    lines.append(_markdown_row(table.headers, widths, table.numeric))
    rules = [f"{'-' * (w - 1)}:" if numeric else "-" * w for w, numeric in zip(widths, table.numeric, strict=True)]
    lines.append("| " + " | ".join(rules) + " |")
    lines += [_markdown_row(row, widths, table.numeric) for row in table.rows]
    if table.footnotes:
        lines += ["", *(f"{_escape(note)}  " for note in table.footnotes)]
    return "\n".join(lines) + "\n"


def _present(results: Json) -> list[_Column]:
    kept = []
    for column in _COLUMNS:
        cells = [column.cell(results, row) for row in results["rows"]]
        if any(cell is not None for cell in cells):
            kept.append(column)
    return kept or [column for column in _COLUMNS if column.header in ("Artifact", "Format", "Precision")]


def _build(results: Json, columns: Sequence[_Column]) -> Table:
    regressions = find_regressions(results)
    notes: dict[str, int] = {}
    rows = [tuple(_cell(results, row, column, notes) for column in columns) for row in results["rows"]]
    worse = [_worse(index, columns, regressions) for index in range(len(rows))]
    marked = [
        tuple(f"{text} {WORSE}" if place in places else text for place, text in enumerate(row))
        for row, places in zip(rows, worse, strict=True)
    ]
    return Table(
        headers=tuple(column.header for column in columns),
        numeric=tuple(column.numeric for column in columns),
        rows=tuple(marked),
        worse=tuple(worse),
        footnotes=tuple(f"[{number}] {text}" for text, number in notes.items()),
        warnings=tuple(regression.message for regression in regressions),
    )


def _cell(results: Json, row: Json, column: _Column, notes: dict[str, int]) -> str:
    text = column.cell(results, row)
    if text is not None:
        return text
    if column.name in row["measurements"] and value_of(row, column.name) is None:
        why = reason_of(row, column.name) or "no reason was given"
    elif column.cell in (_size_ratio, _decode_ratio, _perplexity_change) and _own_value(row, column.name) is not None:
        why = "no teacher of this format to compare with, or the teacher has no value"
        if column.cell is _perplexity_change:
            teacher = teacher_of(results, row, same_format=False)
            why = "the run has no teacher to compare with, or the teacher has no value"
            if teacher is not None and other_vocabulary(row, teacher):
                why = "the teacher has another vocabulary, and perplexity is by token; compare bits per byte"
    else:
        why = "not measured"
    title = column.header.split(" (")[0]
    number = notes.setdefault(why if why == "not measured" else f"{title}: {why}", len(notes) + 1)
    return f"{ABSENT} [{number}]"


def _own_value(row: Json, name: str) -> float | None:
    return megabytes_of(row) if name == "size_bytes" else value_of(row, name)


def _worse(index: int, columns: Sequence[_Column], regressions: Sequence[Regression]) -> frozenset[int]:
    names = {regression.name for regression in regressions if regression.row == index}
    first = {column.name: place for place, column in reversed(list(enumerate(columns)))}
    return frozenset(first[name] for name in names if name in first)


def _width(table: Table) -> int:
    """Characters of a drawn table: two of padding and one of rule per column."""
    return 1 + sum(3 + width for width in column_widths(table))


def _markdown_row(cells: Sequence[str], widths: Sequence[int], numeric: Sequence[bool]) -> str:
    padded = [
        _escape(cell).rjust(width) if right else _escape(cell).ljust(width)
        for cell, width, right in zip(cells, widths, numeric, strict=True)
    ]
    return "| " + " | ".join(padded) + " |"


def _escape(text: str) -> str:
    """Keep text from ending a cell, starting a tag, or opening a link."""
    for character in "\\|<>*_`[]":
        text = text.replace(character, "\\" + character)
    return " ".join(text.split())
