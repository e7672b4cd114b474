"""``wafersparse compare``: a table of runs, what is wrong with it first."""

import json
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pruning.problems import Problem, ProblemError, fail

if TYPE_CHECKING:
    from collections.abc import Sequence

    from experiments.report.study import Study
    from experiments.runs.record import RunRecord
    from pruning.atomic import Part


@click.command(
    "compare",
    epilog="Examples:\n\n"
    "\b\n"
    "  wafersparse compare runs\n"
    "  wafersparse compare runs/dense runs/sparse --metric perplexity --md\n"
    "  wafersparse compare runs --html report.html\n"
    "  wafersparse compare runs --figures figures\n"
    "  wafersparse compare --diff runs/dense runs/sparse",
)
@click.argument("dirs", nargs=-1, type=click.Path(path_type=Path))
@click.option(
    "--group-by", "by", multiple=True, metavar="KEY", help="Runs that agree in these keys are a row."
)
@click.option(
    "--metric", "names", multiple=True, metavar="NAME", help="perplexity, loss, accuracy, or a tag."
)
@click.option("--csv", "form", flag_value="csv", help="The table as CSV on stdout.")
@click.option("--md", "form", flag_value="md", help="... as Markdown.")
@click.option("--latex", "form", flag_value="latex", help="... as a LaTeX tabular.")
@click.option("--json", "form", flag_value="json", help="... as JSON, with warnings and tests.")
@click.option(
    "--html", type=click.Path(path_type=Path), metavar="FILE", help="Also a page that needs no network."
)
@click.option(
    "--figures", type=click.Path(path_type=Path), metavar="DIR", help="Also each picture of it as SVG."
)
@click.option("--overwrite", is_flag=True, help="Replace what --html and --figures name, if it is there.")
@click.option(
    "--overlap", is_flag=True, help="What the masks of each two have in common, however much to read."
)
@click.option("--diff", nargs=2, type=click.Path(path_type=Path), help="Only what differs in two configs.")
@click.option("--no-cache", is_flag=True, help="Read every file again.")
def command(
    dirs: tuple[Path, ...],
    by: tuple[str, ...],
    names: tuple[str, ...],
    form: str | None,
    html: Path | None,
    figures: Path | None,
    overwrite: bool,
    overlap: bool,
    diff: tuple[Path, Path] | None,
    no_cache: bool,
) -> None:
    """Compare the runs in DIRS, of this project and of cszoo, finished or not.

    One row per configuration; runs that differ in the seed alone are one row, with the mean and
    its 95 % interval. Failed and unfinished runs are rows too. Warnings come first.
    """
    if diff is not None:
        _only_the_diff(form, html or figures, overlap, names, by)
        _show_diff(diff, dirs, no_cache)
        return
    if not dirs:
        raise click.UsageError("Missing argument 'DIRS...'.")
    if overwrite and html is None and figures is None:
        raise click.UsageError("--overwrite has no effect without --html or --figures")
    if overlap and html is None and form not in (None, "json"):
        raise click.UsageError(f"--overlap has no place in --{form}; use --json, --html, or neither")
    with ExitStack() as stack:
        page = None if html is None else stack.enter_context(_page(html, overwrite))
        study = _study(dirs, by, names, page, overlap, no_cache)
    # Files first: whoever reads the table may close the pipe after its first lines.
    written: list[str] = []
    if html is not None:
        from experiments.progress import size

        written.append(f"{html} ({size(html.stat().st_size)})")
    if figures is not None:
        from experiments.report.files import write_figures

        written += map(str, write_figures(study, figures, overwrite=overwrite))
    _show(study, form, overlap)
    for file in written:
        click.echo(f"wrote {file}", err=True)


