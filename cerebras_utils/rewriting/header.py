"""The comment at the top of a rewritten config: what made it, from which masks. Every line begins alike."""

import math

from cerebras_utils.rewriting.request import MaskSummary
from cerebras_utils.yaml_tree import LINE_BREAK

START = "# wafersparse: "
_BOM = "\ufeff"


def header_lines(command: str, masks: MaskSummary) -> list[str]:
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in command)
    levels = [mask.sparsity for mask in masks.masks.values()]
    weights = sum(math.prod(mask.shape) for mask in masks.masks.values())
    spread = f" ({min(levels):.4f} to {max(levels):.4f})" if len(levels) > 1 else ""
    asked = masks.spec.get("sparsity") if isinstance(masks.spec, dict) else None
    lines = [
        shown,
        f"masks {masks.path}",
        f"sha256 {masks.sha256}",
        f"sparsity {masks.sparsity:.6f} of {weights:,} weights in {len(levels)} masks{spread}"
        + (f", asked for {asked}" if asked is not None else ""),
    ]
    if masks.checkpoint is not None:
        lines.append(f"made from the checkpoint with fingerprint {masks.checkpoint}")
    return [START + line for line in lines]


def with_header(text: str, lines: list[str]) -> str:
    """``text`` below these lines; a header that it has already gives way to them."""
    bom = _BOM if text.startswith(_BOM) else ""
    rest = text.removeprefix(_BOM)
    while rest.startswith(START):
        found = LINE_BREAK.search(rest)
        rest = rest[found.end() :] if found else ""
    found = LINE_BREAK.search(rest)
    end = found.group() if found else "\n"
    return bom + "".join(line + end for line in lines) + rest
