"""The command line: the only file that prints results or exits."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from compress.errors import CompressError, MissingExtra, RecipeError

if TYPE_CHECKING:
    from compress.contract import Json, Progress

FAILED, WRONG, LIMIT_MISSED, INTERRUPTED = 1, 2, 3, 130

app = typer.Typer(
    name="compress",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Distill, prune and quantize a model by a recipe, export it to ONNX, and measure every step side by side.",
    epilog="Exit codes: 0 done; 1 a stage failed; 2 recipe or command wrong; 3 done but a limit was missed; 130 interrupted.",
)
RecipePath = Annotated[Path, typer.Argument(metavar="RECIPE", help="a recipe file")]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="PATH=VALUE",
        help="change the recipe: seed=1, stages.int4.block=64, 'teacher={model: folder}'; the value is YAML",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="print results.json instead of a table")]


class _Terminal:
    """Tells the user, on stderr, what the pipeline does."""

    def say(self, message: str) -> None:
        """Print one line of news."""
        typer.echo(message, err=True)

    @contextmanager
    def task(self, label: str) -> Iterator[Progress]:
        """Show a bar with rate and time left; where stderr is no terminal, a line now and then."""
        if not sys.stderr.isatty():
            yield _plain_progress(label)
            return
        from rich import progress as rich
        from rich.console import Console

        bar = rich.Progress(
            rich.TextColumn("{task.description}"),
            rich.BarColumn(),
            rich.TextColumn("{task.fields[rate]}"),
            rich.TimeRemainingColumn(),
            rich.TextColumn("{task.fields[note]}"),
            console=Console(stderr=True),
            transient=True,
        )
        with bar:
            task = bar.add_task(label, total=None, rate="", note="")

            def progress(done: float, total: float, unit: str = "", note: str = "") -> None:
                speed = bar.tasks[0].finished_speed or bar.tasks[0].speed
                rate = f"{speed:,.1f} {unit}/s" if speed and speed < 100 else f"{speed:,.0f} {unit}/s" if speed else ""
                bar.update(task, completed=done, total=total, rate=rate, note=note)

            yield progress


def _plain_progress(label: str) -> Progress:
    import time

    started = last = time.monotonic()

    def progress(done: float, total: float, unit: str = "", note: str = "") -> None:
        nonlocal last
        now = time.monotonic()
        if now - last < 10 or not done:
            return
        last = now
        rate, left = done / (now - started), (total - done) * (now - started) / done
        words = f"{label}: {done:,.0f} of {total:,.0f} {unit}, {rate:,.1f} {unit}/s, {left:.0f} s left"
        typer.echo(words + (f", {note}" if note else ""), err=True)

    return progress


@app.command()
def init(
    template: Annotated[
        str, typer.Argument(metavar="[TEMPLATE]", help="which recipe to start from; `compress init list` lists them")
    ] = "quickstart",
    out: Annotated[Path | None, typer.Option("--out", help="file to write (default TEMPLATE.yaml)")] = None,
) -> None:
    """Write a recipe to start from."""
    from compress.templates import names, text_of

    if template == "list":
        for name, summary in names().items():
            typer.echo(f"{name:24} {summary}")
        return
    target = out or Path(f"{template}.yaml")
    text = text_of(template)
    if target.exists():
        raise CompressError(f"{target}: this file is there already; give another with --out")
    target.write_text(text, encoding="utf-8")
    typer.echo(f"wrote {target}; next: compress apply {target}")


@app.command()
def check(recipe: RecipePath, overrides: Set = None) -> None:
    """Look for everything that is wrong with a recipe, without running it."""
    from compress.check import check as check_recipe
    from compress.recipe import read_recipe

    read = read_recipe(recipe, overrides or ())
    for note in check_recipe(read):
        typer.echo(note)
    typer.echo(f"{recipe}: no errors, {len(read.steps)} steps")
    for step in read.steps:
        typer.echo(f"  {step.word:9} {step.source} -> {step.gives}/{step.id}")


@app.command()
def apply(
    recipe: RecipePath,
    out: Annotated[Path | None, typer.Option("--out", help="run folder (default runs/<recipe name>)")] = None,
    overrides: Set = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="reuse nothing")] = False,
    as_json: AsJson = False,
) -> None:
    """Run a recipe: make what is missing, measure every artifact, write table, plots and report."""
    from compress.recipe import read_recipe

    read = read_recipe(recipe, overrides or ())
    folder = out or Path("runs") / read.head.name
    from compress.pipeline import apply as apply_recipe

    try:
        results = apply_recipe(read, folder, _Terminal(), fresh)
    except KeyboardInterrupt:
        typer.echo("interrupted: what is finished stays, and so do checkpoints; apply again to go on", err=True)
        raise typer.Exit(INTERRUPTED) from None
    missed = [entry for entry in results["limits"] if not entry["met"]]
    _say_limits(missed)
    _print(results, as_json)
    typer.echo(f"{folder / 'report.html'}", err=True)
    if missed:
        raise typer.Exit(LIMIT_MISSED)


def _say_limits(missed: list[Json]) -> None:
    for entry in missed:
        found = "not measured" if entry["found"] is None else f"{entry['found']:.4g}"
        typer.echo(
            f"LIMIT MISSED: {entry['id']}: {entry['name']} is {found}, the limit is {entry['limit']:g}", err=True
        )


def _print(results: Json, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(results, indent=1, ensure_ascii=False))
        return
    from rich.console import Console

    from compress.report.table import fit, markdown

    console = Console()
    if not console.is_terminal:
        from compress.report.table import table

        typer.echo(markdown(table(results)))
        return
    _print_table(console, fit(results, console.width))


def _print_table(console: Any, found: Any) -> None:
    from rich.table import Table
    from rich.text import Text

    shown = Table(box=None, pad_edge=False, header_style="bold")
    for index, header in enumerate(found.headers):
        shown.add_column(header, justify="right" if found.numeric[index] else "left")
    for row in found.rows:
        shown.add_row(*[Text(cell) for cell in row])
    console.print(shown)
    for note in found.footnotes:
        console.print(Text(note))


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="run folders or results.json files")],
    out: Annotated[Path, typer.Option("--out", help="folder for table, plots and page")] = Path("comparison"),
    as_json: AsJson = False,
) -> None:
    """Put several runs into one table, with plots and a page."""
    from compress.report.compare import compare as compare_runs

    results = compare_runs(runs, out)
    _print(results, as_json)
    typer.echo(f"{out / 'report.html'}", err=True)


@app.command()
def generate(
    artifact: Annotated[Path, typer.Argument(metavar="ARTIFACT", help="a torch or ONNX folder")],
    prompt: Annotated[str, typer.Argument(help="the text to continue")],
    new: Annotated[int, typer.Option(min=1, help="most tokens to generate")] = 128,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 takes the most probable token")] = 0.0,
    top_k: Annotated[int | None, typer.Option(min=1, help="sample among this many tokens")] = None,
    top_p: Annotated[
        float | None, typer.Option(min=0.0, max=1.0, help="sample among tokens of this much probability")
    ] = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
) -> None:
    """Continue a text with an artifact."""
    from compress.models.generate import Sampling, continue_text

    sampling = Sampling(temperature=temperature, top_k=top_k, top_p=top_p, seed=seed)
    typer.echo(prompt, nl=False)
    for piece in continue_text(artifact, prompt, new, sampling):
        typer.echo(piece, nl=False)
    typer.echo()


@app.command()
def bench(
    artifact: Annotated[Path, typer.Argument(metavar="ARTIFACT", help="a torch or ONNX folder")],
    text: Annotated[
        Path | None, typer.Option("--text", help="text to measure quality on; without it only speed and size")
    ] = None,
    separator: Annotated[str | None, typer.Option(help="what stands between documents in the text")] = None,
    teacher: Annotated[Path | None, typer.Option(help="folder to compare with: KL and agreement")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="threads (default: the machine's cores)")] = None,
    as_json: AsJson = False,
) -> None:
    """Measure one artifact: quality on a text, size, speed, memory."""
    from compress.bench import measure_one

    results = measure_one(artifact, text, separator, teacher, threads, _Terminal())
    _print(results, as_json)


@app.command()
def stages(word: Annotated[str | None, typer.Argument(metavar="[WORD]", help="a stage")] = None) -> None:
    """List the stages of a recipe, or the options of one."""
    from compress.stage_help import all_stages, one_stage

    typer.echo(one_stage(word) if word else all_stages())


@app.command()
def schema() -> None:
    """Print the JSON Schema of recipes, for editors."""
    from compress.schema import recipe_schema

    typer.echo(json.dumps(recipe_schema(), indent=2))


def main() -> None:
    """Run the command line and exit with its code."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    # threads that spin while they wait make torch many times slower as soon as another process wants a core
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        app()
    except (RecipeError, MissingExtra) as error:
        typer.echo(str(error), err=True)
        sys.exit(WRONG)
    except CompressError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(FAILED)
