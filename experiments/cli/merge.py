"""``wafersparse merge``: LoRA into its base, and checkpoints to HuggingFace and back."""

import json
from pathlib import Path
from typing import Any

import click

from experiments.progress import reading
from experiments.tables import percent, table
from pruning.problems import fail


@click.command(
    "merge",
    epilog="Examples:\n\n"
    "\b\n"
    "  wafersparse merge runs/lora/checkpoint_100.mdl --out merged.safetensors\n"
    "  wafersparse merge runs/lora/checkpoint_100.mdl --base base.mdl --masks m.npz --out merged.mdl\n"
    "  wafersparse merge runs/lora/checkpoint_100.mdl --adapter --out adapter\n"
    "  wafersparse merge runs/sparse/checkpoint_100.mdl --to-hf --out hf_model\n"
    "  wafersparse merge hf_model --from-hf --out model.mdl",
)
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option("--base", type=click.Path(path_type=Path), help="What the factors were trained on.")
@click.option("--masks", type=click.Path(path_type=Path), help="The masks of the run.")
@click.option(
    "--keep-sparsity/--dense",
    "keep",
    default=True,
    help="Whether zeros stay zero: under the masks, or without masks those of the base. Default: they do.",
)
@click.option("--to-hf", "layout", flag_value="to_hf", help="Write a HuggingFace directory.")
@click.option("--from-hf", "layout", flag_value="from_hf", help="CHECKPOINT is HuggingFace's; translate it.")
@click.option("--adapter", "layout", flag_value="adapter", help="Write the factors as a PEFT adapter.")
@click.option("--config", type=click.Path(path_type=Path), help="The model: a cszoo YAML, or config.json.")
@click.option(
    "--alpha", "alphas", multiple=True, metavar="[GLOB=]NUMBER", help="Instead of the recorded one."
)
@click.option(
    "--out", required=True, type=click.Path(path_type=Path), help=".safetensors, .mdl or a directory."
)
@click.option("--dry-run", is_flag=True, help="Check and tell, write nothing.")
@click.option("--json", "as_json", is_flag=True, help="The receipt as JSON on stdout.")
def command(layout: str | None, alphas: tuple[str, ...], dry_run: bool, as_json: bool, **given: Any) -> None:
    """Merge the LoRA factors of CHECKPOINT into its weights, and say what became of the zeros.

    A merge adds the update to every weight, so the zeros are gone unless they are kept: the update is
    masked then, and how much of it is dropped is told. A receipt is left beside the result.
    """
    from cerebras_utils.conversion.merge import run
    from cerebras_utils.conversion.request import Request

    request = Request(layout=layout or "same", alphas=tuple(map(_alpha, alphas)), **given)
    if dry_run:
        receipt = run(request, dry=True)
    else:
        total = 2 * _size(request.checkpoint)
        with reading(total, "merge") as progress:
            receipt = run(request, progress=progress)
    click.echo(json.dumps(receipt, indent=1) if as_json else _text(receipt, dry_run))


def _alpha(text: str) -> tuple[str, float]:
    glob, _, number = text.rpartition("=")
    try:
        return glob or "*", float(number)
    except ValueError:
        raise fail(
            f"--alpha {text}", f"{number!r} is no number", "write --alpha 32, or --alpha 'GLOB=32'"
        ) from None


def _size(checkpoint: Path) -> int:
    from pruning.checkpoint.open import open_checkpoint

    with open_checkpoint(checkpoint) as source:
        return sum(info.nbytes for info in source.infos.values())


def _text(receipt: dict[str, Any], dry: bool) -> str:
    lines = []
    if layers := receipt.get("per_layer"):
        rows = [(name, *_row(layer)) for name, layer in layers.items()]
        rows.append(("all of these", *_row(receipt["global"])))
        head = ("weight", "before", "after", "resurrected", "newly dead", "dropped", "largest dropped")
        lines.append(table(head, rows, right=range(1, 7)))
        if receipt["global"]["dropped_share"]:
            lines.append(
                "dropped: the share of the update's norm that the masks cut off; the function changed"
            )
    elif receipt["factors"]:
        lines.append(
            f"{len(receipt['factors'])} weights have factors; {receipt['masked_weights']} have masks"
        )
    said = "would write" if dry else "wrote"
    lines += [f"{said} {path}" for path in receipt["files"].values()]
    return "\n".join(lines)


def _row(layer: dict[str, Any]) -> tuple[str, ...]:
    return (
        percent(layer["sparsity_before"]),
        percent(layer["sparsity_after"]),
        f"{layer['resurrected']:,}",
        f"{layer['newly_dead']:,}",
        percent(layer["dropped_share"], 1),
        f"{layer['max_dropped']:.3g}",
    )