def _study(
    dirs: tuple[Path, ...],
    by: tuple[str, ...],
    names: tuple[str, ...],
    page: "Part | None",
    overlap: bool,
    no_cache: bool,
) -> "Study":
    from experiments.compare.findings import warnings_of
    from experiments.compare.groups import grouped, unknown_keys
    from experiments.compare.metrics import DEFAULT, metric_of
    from experiments.compare.overlap import FREE, MaskOverlaps, mask_overlaps
    from experiments.compare.table import rows_of
    from experiments.report.study import Study
    from experiments.runs.find import run_directories

    runs = _read(run_directories(dirs), no_cache)
    tags = [tag for run in runs for tag in run.last]
    metrics = [metric_of(name, tags) for name in names or DEFAULT]
    if unknown := unknown_keys(runs, by):
        what = "is in the config of none of these runs"
        raise ProblemError([Problem(f"--group-by {key}", what, "name keys of the config") for key in unknown])
    groups = grouped(runs, by)
    rows, warned = rows_of(groups, metrics), warnings_of(groups)
    overlaps = MaskOverlaps()
    if overlap or page is not None:
        overlaps = mask_overlaps(groups, most=None if overlap else FREE)
    study = Study(rows, metrics, warned, overlaps)
    if page is not None:
        from datetime import UTC, datetime

        from experiments.report.page import page as report

        page.write(report(study, [str(d) for d in dirs], datetime.now(UTC)))
    return study


def _show(study: "Study", form: str | None, overlap: bool) -> None:
    from experiments.compare import formats
    from experiments.compare.overlap import as_json, as_text

    rows, metrics, warned = study.rows, study.metrics, study.warnings
    for warning in warned:
        click.echo(f"warning: {warning.kind}: {warning.text}", err=True)
    if form == "json":
        found = formats.as_json(rows, warned)
        if overlap:
            found["overlap"] = formats.finite(as_json(study.overlaps))
        click.echo(json.dumps(found, indent=1, allow_nan=False))
    elif form is not None:
        write = {"csv": formats.as_csv, "md": formats.as_markdown, "latex": formats.as_latex}[form]
        click.echo(write(rows, metrics), nl=False)
    else:
        click.echo(formats.as_text(rows, metrics))
        if overlap:
            click.echo("\n" + as_text(study.overlaps))
        if sys.stdout.isatty():
            from experiments.compare.plot import plot

            click.echo("\n" + plot(rows, metrics[0]))


def _read(paths: "Sequence[Path]", no_cache: bool) -> "list[RunRecord]":
    import tempfile

    from experiments.runs.cache import read_runs

    with tempfile.TemporaryDirectory() as empty:
        return read_runs(paths, cache=Path(empty) if no_cache else None)


def _page(html: Path, overwrite: bool) -> "Part":
    """Opened before anything is read: a name that is taken is said at once."""
    from pruning.atomic import Part

    return Part(html, overwrite=overwrite)


def _only_the_diff(form: str | None, html: Path | None, overlap: bool, *others: tuple[str, ...]) -> None:
    if form is not None or html is not None or overlap or any(others):
        raise click.UsageError("--diff prints two configs and nothing else: leave the other options out")


def _show_diff(diff: tuple[Path, Path], dirs: tuple[Path, ...], no_cache: bool) -> None:
    """DIRS are not needed for it. Where they are given, the two are to be among their runs."""
    from experiments.compare.settings import config_diff
    from experiments.runs.find import run_directories

    paths = run_directories(diff)
    if len(paths) != 2:
        what = f"hold {len(paths)} runs, where a diff is of two"
        raise fail(f"--diff {diff[0]} {diff[1]}", what, "name two directories of a run each")
    among = {path.resolve() for path in run_directories(dirs)} if dirs else set()
    if dirs and (outside := [path for path in paths if path.resolve() not in among]):
        fix = "leave DIRS out, or name two of their runs"
        what = "is none of the runs in DIRS"
        raise ProblemError([Problem(f"--diff {path}", what, fix) for path in outside])
    one, other = _read(paths, no_cache)
    for key, (left, right) in config_diff(one, other).items():
        click.echo(f"{key}: {left!r} → {right!r}")
