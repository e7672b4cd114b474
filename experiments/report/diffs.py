"""Configs of any two runs beside each other: every value of the keys that differ, for the script."""

import json
from typing import Any

from experiments.compare.settings import every_setting
from experiments.report.markup import Markup, data, element
from experiments.report.study import Study
from experiments.runs.record import RunRecord


def config_diffs(study: Study) -> Markup | None:
    """None where there is nothing to choose from."""
    if len(study.runs) < 2:
        return None
    first, second = _interesting(study)
    chosen = element(
        "p",
        _choice("diff-a", "Run A", study.run_names, first),
        element("button", "⇄ swap", type="button", id="diff-swap", aria_label="Swap A and B"),
        _choice("diff-b", "Run B", study.run_names, second),
        class_="controls",
    )
    head = element("tr", *(element("th", name, scope="col") for name in ("key", "A", "B")))
    table = element("table", element("thead", head), element("tbody", id="diff-rows"), class_="diff")
    return element(
        "div",
        chosen,
        element("p", "", id="diff-count", role="status"),
        element("div", table, class_="wide", tabindex=0, role="region", aria_label="Config diff, scrollable"),
        data("configs", _differing(study)),
    )


def _choice(name: str, label: str, names: list[str], chosen: int) -> Markup:
    options = [
        element("option", text, value=number, selected=number == chosen) for number, text in enumerate(names)
    ]
    return element("label", f"{label} ", element("select", *options, id=name))


def _interesting(study: Study) -> tuple[int, int]:
    """A dense run and the first that is not, or the first two."""
    kinds = [study.rows[row].group.dense for row, _ in study.runs]
    return (kinds.index(True), kinds.index(False)) if len(set(kinds)) == 2 else (0, 1)


def _differing(study: Study) -> dict[str, Any]:
    """Keys that not all runs agree on; for each run the number of its value, -1 for a key that it lacks."""
    flat = [_facts(run) | every_setting(run) for _, run in study.runs]
    keys = sorted({key for one in flat for key in one})
    texts = {key: [_text(one[key]) if key in one else None for one in flat] for key in keys}
    differing = [key for key in keys if len(set(texts[key])) > 1]
    values = sorted({text for key in differing for text in texts[key] if text is not None})
    number = {text: position for position, text in enumerate(values)}
    lines = [
        [-1 if texts[key][i] is None else number[str(texts[key][i])] for key in differing]
        for i in range(len(flat))
    ]
    return {"keys": differing, "values": values, "runs": lines}


def _facts(run: RunRecord) -> dict[str, Any]:
    """What the receipt adds to the config; named so that no key of a config can be meant."""
    found = {
        "(backend)": run.backend,
        "(device)": run.device,
        "(checkpoint it began with)": run.start[:16],
        "(data)": run.data[:16],
        "(masks, sha256)": run.sparsity.sha256[:16],
    }
    return {key: value for key, value in found.items() if value}


def _text(value: object) -> str:
    """Text in quotes: "0.5" is not 0.5."""
    return json.dumps(value, default=str, ensure_ascii=False)
