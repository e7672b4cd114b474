"""What ``torchrun`` starts in tests: runs one after the other, of the arguments that a JSON file lists.

torchrun ... distributed_runs.py ddp|fsdp runs.json [fault]; a fault happens in the second process alone.
"""

import json
import os
import signal
import sys
from pathlib import Path

import torch

from cerebras_utils.fallback.callbacks.norms import ComputeNorm
from cerebras_utils.fallback.checkpoints import Checkpoints
from cerebras_utils.fallback.data.loader import _Batches
from cerebras_utils.fallback.distributed import joined
from cerebras_utils.fallback.run import Overrides, run
from pruning.problems import ProblemError, fail


def on_step_three(what):
    def hook(self, trainer, *arguments):
        if trainer.global_step == 2:
            what()

    return hook


def crash():
    raise RuntimeError("a bug in the second process")


def no_memory():
    raise MemoryError


def unreadable(self, numbers):
    raise fail("train/data.h5", "cannot be read any more", "look at the disk")


FAULTS = {
    "crash": (ComputeNorm, "on_train_batch_start", on_step_three(crash)),
    "memory": (ComputeNorm, "on_train_batch_start", on_step_three(no_memory)),
    "killed": (
        ComputeNorm,
        "on_train_batch_start",
        on_step_three(lambda: os.kill(os.getpid(), signal.SIGKILL)),
    ),
    "data": (_Batches, "read", unreadable),
}


def full(self, tree, step):
    raise fail("checkpoint", "no space left", "free some space")


if __name__ == "__main__":
    torch.set_num_threads(1)
    try:
        with joined(sys.argv[1]) as processes:
            for fault in sys.argv[3:]:
                if fault == "disk":  # of the first, which alone writes
                    Checkpoints._write = full
                elif not processes.first:
                    setattr(*FAULTS[fault])
            for config, verb, overrides in json.loads(Path(sys.argv[2]).read_text()):
                results = run(Path(config), verb, Overrides(device="CPU", **overrides), processes)
                if processes.first:
                    Path(overrides["model_dir"], "results.json").write_text(json.dumps(results))
    except ProblemError as error:  # as the command line does
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
