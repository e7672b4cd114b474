"""``wafersparse compare`` on 200 runs of 10,000 steps, before and after its cache is filled.

    python tests/benchmarks/reading.py WORK RUNS

One run is written, the others are copies. Whole commands are timed, start and all. The last line on
stdout is JSON: the runs, their bytes, and seconds for each way and repetition.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
RUNS, STEPS = 200, 10_000


def write_runs(root: Path, runs: int = RUNS, steps: int = STEPS) -> int:
    """Their size in bytes. All are seeds of one configuration, each with a result of its own."""
    from tests.experiments.runs_on_disk import params, write_run

    for number in range(runs):
        write_run(root / f"seed{number}", params(seed=number), steps=1, perplexity=10 + number / 1000)
    first, *others = sorted(root.iterdir())
    write_run(first, params(seed=0), steps=steps)
    for other in others:
        for events in (first / "events").iterdir():
            shutil.copy(events, other / "events")
    return sum(path.stat().st_size for path in root.rglob("*") if path.is_file())


def measure(work: Path, repetitions: int) -> dict[str, Any]:
    root, cache = work / "many-runs", work / "cache"
    nbytes = write_runs(root)
    command = [sys.executable, "-m", "experiments", "compare", str(root), "--csv"]
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache)}
    seconds: dict[str, list[float]] = {"read": [], "cached": []}
    for repetition in range(repetitions + 1):  # the first is the warm-up
        shutil.rmtree(cache, ignore_errors=True)
        for took in seconds.values():
            begun = time.perf_counter()
            subprocess.run(command, cwd=REPOSITORY, env=environment, check=True, capture_output=True)
            if repetition:
                took.append(time.perf_counter() - begun)
    shutil.rmtree(root)
    return {"runs": RUNS, "steps": STEPS, "bytes": nbytes, "seconds": seconds}


if __name__ == "__main__":
    sys.path.insert(0, str(REPOSITORY))
    print(json.dumps(measure(Path(sys.argv[1]), int(sys.argv[2]))))
