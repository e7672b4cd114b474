"""The mask engine beside `cat`, torch and the vendor's own function, training beside ModelZoo's: one run.

    python tests/benchmarks/bench.py [--work DIR] [--runs 5] [--vendor-python PYTHON] [--only training]

The Markdown report goes to stdout and to --out, talk to stderr. The checkpoints, 19 GB, are made on
the spot and kept for the next time. Memory must hold the largest of them beside all else that runs.
"""

import argparse
import json
import os
import platform
import shutil
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import training
from cases import CASES, LEVELS, REPOSITORY, Bench, Samples, Settings
from measure import machine
from rows import Row, check_finite, sections
from training import Training

HEAD = ("what", "measured: median (min–max)", "ratio", "asked", "met?")
PACKAGES = ("wafersparse", "torch", "numpy", "numba")
PARTS = ("masks", "training")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, default=REPOSITORY / "bench", help="for checkpoints and masks")
    parser.add_argument("--runs", type=int, default=5, help="repetitions after the warm-up")
    parser.add_argument("--gigabytes", type=float, default=8, help="of the large checkpoints")
    parser.add_argument("--small", type=float, default=1, help="GB of the small ones")
    parser.add_argument("--torch-weights", type=int, default=50_000_000, help="that the competitors prune")
    parser.add_argument(
        "--vendor-python",
        type=interpreter,
        default=Path(sys.executable),
        help="with cerebras-pytorch, and with ModelZoo to compare training",
    )
    parser.add_argument("--only", choices=PARTS, help="measure this part alone")
    parser.add_argument("--seed", type=int, default=0, help="of the weights")
    parser.add_argument("--out", type=Path, help="docs/benchmarks.md; with --only, PART.md in --work")
    parser.add_argument("--json", action="store_true", help="rows and samples as JSON on stdout")
    parser.add_argument("--strict", action="store_true", help="exit code 1 where a bound is not met")
    asked = vars(parser.parse_args())
    out, as_json, strict = asked.pop("out"), asked.pop("json"), asked.pop("strict")
    parts = [part for part in PARTS if asked["only"] in (None, part)]
    settings = Settings(**asked)
    if out is None:
        out = (
            settings.work / f"{settings.only}.md" if settings.only else REPOSITORY / "docs" / "benchmarks.md"
        )
    load, begun = os.getloadavg()[0], time.monotonic()
    samples = Bench(settings).measure() if "masks" in parts else None
    trained = training.measure(settings) if "training" in parts else None
    about = facts(samples, trained) | {
        "load before the run": f"{load:.2f} (average of a minute)",
        "duration": f"{(time.monotonic() - begun) / 60:.0f} minutes",
    }
    tables = sections(samples, settings) if samples else {}
    tables |= training.sections(trained) if trained else {}
    rows = [row for table in tables.values() for row in table]
    check_finite(rows)
    text = report(tables, about, settings)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(text)
    if as_json:
        found = {"facts": about, "rows": [row.to_json() for row in rows]}
        found |= raw(samples) if samples else {}
        print(json.dumps(found | ({"training": asdict(trained)} if trained else {}), indent=1))
    else:
        print(text)
    failed = [row.what for row in rows if row.fails]
    for what in failed:
        print(f"not met: {what}", file=sys.stderr)
    return 1 if strict and failed else 0


def interpreter(text: str) -> Path:
    """Found now, not after minutes. Links are kept: what they lead to has other packages."""
    found = shutil.which(text)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no program; name a Python interpreter")
    return Path(found).absolute()


def report(tables: Mapping[str, list[Row]], about: Mapping[str, str], settings: Settings) -> str:
    text = [
        "# Benchmarks",
        "",
        "<!-- Written by `make bench`; do not edit, run it again. -->",
        "",
        f"    {command(settings)}",
        "",
        *(f"- {name}: {value}" for name, value in about.items()),
        "",
        *explanations(settings),
    ]
    for title, rows in tables.items():
        text += [f"## {title}", "", *markdown(rows), *remarks(title, rows), ""]
    return "\n".join(text).rstrip() + "\n"


