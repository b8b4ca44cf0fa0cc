"""What the teacher wrote for a run, as the page shows it: counts at each filter, and samples of what was kept and dropped."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from compress.contract import Json
from compress.report.results import flatten

_SHOWN = ("0.05", "0.5", "0.95")
_NOUNS = {
    "length": "words",
    "repetition": "times the limit",
    "perplexity": "perplexity",
    "quality": "score",
}


def written_data(results: Json) -> list[dict[str, Any]]:
    """Return for each part of the data that was written: title, what there is to say, rows of the filters, samples."""
    return [
        {
            "title": f"{entry['run']}: data.{entry['part']}" if entry.get("run") else f"data.{entry['part']}",
            "said": said(entry),
            "rows": list(_rows(entry)),
            "kept": entry["samples"],
            "dropped": [{**sample, "filter": each["name"]} for each in entry["filters"] for sample in each["dropped"]],
        }
        for entry in results.get("written", [])
    ]


def said(entry: Json) -> str:
    """Return in a sentence how much was written and kept."""
    written = entry["texts"] - entry["prompts_too_long"]
    share = f" ({100 * entry['ended'] / written:.0f} % of them ended by themselves)" if written else ""
    long = f"; {entry['prompts_too_long']:,} prompts had no room in its context" if entry["prompts_too_long"] else ""
    return (
        f"The teacher wrote {written:,} texts of {entry['tokens']:,} tokens{share}{long}. "
        f"They gave {entry['documents']:,} documents, and {entry['kept']:,} are used."
    )


def _plain(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _rows(entry: Json) -> Iterator[tuple[str, str, str, str, str, str]]:
    """(filter, options, documents before, after, share dropped, values at 5, 50 and 95 %)"""
    for each in entry["filters"]:
        before, after = each["before"], each["after"]
        options = ", ".join(f"{name} {value}" for name, value in flatten(each["options"]))
        values = each.get("values", {})
        noun = each["options"].get("unit") or _NOUNS.get(each["name"], "")
        found = " · ".join(_plain(values[share]) for share in _SHOWN if share in values)
        yield (
            each["name"],
            options or "–",
            f"{before:,}",
            f"{after:,}",
            f"{100 * (1 - after / before):.1f}" if before else "–",
            f"{found} {noun}" if found else "–",
        )
