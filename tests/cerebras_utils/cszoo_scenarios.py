"""Runs of ModelZoo's trainer with masks, in one process, which pays for the start of ModelZoo once.

    python cszoo_scenarios.py SCENARIOS.json RESULTS.json

A scenario is {"name", "mode", "config"}; "weights" of the model are kept from before the run where a
scenario says so. The result of each is its losses by step, the receipt of its masks, or the error's text.
"""

import json
import sys
import warnings
from pathlib import Path

warnings.simplefilter("ignore")

from cerebras_utils.register import register  # noqa: E402

register()

from cerebras.modelzoo.trainer.utils import run_trainer  # noqa: E402

from cerebras_utils.events_file import read_scalars  # noqa: E402
from cerebras_utils.run_receipt import read_receipt  # noqa: E402
from pruning.problems import ProblemError  # noqa: E402


def result_of(scenario):
    trainers = scenario["config"]["trainer"]
    model_dir = Path(
        (trainers[0]["trainer"] if isinstance(trainers, list) else trainers)["init"]["model_dir"]
    )
    try:
        run_trainer(scenario["mode"], scenario["config"])
    except Exception as error:
        while error.__cause__ is not None:
            error = error.__cause__
        return {"error": f"{type(error).__name__}: {error}", "ours": isinstance(error, ProblemError)}
    tags = {}
    for file in sorted((model_dir / "events").glob("*tfevents*")):
        for tag, points in read_scalars(file).items():
            tags.setdefault(tag, {}).update({step: value for step, value, _ in points})
    run = read_receipt(model_dir / "run.json")
    return {"tags": tags, "state": run.state, "receipt": dict(run.receipt)}


if __name__ == "__main__":
    results = {}
    for each in json.loads(Path(sys.argv[1]).read_text()):
        results[each["name"]] = result_of(each)
        Path(sys.argv[2]).write_text(json.dumps(results))
