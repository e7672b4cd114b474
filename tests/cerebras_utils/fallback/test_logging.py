"""What a whole run logs: cszoo's tags, numbers that can be checked, and what callbacks and loggers ask."""

import json
import math
import os
import pty
import sys
import termios
import time
from contextlib import suppress
from pathlib import Path

import pytest
import torch
import yaml

from cerebras_utils.events_file import read_scalars
from cerebras_utils.fallback.callbacks.rates import DurationProfiler, RateProfiler
from cerebras_utils.fallback.mdl_reader import load_mdl
from cerebras_utils.fallback.processes import Processes
from cerebras_utils.fallback.report import RunReport
from tests.cerebras_utils.fallback.tiny_runs import (
    config,
    dense,
    fitted,
    masks_of,
    refused,
    scalars,
    with_masks,
)

TIMED = {
    "local_samples_per_sec",
    "avg_samples_per_sec",
    "avg_steps_per_sec",
    "loop_time_remaining",
    "time_remaining",
}
LAYERS = {"per_layer_grad_norm/layer_0", "per_layer_grad_norm/layer_1"}
TRAINED = {"loss", "lr/0", "lr/1", "model_wise_params_norm", "model_wise_grad_norm", *LAYERS, *TIMED}
VALIDATED = {"loss", "val_loss", "eval/lm_perplexity", "eval/accuracy", *TIMED}


def every_point(directory):
    """Of each tag all points, those of one step too."""
    found = {}
    for file in sorted(Path(directory).iterdir(), key=os.path.getmtime):
        for tag, points in read_scalars(file).items():
            found.setdefault(tag, []).extend((point.step, point.value) for point in points)
    return found


def test_all_tags_of_a_cszoo_run_at_the_steps_that_are_logged(place, device):
    """Every ``log_steps``, and the last; in validation every so many batches, and the last."""
    loop = {"max_steps": 7, "eval_frequency": 4, "eval_steps": 3}
    fitted(config(loop=loop, logging={"log_steps": 3}, checkpoint={"steps": 4}))
    found = every_point("run/events")
    assert set(found) == TRAINED | {f"validate_0/{tag}" for tag in VALIDATED}
    for tag in TRAINED:
        assert [step for step, _ in found[tag]] == [3, 6, 7], tag
    assert [step for step, _ in found["validate_0/val_loss"]] == [4, 7]
    assert all(value >= 0 and math.isfinite(value) for points in found.values() for _, value in points)
    assert found["loop_time_remaining"][-1][1] <= found["time_remaining"][-1][1]
    assert found["validate_0/time_remaining"][-1][1] == 0
    log = Path("run/latest_run.log").read_text()
    assert f"| Train Device={device}, Step=3, Loss={found['loss'][0][1]:.5f}, Rate=" in log
    assert f"| Eval Device={device}, GlobalStep=7, Batch=3, Loss=" in log
    stages = sorted(Path("run/cerebras_logs/latest/executors").glob("0*"))
    about = [json.loads((stage / "metadata.json").read_text()) for stage in stages]
    assert [(one["stage"], one["num_steps"]) for one in about] == [
        ("train", 4),
        ("validate", 3),
        ("train", 3),
        ("validate", 3),
    ]
    rates = json.loads((stages[0] / "performance.json").read_text())
    assert set(rates) == {"global_rate", "rate", "samples_per_sec", "total_samples", "total_time"}
    assert rates["total_samples"] == 16
    assert rates["global_rate"] == pytest.approx(16 / rates["total_time"])


def test_norms_are_those_of_the_weights_and_of_gradients_before_clipping(place):
    """Also of masked ones: what the mask drops has no share in either."""
    masks = masks_of(dense())
    fitted(
        config(steps=4, callbacks=[{"ComputeNorm": {}}, *with_masks()]),
        "-o",
        "sparse",
        "--checkpoint_path",
        "run/checkpoint_3.mdl",
    )
    weights = load_mdl(Path("run/checkpoint_3.mdl"))["model"]
    distinct = {
        value.data_ptr(): (name, value) for name, value in weights.items() if not name.endswith("_mask")
    }
    squares = sum(
        float((value * masks[name] if name in masks else value).double().square().sum())
        for name, value in distinct.values()
        if name
        not in (
            "model.lm_head.weight",
            "model.transformer_decoder.norm.weight",
            "model.transformer_decoder.norm.bias",
        )
    )
    found = scalars("sparse")
    assert found["model_wise_params_norm"][4] == pytest.approx(math.sqrt(squares), rel=1e-6)
    layers = sum(found[tag][4] ** 2 for tag in LAYERS)
    assert 0 < layers < found["model_wise_grad_norm"][4] ** 2
    fitted(
        config(steps=4, callbacks=with_masks(), precision={"enabled": False, "max_gradient_norm": 1e-6}),
        *("-o", "clipped", "--checkpoint_path", "run/checkpoint_3.mdl"),
    )
    assert scalars("clipped")["model_wise_grad_norm"][4] == found["model_wise_grad_norm"][4]


