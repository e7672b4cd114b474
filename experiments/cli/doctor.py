"""``wafersparse doctor``: everything that can be known of a run before it queues, all at once."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from cerebras_utils.doctor import Report
    from pruning.problems import Problem

_PAD = " " * 13


@click.command(
    "doctor",
    epilog="Examples:\n\n"
    "\b\n"
    "  wafersparse doctor configs/gpt2_1m.yaml\n"
    "  wafersparse doctor sparse_config.yaml --checkpoint model.mdl --target_device CSX --json",
)
@click.argument("config", type=click.Path(path_type=Path))
@click.option(
    "--checkpoint",
    "--checkpoint_path",
    metavar="P",
    help="What the run starts from; instead of the config's.",
)
@click.option(
    "--target_device",
    type=click.Choice(["CSX", "CPU", "GPU"], case_sensitive=False),
    help="Where it is meant to run; instead of the config's.",
)
@click.option("--strict", is_flag=True, help="Warnings fail, too.")
@click.option(
    "--no-modelzoo", is_flag=True, help="Do not ask ModelZoo's own schema, which takes seconds to import."
)
@click.option("--json", "as_json", is_flag=True, help="Results as JSON on stdout.")
def command(
    config: Path,
    checkpoint: str | None,
    target_device: str | None,
    strict: bool,
    no_modelzoo: bool,
    as_json: bool,
) -> None:
    """Check CONFIG, a cszoo YAML, with the files that it names, as far as that is possible here.

    Problems end with exit code 1; warnings are suspicious, but may be meant. Nothing is
    written, built or submitted.
    """
    from cerebras_utils.doctor import examine

    report = examine(config, checkpoint=checkpoint, device=target_device, modelzoo=not no_modelzoo)
    if as_json:
        click.echo(json.dumps(report.to_json(), indent=1))
    else:
        click.echo(_text(report, config))
    if report.failed(strict):
        sys.exit(1)


def _text(report: "Report", config: Path) -> str:
    from cerebras_utils.checks.registry import SUBJECTS

    blocks = []
    for subject in SUBJECTS:
        lines = [
            *_listed(report.problems, subject, "problem"),
            *_listed(report.warnings, subject, "warning"),
            *(
                f"  estimated  {found.text}\n"
                f"{fill(found.how, 110, initial_indent=_PAD, subsequent_indent=_PAD)}"
                for name, found in report.estimates
                if name.startswith(f"{subject}.")
            ),
        ]
        if lines:
            blocks.append("\n".join([subject, *lines]))
    blocks.append(_not_made(report))
    found = f"{_count(len(report.problems), 'problem')}, {_count(len(report.warnings), 'warning')}"
    made = f"{_count(len(report.made), 'check')} made, {len(report.not_made)} not made"
    blocks.append(f"{config}: {found}; {made}")
    return "\n\n".join(block for block in blocks if block)


def _listed(found: "Sequence[tuple[str, Problem]]", subject: str, kind: str) -> list[str]:
    return [
        f"  {kind}  {problem.where}\n           {problem.what}\n           fix: {problem.fix}"
        for name, problem in found
        if name.startswith(f"{subject}.")
    ]


def _not_made(report: "Report") -> str:
    """The checks of one reason in a line."""
    reasons: dict[str, list[str]] = {}
    for name, reason in report.not_made:
        reasons.setdefault(reason, []).append(name)
    lines = [f"  {reason}\n      {', '.join(names)}" for reason, names in reasons.items()]
    return "\n".join(["not made", *lines]) if lines else ""


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"
