"""The matrix of what masks keep in common, each figure beside what chance alone would give."""

from experiments.compare.overlap import MaskOverlaps
from experiments.report.chart import figure
from experiments.report.markup import Markup, element
from pruning.masks.overlap import Overlap

_MOST = 60  # masks in a matrix that a reader can still read


def overlap_matrix(found: MaskOverlaps) -> Markup | None:
    """None where there are not two masks to compare."""
    if not found.pairs:
        return None
    count = len(found.names)
    if count > _MOST:
        return element("p", f"{count} masks are too many for a matrix: wafersparse compare --overlap --json.")
    head = element(
        "tr",
        element("td", ""),
        *(element("th", number + 1, scope="col", title=found.names[number]) for number in range(count)),
    )
    lines = []
    for row in range(count):
        cells = [_cell(found, row, column) for column in range(count)]
        name = element("th", f"{row + 1}  {found.names[row]}", scope="row", title=found.files[row])
        lines.append(element("tr", name, *cells))
    note = (
        "Intersection over union of the kept weights; below it, in small, what two masks of these sparsities "
        "that know nothing of each other would have. Blue: above chance; striped: below. "
        "⊂: all that the mask of the row keeps, that of the column keeps too."
    )
    matrix = element("table", element("thead", head), element("tbody", *lines), class_="matrix")
    region = element(
        "div", matrix, class_="wide", tabindex=0, role="region", aria_label="Mask overlap, scrollable"
    )
    return figure("Mask overlap", note, region)


def _cell(found: MaskOverlaps, row: int, column: int) -> Markup:
    if row == column:
        return element("td", "–", class_="same")
    pair = found.pairs.get((min(row, column), max(row, column)))
    if pair is None:
        return element("td", "?", title="not compared: see below")
    nested = " ⊂" if (pair.a_in_b if row < column else pair.b_in_a) else ""
    lift = above_chance(pair)
    tip = "\n".join(
        [
            f"{found.names[row]} and {found.names[column]}",
            f"kept by both: {pair.both:,} of {pair.numel:,} weights",
            f"overlap {pair.iou:.4f}, by chance {pair.chance_iou:.4f}",
            f"agree on {100 * pair.agreement:.2f} % of the weights",
        ]
    )
    return element(
        "td",
        f"{pair.iou:.3f}{nested}",
        element("small", f"{pair.chance_iou:.3f}"),
        style=f"--t:{round(70 * max(0.0, lift))}%",
        class_="below" if lift < -0.01 else None,
        tabindex=0,
        data_tip=tip,
    )


def above_chance(pair: Overlap) -> float:
    """0 for chance, 1 for the same mask, less than 0 for masks that avoid each other."""
    room = 1 - pair.chance_iou
    return (pair.iou - pair.chance_iou) / room if room > 0 else 0.0
