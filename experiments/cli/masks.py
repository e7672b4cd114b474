"""``wafersparse masks``: a checkpoint in, one mask file per sparsity out."""

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from runpy import run_path
from typing import Any

import click

from experiments.progress import reading, size
from experiments.recipe import make_specs, parse_layer, read_recipe
from experiments.tables import percent, shape, table
from pruning.atomic import TargetExistsError
from pruning.checkpoint.open import open_checkpoint
from pruning.checkpoint.source import TensorSource
from pruning.engine.compute import bytes_to_read, default_sizes, write_mask_files
from pruning.importance import SCORES, beyond_weights
from pruning.masks.file import MaskFile
from pruning.planning.amount import parse_sparsity
from pruning.planning.plan import Plan, make_plan
from pruning.planning.spec import MaskSpec
from pruning.problems import ProblemError, fail
from pruning.registry import suggest

FORMATS = ("safetensors", "npz", "pt")


@click.command(
    "masks",
    epilog="Examples:\n\n"
    "\b\n"
    "  wafersparse masks model.safetensors --sparsity 0.5 --sparsity 0.75\n"
    "  wafersparse masks checkpoint_0.mdl --sparsity 0.75 --allocation global --dry-run\n"
    "  wafersparse masks Llama-3-8B/ --pattern 2:4 --out masks\n"
    "  wafersparse masks model.pt --sparsity 0.8 --layer '*q_proj*=0.5' --layer '*k_proj*=0.5'",
)
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option(
    "--sparsity",
    multiple=True,
    metavar="S",
    help="Fraction to drop, in [0, 1). Repeat for several.",
)
@click.option(
    "--score", metavar="NAME", help="magnitude (default), l2, random, or one that --plugin registers."
)
@click.option(
    "--pattern", metavar="P", help="unstructured (default), N:M kept, block:BHxBW, row, column, head:H."
)
@click.option(
    "--allocation", metavar="NAME", help="uniform (default), global or erk: how the sparsity is shared out."
)
@click.option(
    "--layer",
    "layers",
    multiple=True,
    metavar="GLOB=S",
    help="A sparsity of its own; the first match counts.",
)
@click.option("--include", multiple=True, metavar="GLOB", help="Prune these instead of the default choice.")
@click.option("--exclude", multiple=True, metavar="GLOB", help="Leave these out.")
@click.option("--seed", type=int, help="Of the random score.")
@click.option(
    "--nan-as-pruned", is_flag=True, default=None, help="Read NaN as weights that were pruned before."
)
@click.option(
    "--recipe", type=click.Path(path_type=Path), help="A YAML file with these options; see configs/."
)
@click.option(
    "--plugin", type=click.Path(exists=True, dir_okay=False), help="A Python file that registers scores."
)
@click.option("--format", "file_format", type=click.Choice(FORMATS), default="safetensors", show_default=True)
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path("masks"), show_default=True, metavar="DIR"
)
@click.option("--plot", is_flag=True, help="Draw the sparsity per layer beside each mask file.")
@click.option(
    "--workers", type=click.IntRange(1, 256), help="Threads; all processors by default. No bit depends on it."
)
@click.option(
    "--dask",
    "dask",
    metavar="WHERE",
    help="Compute on a Dask cluster: the address of its scheduler, or local:N. The same bits.",
)
@click.option("--dry-run", is_flag=True, help="Say what would be pruned and written, then stop.")
@click.option("--json", "as_json", is_flag=True, help="Results as JSON on stdout.")
def command(
    checkpoint: Path,
    file_format: str,
    out: Path,
    plot: bool,
    workers: int | None,
    dask: str | None,
    dry_run: bool,
    as_json: bool,
    plugin: str | None,
    recipe: Path | None,
    **asked: Any,
) -> None:
    """Compute masks for CHECKPOINT on the CPU, one file per sparsity.

    CHECKPOINT is a safetensors, .pt, .bin or Cerebras .mdl file, an index of shards, or a
    directory. Files that are already there and were made from the same checkpoint by the same
    options are kept, so an interrupted command continues where it stopped.
    """
    if dask is not None and (file_format != "safetensors" or workers is not None):
        raise click.UsageError("--dask writes safetensors, and its workers are counted by the cluster.")
    if plugin:
        _load(plugin)
        asked["plugin"] = hashlib.sha256(Path(plugin).read_bytes()).hexdigest()
    specs = _specs(recipe, asked)
    with _opened(checkpoint, specs) as (source, plan):
        targets = [out / _stem(checkpoint) / f"{spec.name}.{file_format}" for spec in specs]
        finished = [_finished(target, source, spec) for target, spec in zip(targets, specs, strict=True)]
        if dry_run:
            _say_plan(source, plan, targets, finished, as_json)
            return
        todo = [i for i, done in enumerate(finished) if not done]
        if todo:
            missing = make_plan(source, [specs[i] for i in todo])
            try:
                paths = [targets[i] for i in todo]
                if dask is not None:
                    _write_on_dask(dask, checkpoint, source, missing, paths)
                else:
                    with reading(bytes_to_read(source, missing), "masks") as progress:
                        write_mask_files(
                            source,
                            missing,
                            paths,
                            format=file_format,
                            sizes=default_sizes(workers),
                            progress=progress,
                        )
            except TargetExistsError:  # another process was faster with the same masks
                finished = [
                    _finished(target, source, spec) for target, spec in zip(targets, specs, strict=True)
                ]
                if not all(finished):
                    raise
    results = [
        _result(target, "kept" if done else "written", plot)
        for target, done in zip(targets, finished, strict=True)
    ]
    if as_json:
        click.echo(json.dumps({"checkpoint": str(checkpoint), "masks": results}, indent=1))
    else:
        click.echo("\n\n".join(map(_text, results)))


