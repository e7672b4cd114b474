"""The page: warnings first, then the table, the pictures, and every run."""

from collections.abc import Sequence
from datetime import UTC, datetime

from experiments.compare.findings import CHECKS, Warned
from experiments.report.assets import policy, script, style
from experiments.report.chart import Picture
from experiments.report.curves import quality_curves
from experiments.report.diffs import config_diffs
from experiments.report.heatmap import heatmap
from experiments.report.markup import Markup, data, element
from experiments.report.overlap import overlap_matrix
from experiments.report.pareto import pareto_fronts
from experiments.report.study import Study
from experiments.report.tables import configurations, every_run
from experiments.report.training import loss_curves, recovery_curves
from pruning.masks.receipt import this_tool

_SHOWN = 4  # warnings of a kind that are not folded away


def page(study: Study, where: Sequence[str], made: datetime) -> bytes:
    """Self-contained: no request leaves it, and it reads and prints without its script."""
    sections = _sections(study)
    links = [element("li", element("a", title, href=f"#{name}")) for name, title, _ in sections]
    body = [
        element("a", "Skip to the content", href="#content", class_="skip"),
        element("header", element("h1", "Comparison of runs"), _summary(study, where, made)),
        element("nav", element("ul", *links), aria_label="Sections"),
        element(
            "main",
            *(
                element("section", element("h2", title), *content, id=name)
                for name, title, content in sections
            ),
            id="content",
        ),
        element("div", "", id="tip", role="status", hidden=True),
        data("tips", {"rows": [study.tip(row) for row in study.rows]}),
        script(),
    ]
    head = element(
        "head",
        element("meta", charset="utf-8"),
        policy(),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("link", rel="icon", href="data:,"),
        element("title", f"Comparison of {len(study.runs)} runs"),
        style(),
    )
    whole = element("html", head, element("body", *body), lang="en")
    return f"<!doctype html>\n{whole}\n".encode("utf-8", "backslashreplace")  # names need not be UTF-8


def _sections(study: Study) -> list[tuple[str, str, Sequence[object]]]:
    few = "Needs results of two rows at least whose sparsity differs and is known."
    loss = loss_curves(study)
    curves = [picture for picture in (loss, *recovery_curves(study)) if picture is not None]
    recovery = len(curves) > (loss is not None)
    once = (
        "No run was validated more than once, so nothing shows how quality recovered: "
        "set eval_frequency in the config's loop."
    )
    training: list[object] = [_pictures(curves)] if curves else []
    training += [] if recovery else [_none(once)]
    return [
        ("warnings", f"Warnings ({len(study.warnings)})", [_warnings(study.warnings)]),
        ("table", "Configurations", [configurations(study), _legend_of_table()]),
        ("quality", "Quality against sparsity", [_pictures(quality_curves(study)) or _none(few)]),
        ("pareto", "Pareto front", _fronts(pareto_fronts(study), few)),
        ("training", "Loss and recovery", training),
        ("layers", "Sparsity per layer", [heatmap(study) or _none("No run counted its zeros by layer.")]),
        ("overlap", "Mask overlap", _overlap(study)),
        ("diff", "Config diff of two runs", _diff(study)),
        ("runs-all", "Every run", [every_run(study)]),
    ]


def _summary(study: Study, where: Sequence[str], made: datetime) -> Markup:
    counts: dict[str, int] = {}
    for _, run in study.runs:
        counts[run.state] = counts.get(run.state, 0) + 1
    states = ", ".join(f"{count} {state}" for state, count in sorted(counts.items()))
    return element(
        "p",
        f"{len(study.rows)} configurations, {len(study.runs)} runs ({states}) in {', '.join(where)}. "
        f"Made {made.astimezone(UTC):%Y-%m-%d %H:%M} UTC by {this_tool()}.",
    )


def _warnings(found: Sequence[Warned]) -> Markup:
    if not found:
        return element("p", f"✓ None: {len(CHECKS)} checks found nothing wrong.", class_="fine")
    kinds: dict[str, list[Warned]] = {}
    for warning in found:
        kinds.setdefault(warning.kind, []).append(warning)
    return element("div", *(_kind(kind, of) for kind, of in kinds.items()), class_="warnings")


def _kind(kind: str, found: Sequence[Warned]) -> Markup:
    items = [element("li", warning.text) for warning in found]
    shown, folded = items[:_SHOWN], items[_SHOWN:]
    more = element("details", element("summary", f"{len(folded)} more"), element("ul", *folded))
    head = element("h3", f"⚠ {kind}", f" ({len(found)})" if len(found) > 1 else "")
    return element("div", head, element("ul", *shown), more if folded else None)


def _legend_of_table() -> Markup:
    said = (
        "±: half of the 95 % interval over n seeds; none at n = 1. found: zeros counted in the checkpoint, "
        "? where nobody counted. FLOPs are estimated from the config; samples/s and time are measured. "
        "p: paired by seed against the baseline, Holm's correction."
    )
    return element("p", said, class_="note")


def _pictures(found: Sequence[Picture]) -> Markup | None:
    return element("div", *(picture.on_page() for picture in found), class_="pictures") if found else None


def _fronts(found: Sequence[Picture], none: str) -> list[object]:
    """The script puts the choice of axes in front; without it the first picture shows."""
    if not found:
        return [_none(none)]
    drawn = element("div", *(picture.on_page() for picture in found), id="fronts")
    return [element("p", "", id="front-choice", class_="controls"), drawn]


def _overlap(study: Study) -> list[object]:
    matrix = overlap_matrix(study.overlaps) or _none("There are not two masks to compare.")
    left = study.overlaps.left_out
    if not left:
        return [matrix]
    items = element("ul", *(element("li", reason) for reason in left))
    return [matrix, element("details", element("summary", f"Not compared ({len(left)})"), items)]


def _diff(study: Study) -> list[object]:
    shown = config_diffs(study)
    if shown is None:
        return [_none("There is one run only.")]
    without = "Choosing two runs needs JavaScript; wafersparse compare --diff A B prints the same."
    return [shown, element("noscript", element("p", without))]


def _none(why: str) -> Markup:
    return element("p", why, class_="none")
