"""``wafersparse inspect``: what is in a checkpoint or a mask file, or how two mask files differ."""

import json
import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from experiments.progress import reading, size
from experiments.tables import percent, shape, table
from pruning.checkpoint.open import open_checkpoint
from pruning.checkpoint.safetensors_file import parse_header
from pruning.checkpoint.source import FLOATS, TensorInfo, TensorSource
from pruning.engine.census import count_values, full_digest
from pruning.engine.compute import default_sizes
from pruning.masks.file import MaskFile
from pruning.masks.overlap import Comparison, Overlap, compare_masks
from pruning.masks.receipt import is_receipt
from pruning.masks.stats import compute_sparsity_stats
from pruning.planning.selection import select, tied_groups
from pruning.problems import ProblemError, fail


@click.command(
    "inspect",
    epilog="Examples:\n\n"
    "\b\n"
    "  wafersparse inspect model.safetensors\n"
    "  wafersparse inspect masks/model/magnitude-s0.5-5a587858.safetensors\n"
    "  wafersparse inspect magnitude.safetensors random.safetensors --json",
)
@click.argument("file", type=click.Path(path_type=Path))
@click.argument("other", type=click.Path(path_type=Path), required=False)
@click.option(
    "--headers",
    is_flag=True,
    help="Do not read a checkpoint's values: no count of zeros, no search for equal tensors.",
)
@click.option(
    "--digest", is_flag=True, help="SHA-256 of all values of a checkpoint, equal for every file format."
)
@click.option("--deflate", is_flag=True, help="Measure the size of a mask file's bits after compression.")
@click.option("--json", "as_json", is_flag=True, help="Results as JSON on stdout.")
def command(
    file: Path, other: Path | None, headers: bool, digest: bool, deflate: bool, as_json: bool
) -> None:
    """Show FILE, a checkpoint or a mask file; with OTHER, compare two mask files.

    Of a checkpoint: tensors, dtypes, sizes, zeros that are already there, and what `masks`
    would prune. Of a mask file: what was asked, from which checkpoint, and what is kept per
    layer; its bits are counted again.
    """
    if other is not None:
        comparison = compare_masks(file, other)
        made_from = (_fingerprint(file), _fingerprint(other))
        if not comparison.per_layer:
            raise fail(
                f"{file} and {other}",
                "have no mask of one name and shape in common",
                "compare masks of one model",
            )
        click.echo(
            json.dumps(_overlap_json(comparison, made_from), indent=1)
            if as_json
            else _overlap_text(comparison, file, other, made_from)
        )
    elif holds_masks(file):
        result = _masks(file, deflate)
        click.echo(json.dumps(result, indent=1) if as_json else _masks_text(result))
    else:
        with open_checkpoint(file) as source:
            result = _checkpoint(source, headers, digest)
        click.echo(json.dumps(result, indent=1) if as_json else _checkpoint_text(result))


def holds_masks(file: Path) -> bool:
    """Our own receipt, nothing but bools, or masks under "masks"; any other file is a checkpoint.

    So is what this user may not look at: opened as a checkpoint it says why.
    """
    if (
        not os.access(file, os.R_OK)
        or not os.path.isfile(file)
        or file.suffix not in (".npz", ".safetensors", ".pt", ".pth")
    ):
        return False
    if file.suffix == ".npz":
        return True
    if file.suffix == ".safetensors":
        header = parse_header(file)
        return is_receipt(header.metadata) or _only_bools(header.infos)
    try:
        with open_checkpoint(file) as source:
            return _only_bools(source.infos)
    except ProblemError:
        try:
            with MaskFile(file) as masks:
                return masks.receipt is not None
        except ProblemError:
            return False  # neither: opened as a checkpoint it says what is wrong


def _only_bools(infos: Mapping[str, TensorInfo]) -> bool:
    return bool(infos) and all(info.dtype == "BOOL" for info in infos.values())


