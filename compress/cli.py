"""The command line: the only file that prints results or exits."""

from __future__ import annotations

import io
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from compress import __version__
from compress.distributed import FirstProcessError, is_first, join
from compress.errors import CommandError, CompressError, MissingExtra, RecipeError
from compress.terminal import Terminal

if TYPE_CHECKING:
    from compress.contract import Json
    from compress.report.table import Table

FAILED, WRONG, LIMIT_MISSED, INTERRUPTED = 1, 2, 3, 130
ENVIRONMENT = {
    "TOKENIZERS_PARALLELISM": "true",
    # threads that spin long while they wait make torch up to 200 times slower when another process wants a core
    "GOMP_SPINCOUNT": "1000",
    # what is wrong is raised; the rest is noise between our own lines
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    # else ONNX Runtime writes a device id and a database into the home folder, to be sent
    "ORT_DISABLE_TELEMETRY": "1",
}

app = typer.Typer(
    name="compress",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    epilog="Exit codes: 0 done; 1 a stage failed; 2 recipe or command wrong; 3 done but a limit was missed; 130 interrupted.",
)
RecipePath = Annotated[Path, typer.Argument(metavar="RECIPE", help="a recipe file")]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="PATH=VALUE",
        help="change the recipe; the value is YAML, paths in it start from the current folder; may be given several times",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="print results.json instead of a table")]


def _say_version(asked: bool) -> None:
    if asked:
        typer.echo(f"compress {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_say_version, is_eager=True, help="print the version and exit")
    ] = False,
) -> None:
    """Distill, prune and quantize a model by a recipe, export it to ONNX, and measure every step side by side.

    \b
    compress init                    write a recipe to start from
    compress apply quickstart.yaml   run it: table, plots, report, ONNX files
    """


@app.command()
def init(
    template: Annotated[
        str, typer.Argument(metavar="TEMPLATE", help="which recipe to start from; `list` lists them")
    ] = "quickstart",
    out: Annotated[Path | None, typer.Option("--out", help="file to write (default TEMPLATE.yaml)")] = None,
) -> None:
    """Write a recipe to start from.

    \b
    compress init list
    compress init quickstart
    compress init tinystories-edge --out edge.yaml
    """
    from compress.schema import FILE, schema_text
    from compress.templates import names, text_of

    if template == "list":
        for name, summary in names().items():
            typer.echo(f"{name}\n    {summary}")
        return
    target = out or Path(f"{template}.yaml")
    text = text_of(template)
    try:
        with target.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise CommandError(f"{target}: there is such a file or folder already; give another with --out") from None
    # the first line of the recipe names the schema, beside it
    schema = target.with_name(FILE)
    if not schema.exists():
        schema.write_text(schema_text(), encoding="utf-8")
    typer.echo(f"wrote {target} (and {schema}, for editors); next: compress apply {target}")


@app.command()
def check(recipe: RecipePath, overrides: Set = None) -> None:
    """Find what is wrong with a recipe; run nothing.

    \b
    compress check quickstart.yaml
    compress check quickstart.yaml --set stages.int4.block=64
    """
    from compress.check import forecasts, open_recipe

    read, notes = open_recipe(recipe, overrides or ())
    for note in notes:
        typer.echo(note, err=True)
    arrows = [f"  {step.word:9} {step.source} -> {step.gives}/{step.id}" for step in read.steps]
    cuts = forecasts(read)
    width = max((len(arrow) for arrow, cut in zip(arrows, cuts, strict=True) if cut), default=0)
    typer.echo(f"{recipe}: no errors, {len(read.steps)} step{'' if len(read.steps) == 1 else 's'}")
    for arrow, cut in zip(arrows, cuts, strict=True):
        typer.echo(f"{arrow:{width}}   {cut}" if cut else arrow)


@app.command()
def apply(
    recipe: RecipePath,
    out: Annotated[Path | None, typer.Option("--out", help="run folder (default runs/<recipe name>)")] = None,
    overrides: Set = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="reuse nothing")] = False,
    as_json: AsJson = False,
) -> None:
    """Run a recipe: make what is missing, measure, report.

    What is finished is reused; an interrupted run goes on where it was. The run folder gets torch/ and onnx/ with the
    artifacts, results.json, plots/ and report.html.

    \b
    compress apply quickstart.yaml
    compress apply quickstart.yaml --out runs/b64 --set stages.int4.block=64
    compress apply edge.yaml --set 'teacher={model: models/stories}'
    """
    from compress.check import open_recipe

    # the other processes of a launch wait until the first one finds nothing wrong: it says it for all
    launch = None if is_first() else join()
    read, _ = open_recipe(recipe, overrides or ())
    folder = out or Path("runs") / read.head.name
    for place in (folder, *folder.parents):
        if place.exists() and not place.is_dir():
            raise CommandError(f"--out {folder}: {place} is a file; a folder is needed")
    try:
        from compress.pipeline import apply as apply_recipe

        results = apply_recipe(read, folder, Terminal(), fresh, launch)
    except KeyboardInterrupt:
        if is_first():
            typer.echo("interrupted: what is finished stays, and so do checkpoints; apply again to go on", err=True)
        raise typer.Exit(INTERRUPTED) from None
    if results is None:  # the first process of a launch says how it went
        return
    _print(results, as_json)
    typer.echo(f"{folder / 'report.html'}", err=True)
    if any(not entry["met"] for entry in results["limits"]):
        raise typer.Exit(LIMIT_MISSED)