def explanations(settings: Settings) -> list[str]:
    """What the figures of the parts mean, a paragraph each."""
    size = f"{settings.gigabytes:g} GB − {settings.small:g} GB"
    text = [
        f"Figures are medians of {settings.runs} repetitions, with the least and the largest. Whatever is "
        "compared ran side by side in each repetition; a ratio is taken within a repetition. GB and MB are "
        "powers of ten."
    ]
    if settings.only != "training":
        text += [
            f"Masks: s/GB and “{size}” are the difference between whole commands on two checkpoints, divided "
            "by the difference of their sizes, so start-up does not count. Checkpoints are in the page "
            "cache; mask files are written to the disk and synced, which is part of the time of every "
            "command.",
            "Weights are normally distributed, in the shapes of a Llama. The torch and vendor functions get "
            "fewer weights, already in memory, and only the call is timed: no start, no reading, no file.",
        ]
    if settings.only != "masks":
        text += [
            "Training: trainers, each in a process of its own with all cores, take a step in turns; a figure "
            f"of a repetition is the median of {training.STEPS} steps, a ratio the median of as many pairs. "
            "A step is the next batch, forward, backward, clipping, optimizer, schedule and all callbacks, "
            "without validation and checkpoints. What masks cost is taken within one process, which leaves "
            "them out in every other step. Checkpoints are those of configs/gpt2_10m.yaml.",
        ]
    return [line for paragraph in text for line in (paragraph, "")]


def markdown(rows: list[Row]) -> list[str]:
    lines = [HEAD, ("---",) * len(HEAD), *(row.cells() for row in rows)]
    return [f"| {' | '.join(cells)} |" for cells in lines]


def remarks(title: str, rows: list[Row]) -> list[str]:
    """What the figures themselves give reason to say."""
    if title != "Several levels":
        return []
    disk = rows[-1].ratio
    assert disk is not None
    dominates = "dominates" if disk.median > 0.5 else "does not dominate"
    return [
        "",
        f"Levels: {', '.join(LEVELS)}. The disk {dominates} the time of the ten levels: writing and syncing "
        f"as many bytes without computing anything takes {disk.median:.2f} of it.",
    ]


def facts(samples: Samples | None, trained: Training | None) -> dict[str, str]:
    """Nothing here names the machine, its user or a path."""
    packages = {"python": platform.python_version()} | {name: installed(name) for name in PACKAGES}
    vendor: dict[str, str] = {}
    about = {"versions": ", ".join(f"{name} {number}" for name, number in packages.items())}
    if samples:
        vendor |= samples.others["topk", "bf16"][0].get("versions", {})
        cold, runs = samples.cold()
        about["page cache"] = f"{cold} of {runs} runs read more than 1 % of their checkpoint from the disk"
        if cold:
            about["page cache"] += ": not enough memory is free, their figures are too high"
    if trained:
        vendor |= trained.versions.get("cszoo", {})
    about["vendor"] = ", ".join(f"{k} {v}" for k, v in vendor.items()) or "not installed"
    return {"date": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC", **machine(), **about}


def installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "(source tree)" if package == "wafersparse" else "not installed"


def command(settings: Settings) -> str:
    """What was run, without the paths of this machine."""
    vendor = " --vendor-python PYTHON" if settings.vendor_python != Path(sys.executable) else ""
    only = f" --only {settings.only}" if settings.only else ""
    return (
        f"python tests/benchmarks/bench.py --runs {settings.runs} --gigabytes {settings.gigabytes:g} "
        f"--small {settings.small:g} --torch-weights {settings.torch_weights} --seed {settings.seed}"
        f"{vendor}{only}"
    )


def raw(samples: Samples) -> dict[str, object]:
    def runs(table: Mapping[tuple[str, str, str], list[object]]) -> dict[str, list[object]]:
        return {" ".join(key): [_plain(asdict(item)) for item in items] for key, items in table.items()}  # type: ignore[call-overload]

    return {
        "options": {name: " ".join(options) for name, options in CASES.items()},
        "masks": runs(samples.masks),  # type: ignore[arg-type]
        "cat": runs(samples.cat),  # type: ignore[arg-type]
        "writes": samples.writes,
        "others": {" ".join(key): results for key, results in samples.others.items()},
    }


def _plain(item: dict[str, object]) -> dict[str, object]:
    inner = item.pop("run", {})
    assert isinstance(inner, dict)
    return {name: value for name, value in (inner | item).items() if name != "out"}


if __name__ == "__main__":
    sys.exit(main())
