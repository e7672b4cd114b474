"""``wafersparse compare``: a table of runs, what is wrong with it first."""

import sys
from pathlib import Path

import click

from pruning.problems import fail


@click.command(
    "compare",
    epilog="Examples:\n\n"
    "\b\n"
    "  wafersparse compare runs\n"
    "  wafersparse compare runs/dense runs/sparse --metric perplexity --md\n"
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
@click.option("--diff", nargs=2, type=click.Path(path_type=Path), help="Only what differs in two configs.")
@click.option("--no-cache", is_flag=True, help="Read every file again.")
def command(
    dirs: tuple[Path, ...],
    by: tuple[str, ...],
    names: tuple[str, ...],
    form: str | None,
    diff: tuple[Path, Path] | None,
    no_cache: bool,
) -> None:
    """Compare the runs in DIRS, of this project and of cszoo, finished or not.

    One row per configuration; runs that differ in the seed alone are one row, with the mean and
    its 95 % interval. Failed and unfinished runs are rows too. Warnings come first.
    """
    import tempfile

    from experiments.compare import table as tables
    from experiments.compare.findings import warnings_of
    from experiments.compare.groups import grouped
    from experiments.compare.metrics import DEFAULT, metric_of
    from experiments.compare.settings import config_diff
    from experiments.runs.cache import read_runs
    from experiments.runs.find import run_directories

    if diff is not None:
        one, other = read_runs(run_directories(diff))
        for key, (left, right) in config_diff(one, other).items():
            click.echo(f"{key}: {left!r} → {right!r}")
        return
    paths = run_directories(dirs)
    with tempfile.TemporaryDirectory() as empty:
        runs = read_runs(paths, cache=Path(empty) if no_cache else None)
    tags = [tag for run in runs for tag in run.last]
    metrics = [metric_of(name, tags) for name in names or DEFAULT]
    groups = grouped(runs, by)
    if by and len({frozenset(group.settings) for group in groups}) == 1 and not groups[0].settings:
        raise fail(f"--group-by {' '.join(by)}", "is a key of none of these runs", "name keys of the config")
    rows, warned = tables.rows_of(groups, metrics), warnings_of(groups)
    for warning in warned:
        click.echo(f"warning: {warning.kind}: {warning.text}", err=True)
    if form == "json":
        click.echo(tables.as_json(rows, warned, metrics))
    elif form is not None:
        write = {"csv": tables.as_csv, "md": tables.as_markdown, "latex": tables.as_latex}[form]
        click.echo(write(rows, metrics), nl=False)
    else:
        click.echo(tables.as_text(rows, metrics))
        if sys.stdout.isatty():
            from experiments.compare.plot import plot

            click.echo("\n" + plot(rows, metrics[0]))
