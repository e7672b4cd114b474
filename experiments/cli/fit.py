"""``wafersparse fit``, and but for the verb ``validate``: the config that cszoo takes, on plain PyTorch."""

import json
import sys
from pathlib import Path
from typing import Any

import click

_EXAMPLE = "Example:  wafersparse {verb} configs/gpt2_1m.yaml --target_device CPU -o runs/dense"


def make_command(verb: str, what: str) -> click.Command:
    @click.command(verb, help=what, epilog=_EXAMPLE.format(verb=verb))
    @click.argument("config", type=click.Path(path_type=Path))
    @click.option("--target_device", type=click.Choice(["CPU", "GPU"], case_sensitive=False))
    @click.option("-o", "--model_dir", metavar="DIR", help="Where the run is left; instead of the config's.")
    @click.option("--checkpoint_path", metavar="FILE", help="Start from this checkpoint.")
    @click.option("--keep", type=click.IntRange(1), help="Keep the last N checkpoints of this run.")
    @click.option("--dry-run", is_flag=True, help="Check everything, build and write nothing.")
    @click.option("--json", "as_json", is_flag=True, help="Results as JSON on stdout.")
    def command(config: Path, dry_run: bool, as_json: bool, **given: Any) -> None:
        _run(verb, config, dry_run, as_json, given)

    return command


def _run(verb: str, config: Path, dry_run: bool, as_json: bool, given: dict[str, Any]) -> None:
    from cerebras_utils.cszoo_yaml import load_config
    from cerebras_utils.fallback.run import Overrides, check, device_of, notes, run
    from cerebras_utils.fallback.trainer import NotFiniteError
    from pruning.problems import ProblemError

    phases = load_config(config)
    if problems := check(phases, verb):
        raise ProblemError(problems)
    device = device_of(phases[0].init, given["target_device"])
    click.echo(f"backend: torch on {device} (plain PyTorch, no Cerebras software)", err=True)
    for line in notes(phases, verb):
        click.echo(line, err=True)
    if dry_run:
        click.echo(f"{config}: nothing found that is wrong")
        return
    overrides = Overrides(
        device=given["target_device"],
        model_dir=given["model_dir"],
        checkpoint_path=given["checkpoint_path"],
        keep=given["keep"],
    )
    try:
        results = run(config, verb, overrides)
    except NotFiniteError as error:
        click.echo(
            f"error: {error}\n   fix: lower the learning rate, or clip gradients; "
            "the last good checkpoint is kept",
            err=True,
        )
        sys.exit(1)
    except KeyboardInterrupt:
        click.echo(
            "interrupted; the same command continues from the last checkpoint, or anew without one",
            err=True,
        )
        sys.exit(1)
    if as_json:
        click.echo(json.dumps(results, indent=1))


command = make_command("fit", "Train as CONFIG says: a cszoo YAML, on a CPU or GPU.")
