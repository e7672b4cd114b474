"""Plain text tables: aligned columns, numbers to the right."""

from collections.abc import Iterable, Sequence


def table(head: Sequence[str], rows: Iterable[Sequence[object]], *, right: Sequence[int] = ()) -> str:
    """``right``: the columns that hold numbers."""
    lines = [list(head), *([str(value) for value in row] for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]

    def aligned(line: list[str]) -> str:
        cells = (
            c.rjust(w) if i in right else c.ljust(w)
            for i, (c, w) in enumerate(zip(line, widths, strict=True))
        )
        return "  ".join(cells).rstrip()

    return "\n".join([aligned(lines[0]), "  ".join("-" * w for w in widths), *map(aligned, lines[1:])])


def shape(sizes: Sequence[int]) -> str:
    return "x".join(map(str, sizes)) or "scalar"


def percent(fraction: float, digits: int = 3) -> str:
    """Never rounds to 0 or 100 what is not: a layer with one weight left is not empty."""
    text = f"{100 * fraction:.{digits}f}"
    if fraction > 0 and float(text) == 0:
        return f"<{10**-digits:.{digits}f} %"
    if fraction < 1 and float(text) == 100:
        return f">{100 - 10**-digits:.{digits}f} %"
    return f"{text} %"


def duration(seconds: float | None) -> str:
    """As a clock shows it; nothing where it is not known."""
    if seconds is None:
        return ""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