def _checkpoint(source: TensorSource, headers: bool, digest: bool) -> dict[str, Any]:
    selection, problems = select(source, (), ())
    counts, floats = {}, sum(i.nbytes for i in source.infos.values() if i.dtype in FLOATS)
    if not headers:
        with reading(floats, "zeros") as progress:
            counts = count_values(source, default_sizes(), progress)
    pruned = {info.name for info in selection.chosen} | {
        n for names in selection.aliases.values() for n in names
    }
    tensors = [
        {
            "name": name,
            "shape": list(info.shape),
            "dtype": info.dtype,
            "bytes": info.nbytes,
            "zeros": counts[name].zeros if name in counts else None,
            "not_finite": counts[name].not_finite if name in counts else None,
            "pruned": name in pruned,
            "left_out": selection.left_out.get(name),
        }
        for name, info in source.infos.items()
    ]
    tied = selection.tied if headers else tied_groups(source, source.infos)
    result: dict[str, Any] = {
        "checkpoint": source.where,
        "kind": source.kind,
        "fingerprint": source.fingerprint(),
        "tensors": tensors,
        "tied": [list(group) for group in tied],
        "notes": [f"{p.where}: {p.what}" for p in problems],
    }
    if digest:
        with reading(sum(info.nbytes for info in source.infos.values()), "digest") as progress:
            result["digest"] = full_digest(source, progress)
    return result


def _checkpoint_text(result: dict[str, Any]) -> str:
    tensors = result["tensors"]
    rows = []
    for tensor in tensors:
        zeros = "" if tensor["zeros"] is None else percent(tensor["zeros"] / max(1, _numel(tensor)))
        if tensor["not_finite"]:
            zeros += f" ({tensor['not_finite']:,} NaN or Inf)"
        what = "pruned" if tensor["pruned"] else f"left out: {tensor['left_out']}"
        rows.append(
            (tensor["name"], shape(tensor["shape"]), tensor["dtype"], size(tensor["bytes"]), zeros, what)
        )
    dtypes = sorted({tensor["dtype"] for tensor in tensors})
    total = sum(tensor["bytes"] for tensor in tensors)
    weights = sum(_numel(tensor) for tensor in tensors if tensor["pruned"])
    about = [result["kind"], f"{len(tensors)} tensors", *dtypes, size(total)]
    lines = [f"{result['checkpoint']}: {', '.join(about)}", f"fingerprint {result['fingerprint']}"]
    if "digest" in result:
        lines.append(f"digest      {result['digest']}")
    lines += ["", table(("tensor", "shape", "dtype", "size", "zeros", "by default"), rows, right=(3, 4)), ""]
    lines += [f"tied: {', '.join(group)}" for group in result["tied"]]
    lines += [f"note: {note}" for note in result["notes"]]
    lines.append(
        f"{sum(t['pruned'] for t in tensors)} tensors with {weights:,} weights would be pruned by default"
    )
    return "\n".join(lines)


def _numel(tensor: dict[str, Any]) -> int:
    count = 1
    for side in tensor["shape"]:
        count *= side
    return count


def _masks(file: Path, deflate: bool) -> dict[str, Any]:
    with MaskFile(file) as masks:
        masks.verify()
        stats = compute_sparsity_stats(masks)
        result: dict[str, Any] = {
            "masks": str(file),
            "encoding": masks.encoding,
            "checkpoint": masks.checkpoint,
            "spec": masks.spec,
            "metadata": masks.metadata,
            "global": stats["global"],
            "layers": [{"name": name, **layer} for name, layer in stats["per_layer"].items()],
            "file_bytes": file.stat().st_size,
        }
        if deflate:
            result["deflate_bytes"] = sum(
                len(zlib.compress(masks.packed(name).tobytes(), 1)) for name in masks.names
            )
    return result