def _print(results: Json, as_json: bool) -> None:
    """Print results: what is bad first, on stderr, then the table or JSON on stdout."""
    from rich.console import Console

    from compress.report.regressions import find_missed
    from compress.report.table import fit, markdown, table

    whole = table(results)
    for warning in [*find_missed(results), *results.get("warnings", []), *whole.warnings]:
        typer.secho(warning, err=True, fg="red", bold=True)
    if as_json:
        typer.echo(json.dumps(results, indent=1, allow_nan=False))
        return
    console = Console()
    if console.is_terminal:
        _print_table(console, fit(results, console.width))
    else:
        typer.echo(markdown(whole))


def _print_table(console: Any, found: Table) -> None:
    from rich.table import Table as RichTable
    from rich.text import Text

    from compress.report.table import column_widths

    shown = RichTable(header_style="bold")
    for header, numeric, width in zip(found.headers, found.numeric, column_widths(found), strict=True):
        shown.add_column(Text(header), justify="right" if numeric else "left", min_width=width)
    for row, worse in zip(found.rows, found.worse, strict=True):
        shown.add_row(*[Text(cell, style="red" if place in worse else "") for place, cell in enumerate(row)])
    console.print(shown)
    for note in found.footnotes:
        console.print(Text(note))


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN", help="run folders or results.json files")],
    out: Annotated[Path, typer.Option("--out", help="folder for table, plots and page")] = Path("comparison"),
    as_json: AsJson = False,
) -> None:
    """Put runs into one table, with plots and a page.

    \b
    compress compare runs/quickstart runs/b64
    compress compare runs/quickstart runs/b64 --out blocks
    """
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
    seed: Annotated[int, typer.Option(min=0, help="of the samples")] = 0,
) -> None:
    """Continue a text with a torch or ONNX folder.

    \b
    compress generate runs/quickstart/onnx/int4 "Once upon a time"
    compress generate runs/quickstart/torch/student "Tom" --temperature 0.8
    """
    from compress.models.decoder import format_of
    from compress.models.generate import Sampling, continue_text

    format_of(artifact)
    sampling = Sampling(temperature=temperature, top_k=top_k, top_p=top_p, seed=seed)
    pieces = continue_text(artifact, prompt, new, sampling)
    typer.echo(prompt, nl=False)
    for piece in pieces:
        typer.echo(piece, nl=False)
    typer.echo()


@app.command()
def bench(
    artifact: Annotated[Path, typer.Argument(metavar="ARTIFACT", help="a torch or ONNX folder")],
    text: Annotated[
        Path | None, typer.Option("--text", help="file to measure quality on; without it only speed and size")
    ] = None,
    separator: Annotated[str | None, typer.Option(help="what stands between documents in the text")] = None,
    teacher: Annotated[Path | None, typer.Option(help="folder to compare with: KL and agreement")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="threads (default: the machine's cores)")] = None,
    as_json: AsJson = False,
) -> None:
    """Measure one torch or ONNX folder, outside a recipe.

    \b
    compress bench runs/quickstart/onnx/int4
    compress bench runs/quickstart/onnx/int4 --text eval.txt --separator '<end>'
    """
    from compress.bench import measure_one

    results = measure_one(artifact, text, separator, teacher, threads, Terminal())
    _print(results, as_json)


@app.command()
def stages(word: Annotated[str | None, typer.Argument(metavar="WORD", help="a stage")] = None) -> None:
    """List the stages of a recipe, or the options of one.

    \b
    compress stages
    compress stages quantize
    """
    from compress.stage_help import all_stages, one_stage

    typer.echo(one_stage(word) if word else all_stages())


@app.command()
def schema() -> None:
    """Print the JSON Schema of recipes, for editors.

    \b
    compress schema > recipe.schema.json
    """
    from compress.schema import schema_text

    typer.echo(schema_text(), nl=False)


def main() -> None:
    """Run the command line and exit with its code."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # a table has signs that not every locale can write, and comes after hours of work
            stream.reconfigure(errors="replace")
    try:
        app(prog_name="compress")
    except RecipeError as error:
        typer.echo(str(error), err=True)
        sys.exit(WRONG)
    except CompressError as error:
        if not isinstance(error, FirstProcessError):
            typer.echo(f"error: {error}", err=True)
        sys.exit(WRONG if isinstance(error, CommandError | MissingExtra) else FAILED)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        typer.echo(f"error: {where}{error.strerror or error}", err=True)
        sys.exit(FAILED)