def test_log_sparsity_tells_what_is_asked_and_what_is(place):
    masks = masks_of(dense(), 0.75)
    fitted(config(steps=2, callbacks=[*with_masks(), {"LogSparsity": {}}]), "-o", "sparse")
    found = scalars("sparse")
    for name in masks:
        assert found[f"sparsity/{name}/target"] == {1: 0.75, 2: 0.75}
        assert found[f"sparsity/{name}/actual"] == {1: 0.75, 2: 0.75}
    metrics = json.loads(Path("sparse/run.json").read_text())["metrics"]
    assert "loss" in metrics
    assert not any(tag.startswith("sparsity/") for tag in metrics), "by the hundred in a real model"


def test_what_is_switched_off_is_not_logged(place):
    off = ("ComputeNorm", "RateProfiler", "DurationProfiler", "LogOptimizerParamGroup", "SavePerformanceData")
    loop = {"max_steps": 2, "eval_frequency": 2}
    fitted(config(loop=loop, callbacks=[{name: None} for name in (*off, "ModelEvalMetrics")]))
    assert set(scalars()) == {"loss", "validate_0/loss", "validate_0/val_loss"}
    assert not Path("run/cerebras_logs/latest/executors").exists()


def test_loggers_and_metrics_by_their_options(place):
    model = yaml.safe_load(Path(config()).read_text())["trainer"]["init"]["model"]
    options = {
        "model": {**model, "compute_eval_metrics": False},
        "loop": {"max_steps": 2, "eval_frequency": 2},
    }
    fitted(config(loggers=[{"TensorBoardLogger": {"summary_dir": "elsewhere"}}], **options))
    assert not Path("run/events").exists()
    assert "validate_0/eval/accuracy" not in every_point("elsewhere")
    fitted(config(loggers=[{"TensorBoardLogger": {"legacy_event_dirs": True}}], **options), "-o", "legacy")
    assert set(every_point("legacy/eval")) == {"loss", "val_loss", *TIMED}
    assert "loss" in every_point("legacy/train")
    fitted(config(loggers=[{"TensorBoardLogger": None}], **options), "-o", "none")
    assert not Path("none/events").exists()
    fitted(
        config(callbacks=[{"LogOptimizerParamGroup": {"keys": ["weight_decay"]}}], **options), "-o", "keys"
    )
    assert set(scalars("keys")["weight_decay/0"]) == {1, 2}
    assert "lr/0" not in scalars("keys")
    said = refused(config(callbacks=[{"LogOptimizerParamGroup": {"keys": "weight_decai"}}]), "-o", "bad")
    assert "'weight_decay'" in said


def test_no_log_steps_still_log_the_last(place):
    fitted(config(logging={"log_steps": 0}))
    assert set(scalars()["loss"]) == {6}


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


class Logged:
    """As much of a trainer as a profiler looks at."""

    processes = Processes()

    def __init__(self, stage, later=(), checkpoints=(0, 0)):
        self.stage, self.later, self.checkpoints_left = stage, list(later), checkpoints
        self.values = {}

    def log_metrics(self, **values):
        self.values |= values


def test_rates_are_of_the_round_and_smoothed():
    clock = Clock()
    profiler, trainer = RateProfiler(clock), Logged(None)
    batch = {"input_ids": torch.zeros(4, 8)}
    clock.now = 500.0  # long after it was made
    for index, seconds in enumerate((2.0, 1.0)):
        profiler.on_train_batch_start(trainer, None, batch, index)
        clock.now += seconds
        profiler.on_train_batch_end(trainer, None, {}, batch, index)
    assert trainer.values == {
        "local_samples_per_sec": pytest.approx(0.6 * 4 + 0.4 * 2),
        "avg_samples_per_sec": pytest.approx(8 / 3),
        "avg_steps_per_sec": pytest.approx(2 / 3),
    }
    assert profiler.performance["total_time"] == 3.0