def _masks_text(result: dict[str, Any]) -> str:
    total = result["global"]
    about = [
        f"{total['layers']} masks",
        f"{total['numel']:,} weights",
        f"{percent(total['sparsity'])} dropped",
    ]
    lines = [
        f"{result['masks']}: {', '.join(about)}",
        f"checkpoint  {result['checkpoint'] or 'not said'}",
    ]
    spec = {key: value for key, value in (result["spec"] or {}).items() if value not in (None, [], False, "")}
    lines.append("spec        " + (", ".join(f"{key} {value}" for key, value in spec.items()) or "not said"))
    if result["metadata"] and not result["spec"]:
        lines.append(f"metadata    {json.dumps(result['metadata'])}")
    parts = [
        f"{size(result['file_bytes'])} as stored ({result['encoding']})",
        f"{size(total['bool_bytes'])} as bool",
        f"{size(total['packed_bytes'])} packed",
        f"at least {size(total['entropy_bytes'])} by any code (entropy bound)",
    ]
    if "deflate_bytes" in result:
        parts.append(f"{size(result['deflate_bytes'])} deflated (measured)")
    lines.append("size        " + ", ".join(parts))
    rows = [
        (x["name"], shape(x["shape"]), f"{x['kept']:,}", percent(x["sparsity"])) for x in result["layers"]
    ]
    return "\n".join([*lines, "", table(("layer", "shape", "kept", "sparsity"), rows, right=(2, 3))])


def _fingerprint(file: Path) -> str | None:
    with MaskFile(file) as masks:
        return masks.checkpoint


def _overlap_json(comparison: Comparison, made_from: tuple[str | None, str | None]) -> dict[str, Any]:
    return {
        "checkpoints": list(made_from),
        "same_checkpoint": made_from[0] == made_from[1] if all(made_from) else None,
        "total": _one_overlap(comparison.total),
        "layers": {name: _one_overlap(overlap) for name, overlap in comparison.per_layer.items()},
        "only_in_first": list(comparison.only_in_a),
        "only_in_second": list(comparison.only_in_b),
        "shapes_differ": {
            name: [list(s) for s in shapes] for name, shapes in comparison.shapes_differ.items()
        },
    }


def _one_overlap(overlap: Overlap) -> dict[str, Any]:
    return {
        "numel": overlap.numel,
        "kept": [overlap.kept_a, overlap.kept_b],
        "iou": overlap.iou,
        "chance_iou": overlap.chance_iou,
        "agreement": overlap.agreement,
        "first_in_second": overlap.a_in_b,
        "second_in_first": overlap.b_in_a,
    }


def _overlap_text(
    comparison: Comparison, first: Path, second: Path, made_from: tuple[str | None, str | None]
) -> str:
    rows = [_overlap_row(name, overlap) for name, overlap in comparison.per_layer.items()]
    shared = "total" if comparison.complete else f"the {len(rows)} in both"
    rows.append(_overlap_row(shared, comparison.total))
    head = ("layer", "sparsity 1", "sparsity 2", "IoU", "by chance", "agree", "nested")
    lines = [f"1: {first}", f"2: {second}"]
    if all(made_from) and made_from[0] != made_from[1]:
        one, two = (str(fingerprint)[:12] for fingerprint in made_from)
        lines.append(f"of different checkpoints: 1 is of {one}…, 2 of {two}…")
    lines += ["", table(head, rows, right=(1, 2, 3, 4, 5))]
    lines += [f"only in 1: {name}" for name in comparison.only_in_a]
    lines += [f"only in 2: {name}" for name in comparison.only_in_b]
    lines += [
        f"shapes differ: {n}, {shape(a)} and {shape(b)}" for n, (a, b) in comparison.shapes_differ.items()
    ]
    return "\n".join(lines)


def _overlap_row(name: str, overlap: Overlap) -> tuple[str, ...]:
    nested = {(True, True): "equal", (True, False): "1 in 2", (False, True): "2 in 1", (False, False): ""}
    numel = max(1, overlap.numel)
    return (
        name,
        percent(1 - overlap.kept_a / numel),
        percent(1 - overlap.kept_b / numel),
        f"{overlap.iou:.4f}",
        f"{overlap.chance_iou:.4f}",
        percent(overlap.agreement),
        nested[overlap.a_in_b, overlap.b_in_a],
    )
