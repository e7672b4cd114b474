"""``wafersparse config``: masks, and LoRA if asked for, into a cszoo YAML that stays as it is otherwise."""

import json
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from cerebras_utils.config_rewriter import Rewritten, read_text, rewrite, write_config
from cerebras_utils.rewriting.request import (
    MODES,
    SPARSE_TO_SPARSE,
    Request,
    name_problems,
    parse_lora,
    parse_setting,
    read_masks,
)
from pruning.problems import Problem, ProblemError, fail


@click.command(
    "config",
    epilog="Examples:\n\n"
    "\b\n"
    "  wafersparse config params.yaml --masks masks.safetensors --checkpoint model.mdl\n"
    "  wafersparse config params.yaml --masks masks.safetensors --set init.loop.max_steps=100 --dry-run\n"
    "  wafersparse config params.yaml --masks masks.safetensors --mode sparse_to_dense \\\n"
    "      --lora r=16,alpha=32,dropout=0.05,target=TransformerDecoderLayer+Linear",
)
@click.argument("base", type=click.Path(path_type=Path))
@click.option("--masks", type=click.Path(path_type=Path), required=True, help="The mask file.")
@click.option(
    "--mode",
    type=click.Choice(MODES),
    default=SPARSE_TO_SPARSE,
    show_default=True,
    help="Keep the pattern throughout, or apply it once and train densely. With --lora: mask the update too, "
    "or train a dense update on the sparse weights.",
)
@click.option("--lora", metavar="r=R,alpha=A,...", help="LoRA: r, alpha, dropout, target=CLASS+CLASS.")
@click.option("--checkpoint", type=click.Path(path_type=Path), help="Start from it: fit.ckpt_path.")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="A key below `trainer`. Repeat.")
@click.option(
    "--native", is_flag=True, help="Put the masks into a copy of --checkpoint, beside --out as .mdl."
)
@click.option("--phase", metavar="N|all", help="In a list of trainers: which to change, counted from 0.")
@click.option("--replace-sparsity", is_flag=True, help="Take out a `sparsity:` that is there.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("sparse_config.yaml"), show_default=True)
@click.option("--dry-run", is_flag=True, help="Show the difference, write nothing.")
@click.option("--json", "as_json", is_flag=True, help="Results as JSON on stdout.")
@click.pass_context
def command(
    ctx: click.Context,
    /,
    base: Path,
    masks: Path,
    checkpoint: Path | None,
    native: bool,
    out: Path,
    dry_run: bool,
    as_json: bool,
    **asked: Any,
) -> None:
    """Write the masks into BASE, a cszoo config, and leave every other line of it as it is.

    The result is read as cszoo reads it and compared with what was meant, or nothing is written. Without
    --native it needs this project where cszoo runs; see `wafersparse fit`.
    """
    for what in ("lora", "settings"):
        _check_form(what, asked[what])
    text = read_text(base)
    summary = read_masks(masks)
    if problems := [*name_problems(summary)]:
        raise ProblemError(problems)
    request = _request(summary, checkpoint, asked)
    export, target = None, out.absolute().with_suffix(".mdl")
    if native:
        from cerebras_utils.native_export import plan_export

        if checkpoint is None:
            raise fail("--native", "has no checkpoint to put the masks into", "add --checkpoint FILE")
        if request.lora is not None:
            what = (
                "LoRA freezes the masked weights, and the vendor's own sparsity then fails at the first step"
            )
            raise fail("--native --lora", what, "leave --native out; the SparseMaskCallback works with LoRA")
        export = plan_export(checkpoint.absolute(), summary, request.mode)
        request = replace(request, checkpoint=str(target), groups=export.groups)
    result = rewrite(base, text, request, _command(ctx.params))
    lines = [*result.lines, *(export.lines if export else ())]
    for line in lines:
        click.echo(line, err=True)
    states: dict[str, str] = {}
    if not dry_run:
        if export is not None:
            from cerebras_utils.native_export import write_export

            states[str(target)] = write_export(export, target)
        states[str(out)] = write_config(out, result.text)
    _say(result, out, states, lines, dry_run, as_json)


def _check_form(what: str, given: Any) -> None:
    """What has not the form of the option is a matter of usage."""
    if what == "settings" and (wrong := [text for text in given if "=" not in text]):
        raise click.BadParameter(f"{wrong[0]!r} is no KEY=VALUE", param_hint="--set")
    if what == "lora" and given is not None and "=" not in given:
        raise click.BadParameter(f"{given!r} is not of the form r=16,alpha=32", param_hint="--lora")


def _request(summary: Any, checkpoint: Path | None, asked: dict[str, Any]) -> Request:
    problems: list[Problem] = []
    settings = []
    lora = None
    try:
        lora = None if asked["lora"] is None else parse_lora(asked["lora"])
    except ProblemError as error:
        problems += error.problems
    for text in asked["settings"]:
        try:
            settings.append(parse_setting(text))
        except ProblemError as error:
            problems += error.problems
    if checkpoint is not None and not checkpoint.exists():
        problems.append(Problem(str(checkpoint), "does not exist", "name a checkpoint"))
    if problems:
        raise ProblemError(problems)
    return Request(
        masks=summary,
        mode=asked["mode"],
        lora=lora,
        checkpoint=None if checkpoint is None else str(checkpoint.absolute()),
        settings=tuple(settings),
        phase=asked["phase"],
        replace_sparsity=asked["replace_sparsity"],
    )


def _command(params: dict[str, Any]) -> str:
    """The command that makes this file again, whatever the order in which it was typed."""
    words = ["wafersparse", "config", str(params["base"]), "--masks", str(params["masks"])]
    words += ["--mode", params["mode"]]
    for name in ("lora", "checkpoint", "phase"):
        if params[name] is not None:
            words += [f"--{name}", str(params[name])]
    for text in params["settings"]:
        words += ["--set", text]
    words += [f"--{name.replace('_', '-')}" for name in ("native", "replace_sparsity") if params[name]]
    return shlex.join([*words, "--out", str(params["out"])])


def _say(
    result: Rewritten, out: Path, states: dict[str, str], lines: list[str], dry_run: bool, as_json: bool
) -> None:
    diff = result.diff(str(out))
    if as_json:
        about = {"out": str(out), "written": states, "notes": lines, "diff": diff, "dry_run": dry_run}
        click.echo(json.dumps(about, indent=1))
        return
    if dry_run:
        click.echo("\n".join(diff))
        return
    changed = [line for line in diff if line[:1] in "+-" and not line.startswith(("+++", "---", "+# wafer"))]
    for line in changed:
        click.echo(line, err=True)
    for path, state in states.items():
        click.echo(f"{state}  {path}")