def test_what_is_left_is_batches_checkpoints_and_later_rounds():
    from cerebras_utils.fallback.schedule import Stage

    clock = Clock()
    profiler = DurationProfiler(clock)
    train, later = Stage("train", 10, done=4), [Stage("validate_0", 5), Stage("train", 10), Stage("other", 3)]
    trainer = Logged(train, later, (1, 2))
    profiler.on_save_checkpoint(trainer, {})
    clock.now += 7
    profiler.on_after_save_checkpoint(trainer, "")
    profiler.on_train_batch_start(trainer, None, {}, 0)
    clock.now += 2
    profiler.on_train_batch_end(trainer, None, {}, {}, 0)
    assert trainer.values == {"loop_time_remaining": 6 * 2 + 7, "time_remaining": 6 * 2 + 7 + 10 * 2 + 2 * 7}


@pytest.fixture
def report(monkeypatch):
    """A report of a run that is none, on a clock that is turned by hand."""
    from types import SimpleNamespace

    clock = Clock()
    run = SimpleNamespace(log=SimpleNamespace(info=lambda *_: None), progress=lambda *_: None)
    return RunReport(run, clock), clock


def test_on_a_terminal_a_bar_with_loss_rate_and_time_left(report, monkeypatch):
    ours, theirs = pty.openpty()
    os.set_blocking(ours, False)
    termios.tcsetwinsize(theirs, (24, 120))
    report, clock = report
    with os.fdopen(theirs, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        for step in (1, 2, 3):
            clock.now += 1
            report.progress(step, 4, 5.0 - step, 1000)
        report._bar.refresh()
        terminal.flush()
        shown, end = "", time.monotonic() + 30
        while "3/4" not in shown and time.monotonic() < end:  # what was written arrives a little later
            with suppress(BlockingIOError):
                shown += os.read(ours, 100_000).decode(errors="replace")
        report.close()
    os.close(ours)
    assert "3/4" in shown
    assert "loss 2.0000, 1,000 tokens/s" in shown
    assert "<" in shown.rpartition("3/4")[2], "elapsed<left"
    assert "step 3 of 4" not in shown


def shown_on(report, monkeypatch, size, steps):
    """What a terminal of (rows, columns) is given in so many steps."""
    ours, theirs = pty.openpty()
    os.set_blocking(ours, False)
    termios.tcsetwinsize(theirs, size)
    report, clock = report
    with os.fdopen(theirs, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        for step in range(1, steps + 1):
            clock.now += 1
            report.progress(step, steps, 5.0 - step, 1000)
        report.close()
        print("end", file=terminal, flush=True)
        shown, end = "", time.monotonic() + 30
        while "end" not in shown and time.monotonic() < end:  # what was written arrives a little later
            with suppress(BlockingIOError):
                shown += os.read(ours, 100_000).decode(errors="replace")
    os.close(ours)
    return shown


def test_on_a_terminal_the_last_step_stays(report, monkeypatch):
    shown = shown_on(report, monkeypatch, (24, 120), 3)
    assert "1/3" in shown
    assert shown.endswith("\rstep 3 of 3: loss 2.0000, 1,000 tokens/s\r\nend\r\n"), shown


def test_a_terminal_without_a_size_is_given_plain_lines(report, monkeypatch):
    lines = shown_on(report, monkeypatch, (0, 0), 12).split("\r\n")
    assert [line.partition(":")[0] for line in lines] == [
        *("step 1 of 12", "step 11 of 12", "step 12 of 12", "end", "")
    ]


def test_elsewhere_plain_lines_the_first_the_last_and_one_in_ten_seconds(report, capsys):
    report, clock = report
    for step in range(1, 31):
        clock.now += 1
        report.progress(step, 30, 1.0, 100)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "step 1 of 30: loss 1.0000",
        "step 11 of 30: loss 1.0000, 100 tokens/s, 0:00:19 left",
        "step 21 of 30: loss 1.0000, 100 tokens/s, 0:00:09 left",
        "step 30 of 30: loss 1.0000, 100 tokens/s",
    ]
