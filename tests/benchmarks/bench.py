"""The mask engine beside `cat`, torch and the vendor's own function: one run, one table.

    python tests/benchmarks/bench.py [--work DIR] [--runs 5] [--vendor-python PYTHON]

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

from cases import CASES, LEVELS, REPOSITORY, Bench, Samples, Settings
from measure import machine
from rows import Row, check_finite, sections

HEAD = ("what", "measured: median (min–max)", "ratio", "asked", "met?")
PACKAGES = ("wafersparse", "torch", "numpy", "numba")


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
        "--vendor-python", type=interpreter, default=Path(sys.executable), help="with cerebras-pytorch"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the weights")
    parser.add_argument("--out", type=Path, default=REPOSITORY / "docs" / "benchmarks.md")
    parser.add_argument("--json", action="store_true", help="rows and samples as JSON on stdout")
    parser.add_argument("--strict", action="store_true", help="exit code 1 where a bound is not met")
    asked = vars(parser.parse_args())
    out, as_json, strict = asked.pop("out"), asked.pop("json"), asked.pop("strict")
    settings = Settings(**asked)
    load, begun = os.getloadavg()[0], time.monotonic()
    samples = Bench(settings).measure()
    about = facts(samples) | {
        "load before the run": f"{load:.2f} (average of a minute)",
        "duration": f"{(time.monotonic() - begun) / 60:.0f} minutes",
    }
    tables = sections(samples, settings)
    rows = [row for table in tables.values() for row in table]
    check_finite(rows)
    text = report(tables, about, settings)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(text)
    if as_json:
        found = {"facts": about, "rows": [row.to_json() for row in rows]}
        print(json.dumps(found | raw(samples), indent=1))
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
    size = f"{settings.gigabytes:g} GB − {settings.small:g} GB"
    text = [
        "# Benchmarks",
        "",
        "<!-- Written by `make bench`; do not edit, run it again. -->",
        "",
        f"    {command(settings)}",
        "",
        *(f"- {name}: {value}" for name, value in about.items()),
        "",
        f"Figures are medians of {settings.runs} repetitions, with the least and the largest. Whatever is "
        "compared ran side by side in each repetition; a ratio is taken within a repetition. s/GB and "
        f"“{size}” are the difference between whole commands on two checkpoints, divided by the difference "
        "of their sizes, so start-up does not count. Checkpoints are in the page cache; mask files are "
        "written to the disk and synced, which is part of the time of every command. GB and MB are powers "
        "of ten.",
        "",
        "Weights are normally distributed, in the shapes of a Llama. The torch and vendor functions get "
        "fewer weights, already in memory, and only the call is timed: no start, no reading, no file.",
        "",
    ]
    for title, rows in tables.items():
        text += [f"## {title}", "", *markdown(rows), *remarks(title, rows), ""]
    return "\n".join(text).rstrip() + "\n"


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


def facts(samples: Samples) -> dict[str, str]:
    """Nothing here names the machine, its user or a path."""
    packages = {"python": platform.python_version()} | {name: installed(name) for name in PACKAGES}
    vendor = samples.others["topk", "bf16"][0].get("versions")
    cold, runs = samples.cold()
    return {
        "date": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        **machine(),
        "versions": ", ".join(f"{name} {number}" for name, number in packages.items()),
        "vendor": ", ".join(f"{k} {v}" for k, v in vendor.items()) if vendor else "not installed",
        "page cache": f"{cold} of {runs} runs read more than 1 % of their checkpoint from the disk"
        + (": not enough memory is free, their figures are too high" if cold else ""),
    }


def installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "(source tree)" if package == "wafersparse" else "not installed"


def command(settings: Settings) -> str:
    """What was run, without the paths of this machine."""
    vendor = " --vendor-python PYTHON" if settings.vendor_python != Path(sys.executable) else ""
    return (
        f"python tests/benchmarks/bench.py --runs {settings.runs} --gigabytes {settings.gigabytes:g} "
        f"--small {settings.small:g} --torch-weights {settings.torch_weights} --seed {settings.seed}{vendor}"
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
