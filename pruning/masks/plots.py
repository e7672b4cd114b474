"""The sparsity of every layer as a picture that a person can read, for one layer or for hundreds."""

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pruning.atomic import Part
from pruning.masks.collection import Masks
from pruning.masks.stats import compute_sparsity_stats
from pruning.problems import fail

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_FORMATS = ("png", "pdf", "svg")
_NAMED_BARS = 40  # up to here every bar has its name
_MOST_KINDS = 12
_LABEL_INCHES = 0.3  # between slanted labels
_WIDTH = 13.0  # inches


@dataclass(frozen=True)
class _Layer:
    name: str
    label: str
    kind: str
    sparsity: float


def plot_sparsity_histogram(masks: Masks, save_path: str | os.PathLike[str] | None = None) -> "Figure":
    """Left the sparsity of each layer, right how many layers have which sparsity.

    Draws on a figure of its own: neither the backend nor the current figure of pyplot changes.
    ``save_path`` ends in .png, .pdf or .svg; a picture of that name is replaced.
    """
    from matplotlib.figure import Figure

    target = None if save_path is None else _checked(Path(save_path))
    stats = compute_sparsity_stats(masks)
    layers, prefix = _layers(stats["per_layer"])
    if not layers:
        raise fail(
            "plot_sparsity_histogram", "there are no masks to draw", "give a dict of masks or a mask file"
        )
    named = len(layers) <= _NAMED_BARS
    height = max(4.2, 1.6 + 0.25 * len(layers)) if named else 5.5
    figure = Figure(figsize=(_WIDTH, height), layout="constrained")
    bars, histogram = figure.subplots(1, 2, width_ratios=(2.2, 1))
    total = stats["global"]
    (_named_bars if named else _grouped_bars)(bars, layers, prefix, total["sparsity"])
    _histogram(histogram, [layer.sparsity for layer in layers], total["sparsity"])
    count = f"{len(layers)} mask{'s' if len(layers) > 1 else ''}"
    figure.suptitle(
        f"Global sparsity {total['sparsity']:.2%}: {total['dropped']:,} of {total['numel']:,} weights"
        f" dropped, in {count}"
    )
    if target is not None:
        with Part(target, overwrite=True) as part, open(part.fd, "wb", closefd=False) as stream:
            figure.savefig(stream, format=target.suffix[1:], dpi=150)
    return figure


def natural_key(name: str) -> list[tuple[bool, int, str]]:
    """Sorts ``layers.2`` before ``layers.10``."""
    parts = re.split(r"(\d+)", name)
    return [(part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in parts]


def _checked(path: Path) -> Path:
    if path.suffix[1:] not in _FORMATS:
        fix = f"end the name in {' or '.join('.' + kind for kind in _FORMATS)}"
        raise fail(path, f"pictures have no format {path.suffix!r} here", fix)
    return path


def _layers(per_layer: Mapping[str, Mapping[str, Any]]) -> tuple[list[_Layer], str]:
    """In model order, and the beginning that all names share, which their labels leave out."""
    names = sorted(per_layer, key=natural_key)
    prefix = _common_prefix(names)
    kinds = {name: _kind(name, prefix, 1) for name in names}
    if len(set(kinds.values())) > _MOST_KINDS:  # say, experts: they are one kind
        kinds = {name: _kind(name, prefix, 0) for name in names}
    return [
        _Layer(name, _shortened(_bare(name)[len(prefix) :]), kinds[name], per_layer[name]["sparsity"])
        for name in names
    ], prefix


def _bare(name: str) -> str:
    return name.removesuffix(".weight")


def _common_prefix(names: Sequence[str]) -> str:
    """Whole components only, and never all of a name."""
    if len(names) == 1:
        return ""
    shared = takewhile(
        lambda parts: len(set(parts)) == 1, zip(*(name.split(".") for name in names), strict=False)
    )
    return "".join(f"{parts[0]}." for parts in shared)


def _kind(name: str, prefix: str, numbers: int) -> str:
    """The name without the number of its block: ``layers.7.mlp.up_proj`` is of the kind ``mlp.up_proj``.

    ``numbers``: how many are taken out; 0 is all of them.
    """
    kind = re.sub(r"(^|\.)\d+(?=\.|$)", r"\1*", _bare(name)[len(prefix) :], count=numbers)
    return kind.removeprefix("*.")


def _shortened(text: str, most: int = 44) -> str:
    half = (most - 1) // 2
    return text if len(text) <= most else f"{text[:half]}…{text[-half:]}"


def _colours(layers: Sequence[_Layer]) -> list[Any]:
    """A colour for each kind; one for all where there are more kinds than colours to tell apart."""
    from matplotlib import colormaps

    kinds = list(dict.fromkeys(layer.kind for layer in layers))
    table = colormaps["tab10" if len(kinds) <= 10 else "tab20"]
    return [table(kinds.index(layer.kind) if len(kinds) <= table.N else 0) for layer in layers]


def _named_bars(axes: "Axes", layers: Sequence[_Layer], prefix: str, overall: float) -> None:
    places = range(len(layers))
    values = [layer.sparsity for layer in layers]
    axes.barh(places, values, height=min(0.75, 0.25 * len(layers)), color=_colours(layers))
    for place, value in zip(places, values, strict=True):
        axes.text(1.1, place, f"{value:.1%}", va="center", ha="right", fontsize=8)
    axes.set_yticks(places, [layer.label for layer in layers], fontsize=8)
    axes.set_ylim(len(layers) - 0.4, -0.6)  # the first layer on top
    if prefix:
        axes.set_ylabel(f"{prefix}*", fontsize=8)
    axes.set_xlim(0, 1.12)  # room for the numbers
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1])
    axes.set_xlabel("sparsity (fraction dropped)")
    axes.axvline(overall, color="black", linestyle="--", linewidth=1)
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)


