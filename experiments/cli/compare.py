"""``wafersparse compare``: a table of runs, what is wrong with it first."""

import json
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pruning.problems import fail

if TYPE_CHECKING:
    from experiments.report.study import Study
    from pruning.atomic import Part


@click.command(
    "compare",
    epilog="Examples:\n\n"
    "\b\n"
    "  wafersparse compare runs\n"
    "  wafersparse compare runs/dense runs/sparse --metric perplexity --md\n"
    "  wafersparse compare runs --html report.html\n"
    "  wafersparse compare runs --figures figures\n"
    "  wafersparse compare runs --diff runs/dense runs/sparse",
)
@click.argument("dirs", nargs=-1, required=True, type=click.Path(path_type=Path))
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
        _show_diff(diff)
        return
    if overwrite and html is None and figures is None:
        raise click.UsageError("--overwrite has no effect without --html or --figures")
    if overlap and html is None and form not in (None, "json"):
        raise click.UsageError(f"--overlap has no place in --{form}; use --json, --html, or neither")
    with ExitStack() as stack:
        page = None if html is None else stack.enter_context(_page(html, overwrite))
        study = _compare(dirs, by, names, form, page, overlap, no_cache)
    if html is not None:
        from experiments.progress import size

        click.echo(f"wrote {html} ({size(html.stat().st_size)})", err=True)
    if figures is not None:
        from experiments.report.files import write_figures

        for path in write_figures(study, figures, overwrite=overwrite):
            click.echo(f"wrote {path}", err=True)


def _compare(
    dirs: tuple[Path, ...],
    by: tuple[str, ...],
    names: tuple[str, ...],
    form: str | None,
    page: "Part | None",
    overlap: bool,
    no_cache: bool,
) -> "Study":
    import tempfile

    from experiments.compare import table as tables
    from experiments.compare.findings import warnings_of
    from experiments.compare.groups import grouped
    from experiments.compare.metrics import DEFAULT, metric_of
    from experiments.compare.overlap import FREE, MaskOverlaps, as_json, as_text, mask_overlaps
    from experiments.report.study import Study
    from experiments.runs.cache import read_runs
    from experiments.runs.find import run_directories

    paths = run_directories(dirs)
    with tempfile.TemporaryDirectory() as empty:
        runs = read_runs(paths, cache=Path(empty) if no_cache else None)
    tags = [tag for run in runs for tag in run.last]
    metrics = [metric_of(name, tags) for name in names or DEFAULT]
    groups = grouped(runs, by)
    if by and len({frozenset(group.settings) for group in groups}) == 1 and not groups[0].settings:
        raise fail(f"--group-by {' '.join(by)}", "is a key of none of these runs", "name keys of the config")
    rows, warned = tables.rows_of(groups, metrics), warnings_of(groups)
    overlaps = MaskOverlaps()
    if overlap or page is not None:
        overlaps = mask_overlaps(groups, most=None if overlap else FREE)
    study = Study(rows, metrics, warned, overlaps)
    if page is not None:
        from datetime import UTC, datetime

        from experiments.report.page import page as report

        page.write(report(study, [str(d) for d in dirs], datetime.now(UTC)))
    for warning in warned:
        click.echo(f"warning: {warning.kind}: {warning.text}", err=True)
    if form == "json":
        found = tables.as_json(rows, warned)
        if overlap:
            found["overlap"] = as_json(overlaps)
        click.echo(json.dumps(found, indent=1))
    elif form is not None:
        write = {"csv": tables.as_csv, "md": tables.as_markdown, "latex": tables.as_latex}[form]
        click.echo(write(rows, metrics), nl=False)
    else:
        click.echo(tables.as_text(rows, metrics))
        if overlap:
            click.echo("\n" + as_text(overlaps))
        if sys.stdout.isatty():
            from experiments.compare.plot import plot

            click.echo("\n" + plot(rows, metrics[0]))
    return study


def _page(html: Path, overwrite: bool) -> "Part":
    """Opened before anything is read: a name that is taken is said at once."""
    from pruning.atomic import Part

    return Part(html, overwrite=overwrite)


def _only_the_diff(form: str | None, html: Path | None, overlap: bool, *others: tuple[str, ...]) -> None:
    if form is not None or html is not None or overlap or any(others):
        raise click.UsageError("--diff prints two configs and nothing else: leave the other options out")


def _show_diff(diff: tuple[Path, Path]) -> None:
    from experiments.compare.settings import config_diff
    from experiments.runs.cache import read_runs
    from experiments.runs.find import run_directories

    paths = run_directories(diff)
    if len(paths) != 2:
        what = f"hold {len(paths)} runs, where a diff is of two"
        raise fail(f"--diff {diff[0]} {diff[1]}", what, "name two directories of a run each")
    one, other = read_runs(paths)
    for key, (left, right) in config_diff(one, other).items():
        click.echo(f"{key}: {left!r} → {right!r}")