@contextmanager
def _opened(checkpoint: Path, specs: Sequence[MaskSpec]) -> Iterator[tuple[TensorSource, Plan]]:
    """The checkpoint and what is to be done; a mask file that was named instead is told apart from one."""
    with ExitStack() as stack:
        try:
            source = stack.enter_context(open_checkpoint(checkpoint))
            plan = make_plan(source, specs)
        except ProblemError:
            from experiments.cli.inspect import holds_masks

            if holds_masks(checkpoint):
                what, fix = "is a mask file, not a checkpoint", "name the checkpoint that is to be pruned"
                raise fail(checkpoint, what, fix) from None
            raise
        yield source, plan


def _write_on_dask(
    where: str, checkpoint: Path, source: TensorSource, plan: Plan, paths: Sequence[Path]
) -> None:
    from experiments.dask_client import dask_client

    with dask_client(where) as client:
        from pruning.engine.dask_compute import write_mask_files_on

        one_more = sum(info.nbytes for info in plan.tensors) if plan.pools else 0  # equal scores are counted
        with reading(bytes_to_read(source, plan) + one_more, f"masks, on {where}") as progress:
            write_mask_files_on(client, checkpoint, plan, paths, progress=progress)


def _load(plugin: str) -> None:
    """Run the user's own file. What it raises is its error, told without our traceback."""
    try:
        run_path(plugin)
    except Exception as error:
        what = f"raised {type(error).__name__}: {error}"
        raise fail(plugin, what, "mend it; it registers scores by @SCORES.register('name')") from error


def _specs(recipe: Path | None, asked: dict[str, Any]) -> list[MaskSpec]:
    """Options and recipe as specs. What is written in both places is an error, not a guess."""
    options = {name: value for name, value in asked.items() if value not in (None, ())}
    try:
        if "sparsity" in options:
            options["sparsity"] = [parse_sparsity(text, f"--sparsity {text}") for text in options["sparsity"]]
        if "layers" in options:
            options["layers"] = tuple(map(parse_layer, options["layers"]))
    except ProblemError as error:
        raise click.UsageError(str(error)) from None
    if recipe is not None:
        from_file = read_recipe(recipe)
        if twice := sorted(set(options) & set(from_file)):
            names = ", ".join("--" + ("layer" if name == "layers" else name) for name in twice)
            raise click.UsageError(f"{names}: also in {recipe}; write it in one place.")
        options |= from_file
    if (score := options.get("score", "magnitude")) not in SCORES:
        known = [name for name in SCORES if not beyond_weights(name)]
        raise click.UsageError(f"Unknown score {score!r}.{suggest(score, known)} Known: {', '.join(known)}.")
    try:
        return make_specs(options.pop("sparsity", []), **options)
    except (ValueError, LookupError) as error:
        raise click.UsageError(str(error)) from None