def _grouped_bars(axes: "Axes", layers: Sequence[_Layer], prefix: str, overall: float) -> None:
    """A band for each kind of weight, and within it the layers in model order."""
    kinds = list(dict.fromkeys(layer.kind for layer in layers))
    layers = sorted(layers, key=lambda layer: kinds.index(layer.kind))  # stable: model order stays
    axes.bar(
        range(len(layers)),
        [layer.sparsity for layer in layers],
        width=1.0,
        color=_colours(layers),
    )
    start, labels = 0, []
    for kind, band in groupby(layers, key=lambda layer: layer.kind):
        number = len(list(band))
        labels.append((start + (number - 1) / 2, f"{_shortened(kind, 36)} ({number})"))
        start += number
        if len(kinds) < len(layers):
            axes.axvline(start - 0.5, color="grey", linewidth=0.5, alpha=0.5)
    labels = _thinned(labels, _LABEL_INCHES * len(layers) / (0.6 * _WIDTH))
    axes.set_xticks([place for place, _ in labels])
    axes.set_xticklabels([label for _, label in labels], rotation=35, ha="right", fontsize=8)
    axes.set_xlim(-1, len(layers))
    of = f" in {prefix}*" if prefix else ""
    axes.set_xlabel(f"kinds of weight{of} (number of layers, which stand in model order)", fontsize=9)
    axes.set_ylim(0, 1)
    axes.set_ylabel("sparsity (fraction dropped)")
    axes.axhline(overall, color="black", linestyle="--", linewidth=1)
    axes.grid(axis="y", alpha=0.3)
    axes.set_axisbelow(True)


def _thinned(labels: Iterable[tuple[float, str]], distance: float) -> list[tuple[float, str]]:
    chosen: list[tuple[float, str]] = []
    for place, label in labels:
        if not chosen or place - chosen[-1][0] >= distance:
            chosen.append((place, label))
    return chosen


def _histogram(axes: "Axes", values: Sequence[float], overall: float) -> None:
    from matplotlib.ticker import MaxNLocator

    # An odd number of bins about the middle: layers of one sparsity stand under its mark, not beside it.
    middle = (min(values) + max(values)) / 2
    half = max(0.05, 0.6 * (max(values) - min(values)))
    axes.hist(
        values,
        bins=2 * min(20, 4 + len(values) // 8) + 1,
        range=(middle - half, middle + half),
        color="tab:blue",
        edgecolor="white",
    )
    axes.axvline(overall, color="black", linestyle="--", linewidth=1, label=f"global: {overall:.2%}")
    axes.set_xlim(min(middle - half, overall - 0.01), max(middle + half, overall + 0.01))
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.set_xlabel("sparsity of a layer")
    axes.set_ylabel("layers")
    axes.legend(loc="upper right", fontsize=8)
    axes.margins(y=0.15)
