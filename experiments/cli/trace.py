"""``wafersparse trace``: what the compiler of the CS-3 would be told of sparsity, without a CS-3."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from cerebras_utils.trace.report import Row
    from cerebras_utils.trace.run import Traced


@click.command(
    "trace",
    epilog="Examples:\n\n"
    "\b\n"
    "  wafersparse trace configs/gpt2_1m.yaml --stand-in-data\n"
    "  wafersparse trace sparse_config.yaml --json --keep-cirh graph.cirh",
)
@click.argument("config", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="The report as JSON on stdout.")
@click.option("--keep-cirh", type=click.Path(path_type=Path), metavar="FILE", help="Keep the graph's text.")
@click.option(
    "--stand-in-data",
    is_flag=True,
    help="Trace with zeros in the place of the training data, where they are not on this machine.",
)
@click.option(
    "--through",
    type=click.Choice(["modelzoo", "own"]),
    help="Whose model is traced; ModelZoo's where it is installed, else this project's own.",
)
@click.option("--log", type=click.Path(path_type=Path), metavar="FILE", help="Keep what the vendor prints.")
def command(config: Path, as_json: bool, **given: Any) -> None:
    """Run the CSX backend on CONFIG up to the compiler, offline, and check what it would be given.

    For every masked weight: the hint that the compiler gets against the sparsity of the mask itself, hints of
    the optimizer's state, the mask as an argument, and how weight and mask would be sent. Anything else than
    the config asks for is an error. No cluster is contacted, and nothing is left behind.
    """
    from cerebras_utils.trace.run import Options, trace

    def say(text: str) -> None:
        click.echo(text, err=True)

    traced = trace(config, Options(**given), say)
    wrong = [problem for one in traced for problem in one.report.problems]
    if as_json:
        click.echo(
            json.dumps({"config": str(config), "trainers": [one.as_json() for one in traced]}, indent=1)
        )
    else:
        for one in traced:
            click.echo(_text(one))
    for one in traced:
        say(f"{one.key}: traced in {one.seconds:.1f} s, at most {one.peak / 1e9:.2f} GB")
    if wrong:
        from pruning.problems import ProblemError

        raise ProblemError(wrong)


def _text(traced: "Traced") -> str:
    from experiments.tables import table

    trace, rows = traced.trace, traced.report.rows
    head = ("weight", "sparsity", "hint", "state hinted", "mask", "mask sent as", "weight sent as", "")
    lines = [f"{traced.key}: {traced.asked.words}; through {traced.through}"]
    if rows:
        lines.append(table(head, [_cells(row) for row in rows], right=(1, 2, 3)))
    verdict = "as asked for" if not traced.report.problems else f"{len(traced.report.problems)} problem(s)"
    hinted = sum(row.state_hinted for row in rows)
    lines.append(
        f"{len(trace.arguments)} arguments, {trace.hints} hints "
        f"({trace.hints - hinted} on weights, {hinted} on optimizer state), {trace.masks} masks: {verdict}"
    )
    return "\n".join(lines)


def _cells(row: "Row") -> tuple[str, ...]:
    sparsity = "" if row.sparsity is None else f"{row.sparsity:.7g}"
    hint = "-" if row.hint is None else f"{row.hint:.7g}"
    verdict = "WRONG" if row.wrong else ""
    state = f"{row.state_hinted}/{row.state}" if row.trained else "frozen"
    return (row.weight, sparsity, hint, state, row.mask or "-", row.mask_sent, row.weight_sent, verdict)