def _stem(checkpoint: Path) -> str:
    """The folder of a checkpoint's masks: its name without what only says the format."""
    name = checkpoint.absolute().name  # as it was given: in a cache of links, their targets are digests
    if name.endswith(".index.json"):
        return checkpoint.absolute().parent.name
    return name if checkpoint.is_dir() else name.rsplit(".", 1)[0]


def _finished(target: Path, source: TensorSource, spec: MaskSpec) -> bool:
    """Is the file there already? One of another checkpoint under the same name is refused."""
    if not os.path.lexists(target):
        return False
    with MaskFile(target) as masks:
        if masks.checkpoint != source.fingerprint():
            raise fail(
                target, f"was made from another checkpoint than {source.where}", "choose another --out"
            )
        if masks.spec != spec.to_json():
            raise fail(target, "was made by other options", "choose another --out")
        masks.verify()
    return True


def _say_plan(
    source: TensorSource, plan: Plan, targets: Sequence[Path], finished: Sequence[bool], as_json: bool
) -> None:
    weights = sum(info.numel for info in plan.tensors)
    files = [
        {"path": str(target), "state": "kept" if done else "would be written", "spec": spec.to_json()}
        for target, done, spec in zip(targets, finished, plan.specs, strict=True)
    ]
    if as_json:
        pruned = [{"name": i.name, "shape": list(i.shape), "dtype": i.dtype} for i in plan.tensors]
        out = dict(plan.selection.left_out)
        tied = [list(group) for group in plan.selection.tied]
        click.echo(
            json.dumps(
                {"checkpoint": source.where, "pruned": pruned, "left_out": out, "tied": tied, "masks": files},
                indent=1,
            )
        )
        return
    rows = [(info.name, shape(info.shape), info.dtype, "pruned") for info in plan.tensors]
    rows += [
        (name, shape(source.infos[name].shape), source.infos[name].dtype, f"left out: {reason}")
        for name, reason in plan.selection.left_out.items()
    ]
    click.echo(table(("tensor", "shape", "dtype", "what happens"), sorted(rows)))
    for group in plan.selection.tied:
        click.echo(f"tied, masked alike or not at all: {', '.join(group)}")
    read, each = size(bytes_to_read(source, plan)), size(weights / 8)
    click.echo(f"\n{len(plan.tensors)} tensors, {weights:,} weights; {read} to read; each file about {each}")
    for entry in files:
        click.echo(f"{entry['state']}  {entry['path']}")


def _result(target: Path, state: str, plot: bool) -> dict[str, Any]:
    """What the file itself says: the table is drawn from what was written, not from what was meant."""
    with MaskFile(target) as masks:
        layers = [
            {"name": n, "shape": list(masks.shape(n)), "kept": masks.kept(n), "sparsity": masks.sparsity(n)}
            for n in masks.names
        ]
        result: dict[str, Any] = {
            "path": str(target),
            "state": state,
            "spec": masks.spec,
            "checkpoint": masks.checkpoint,
        }
        numel, kept = sum(masks.numel(n) for n in masks.names), sum(masks.kept(n) for n in masks.names)
        result |= {"numel": numel, "kept": kept, "sparsity": 1 - kept / numel, "layers": layers}
        if plot:
            from pruning.masks.plots import plot_sparsity_histogram

            result["plot"] = str(target.with_suffix(".png"))
            plot_sparsity_histogram(masks, save_path=result["plot"])
    if empty := [str(layer["name"]) for layer in layers if not layer["kept"]]:
        click.echo(
            f"warning: {target.name} keeps nothing of {', '.join(empty)}: the CS-3 refuses such a mask. "
            "Give these layers a --layer sparsity of their own, or exclude them.",
            err=True,
        )
    return result


def _text(result: dict[str, Any]) -> str:
    rows = [
        (layer["name"], shape(layer["shape"]), f"{layer['kept']:,}", percent(layer["sparsity"]))
        for layer in result["layers"]
    ]
    rows.append(("total", "", f"{result['kept']:,}", percent(result["sparsity"])))
    return f"{result['state']}  {result['path']}\n" + table(
        ("layer", "shape", "kept", "sparsity"), rows, right=(2, 3)
    )
