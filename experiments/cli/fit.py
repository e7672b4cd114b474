"""``wafersparse fit``, ``validate`` and ``validate_all``: a cszoo config on cszoo, or on plain PyTorch."""

import json
import sys
from pathlib import Path
from typing import Any

import click

from experiments.cli.cszoo_flags import CszooCommand, cszoo_flags, for_cszoo, without_use

_EXAMPLE = "configs/gpt2_1m.yaml --target_device CPU -o runs/dense"
_TORCH_ONLY = {  # flags of plain PyTorch alone: what to do instead
    "keep": "write the callback KeepNCheckpoints into the config",
    "parallel": "leave it out: cszoo shares a run out by --num_csx",
    "compiled": "leave it out: cszoo compiles for the CS-3 by itself",
}


def make_command(verb: str, what: str, example: str = _EXAMPLE) -> click.Command:
    @click.command(verb, cls=CszooCommand, help=what, epilog=f"Example:  wafersparse {verb} {example}")
    @click.argument("config", type=click.Path(path_type=Path))
    @click.option(
        "--backend",
        type=click.Choice(["cszoo", "torch"]),
        help="cszoo: ModelZoo's own trainer. torch: plain PyTorch. Left out: cszoo where ModelZoo is here.",
    )
    @cszoo_flags
    @click.option("--keep", type=click.IntRange(1), help="torch: keep the last N checkpoints of this run.")
    @click.option("--dry-run", is_flag=True, help="Check everything, build and write nothing.")
    @click.option("--json", "as_json", is_flag=True, help="Results as JSON on stdout.")
    @click.option(
        "--parallel",
        type=click.Choice(["ddp", "fsdp"]),
        help="torch: how torchrun's processes share the model.",
    )
    @click.option("--compile", "compiled", is_flag=True, help="torch: compile the model with torch.compile.")
    def command(config: Path, backend: str | None, dry_run: bool, as_json: bool, **given: Any) -> None:
        from cerebras_utils import register

        here = register.modelzoo_is_here()
        if backend == "cszoo" and not here:
            from pruning.problems import fail

            raise fail(
                "--backend cszoo",
                f"ModelZoo is not importable by {sys.executable}",
                "run the Python it is installed in, or use --backend torch",
            )
        if backend == "cszoo" or (backend is None and here):
            _run_cszoo(verb, config, backend is not None, dry_run, as_json, given)
            return
        from cerebras_utils.fallback.distributed import joined

        reason = "asked for by --backend torch" if backend else "ModelZoo is not importable here"
        with joined(given["parallel"], verb) as processes:
            _run_torch(verb, config, reason, dry_run, as_json, given, processes)

    return command


def _run_cszoo(
    verb: str, config: Path, asked: bool, dry_run: bool, as_json: bool, given: dict[str, Any]
) -> None:
    from cerebras_utils.cszoo_launch import launch, modelzoo_version
    from pruning.problems import Problem, ProblemError

    reason = "asked for by --backend cszoo" if asked else "ModelZoo is importable here"
    click.echo(f"backend: cszoo (ModelZoo {modelzoo_version()}; {reason})", err=True)
    if refused := [
        Problem(f"--{'compile' if name == 'compiled' else name}", "is for --backend torch", fix)
        for name, fix in _TORCH_ONLY.items()
        if given[name]
    ]:
        raise ProblemError(refused)
    if not config.is_file():
        raise ProblemError([Problem(str(config), "is no file", "check the path")])
    if dry_run:
        launch(["config", "validate", str(config)])
        said = f"{config}: ModelZoo finds nothing that is wrong; `wafersparse doctor` looks further"
        click.echo(_no_problems(config) if as_json else said)
        return
    receipts = launch([verb, str(config), *for_cszoo(given)])
    if as_json:
        written = [json.loads(path.read_text(encoding="utf-8")) for path in receipts.written]
        results = [
            {"steps": r["steps"], "masks": r["mask_receipts"], "metrics": r["metrics"]} for r in written
        ]
        click.echo(json.dumps(results, indent=1))


def _no_problems(config: Path) -> str:
    """What --dry-run says with --json; whatever is wrong ends the command before."""
    return json.dumps({"config": str(config), "problems": []})


def _run_torch(
    verb: str,
    config: Path,
    reason: str,
    dry_run: bool,
    as_json: bool,
    given: dict[str, Any],
    processes: Any,
) -> None:
    from cerebras_utils.cszoo_yaml import load_config
    from cerebras_utils.fallback.devices import devices_of
    from cerebras_utils.fallback.not_finite import NotFiniteError
    from cerebras_utils.fallback.run import Overrides, check, notes, run
    from pruning.problems import Problem, ProblemError

    refused, idle = without_use(given)
    problems = [Problem(flag, what, "leave it out, or use --backend cszoo") for flag, what in refused]
    if (given["target_device"] or "").upper() == "CSX":
        what = "names a CS-3, which plain PyTorch cannot use"
        problems.append(Problem("--target_device CSX", what, "use CPU or GPU, or --backend cszoo"))
    if problems:
        raise ProblemError(problems)
    overrides = Overrides(
        device=given["target_device"],
        model_dir=given["model_dir"],
        checkpoint_path=given["checkpoint_path"],
        keep=given["keep"],
        states=given["load_checkpoint_states"],
        log_level=given["logging"],
        compiled=given["compiled"],
    )
    phases = load_config(config)
    if problems := check(phases, verb, overrides):
        raise ProblemError(problems)
    devices = dict.fromkeys(map(str, devices_of(phases, given["target_device"])))
    where = f"torch on {', '.join(devices)}{processes}"
    click.echo(f"backend: {where} (plain PyTorch, no Cerebras software; {reason})", err=True)
    for line in [*idle, *notes(phases, verb)]:
        click.echo(line, err=True)
    if dry_run:
        click.echo(_no_problems(config) if as_json else f"{config}: nothing found that is wrong")
        return
    try:
        results = run(config, verb, overrides, processes)
    except NotFiniteError as error:
        click.echo(f"error: {error}\n   fix: {error.fix}", err=True)
        sys.exit(1)
    except KeyboardInterrupt as error:
        at_once = (
            "interrupted at once; the same command continues from the last checkpoint, or anew without one"
        )
        click.echo(str(error) or at_once, err=True)
        sys.exit(1)
    if as_json:
        click.echo(json.dumps(results, indent=1))


command = make_command("fit", "Train as CONFIG says: a cszoo YAML, on cszoo or on plain PyTorch.")
