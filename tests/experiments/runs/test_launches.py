"""A run's directory that is validated in, continued, and trained in by plain cszoo: what is the run's own."""

import json
from pathlib import Path
from typing import Any

import pytest

from cerebras_utils.events_file import record, scalar_event
from experiments.runs.read import read_run
from tests.experiments.runs_on_disk import BEGUN, mask_file, params, write_run

PERPLEXITY = "validate_0/eval/lm_perplexity"
SUMMARY = """\
2026-01-01 00:00:00,000 INFO:   Running command: /venv/bin/cszoo fit c.yaml --target_device CPU
2026-01-01 00:00:01,000 INFO:   Trainer Fit Summary
2026-01-01 00:00:01,000 INFO:   * 2 loops of 10 steps
2026-01-01 00:00:01,000 INFO:   for a total of 20 train steps.
2026-01-01 00:00:01,000 INFO:   Starting train loop 1 of 2, from global step {first} to {last} (10 steps)
"""
ROUND = "2026-01-01 00:01:00,000 INFO:   Training completed successfully!\n"
END = "2026-01-01 00:02:00,000 INFO:   Processed 80 training sample(s) in 60.5 seconds.\n"


@pytest.mark.parametrize("how", ["receipt", "log", "events alone"])
@pytest.mark.parametrize("linked", [False, True])
def test_a_later_validation_leaves_the_run_as_it_was(how: str, linked: bool, tmp_path: Path) -> None:
    """Of an earlier checkpoint, by a config without the masks."""
    masks = mask_file(tmp_path / "m-s0.5.safetensors", 0.5)
    run, receipt = tmp_path / "run", how == "receipt"
    write_run(run, params(masks=masks), perplexity=12.0, effective=0.5, receipt=receipt, linked=linked)
    before = read_run(run)
    log = "INFO:   Running command: /venv/bin/cszoo validate c.yaml\n" if how == "log" else "INFO: x\n"
    later: dict[str, Any] = {"steps": 10, "perplexity": 99.0, "receipt": receipt, "linked": linked}
    write_run(run, params(), launch=1, verb="validate", log=log, **later)
    after = read_run(run)
    assert (after.last, after.state, after.seconds) == (before.last, "finished", before.seconds)
    assert after.last[PERPLEXITY] == (20, 12.0)
    if how != "events alone" or linked:  # else nothing tells which launch the later config is of
        assert (after.params, after.sparsity) == (before.params, before.sparsity)


def test_a_directory_of_validations_alone_has_their_results(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path / "run", params(), verb="validate_all", perplexity=9.0))
    assert run.last[PERPLEXITY] == (20, 9.0)
    assert run.params


def test_a_resumed_run_began_where_its_first_launch_did(tmp_path: Path) -> None:
    for launch, start in ((0, "aaaa"), (1, "its own")):
        write_run(tmp_path / "run", params(), steps=20, first=1 + 10 * launch, launch=launch)
        file = next((tmp_path / "run").glob(f"2026010{launch + 1}_*/run.json"))
        file.write_text(json.dumps({**json.loads(file.read_text()), "start": {"fingerprint": start}}))
    assert read_run(tmp_path / "run").start == "aaaa"


def test_a_validation_of_steps_that_were_undone_is_left_out(tmp_path: Path) -> None:
    write_run(tmp_path / "run", params(), steps=20, recovery={10: 15.0})
    write_run(tmp_path / "run", params(), steps=15, first=11, launch=1, state="failed")
    assert read_run(tmp_path / "run").last[PERPLEXITY] == (10, 15.0)


@pytest.mark.parametrize(
    ("loop", "steps", "expected"),
    [
        ({"num_steps": 200}, 1003, ("unknown", 1200)),  # begins at the checkpoint
        ({"num_steps": 3}, 1003, ("finished", 1003)),
        ({"num_steps": 3, "max_steps": 2000}, 1003, ("finished", 1003)),  # the lower of them counts
        ({"num_steps": 300, "max_steps": 1003}, 1003, ("finished", 1003)),
        ({"num_epochs": 2, "steps_per_epoch": 4}, 1003, ("unknown", 1008)),
        ({"num_epochs": 1}, 1003, ("unknown", None)),
        ({"max_steps": 1006, "grad_accum_steps": 2}, 1003, ("finished", 1003)),  # batches, two a step
    ],
)
def test_how_far_a_run_was_to_go(
    loop: dict[str, Any], steps: int, expected: tuple[str, int | None], tmp_path: Path
) -> None:
    path = write_run(tmp_path / "run", params(loop=loop), receipt=False, first=1001, steps=steps, state="?")
    run = read_run(path)
    assert (run.state, run.steps_asked) == expected


def test_the_first_step_that_is_logged_tells_where_a_run_began(tmp_path: Path) -> None:
    logged = params(loop={"num_steps": 200}, logging={"log_steps": 10})
    path = write_run(tmp_path / "run", logged, receipt=False, first=1010, steps=1010, state="?")
    assert read_run(path).steps_asked == 1200


ERROR = "2026-01-01 00:03:00,000 ERROR:   Uncaught exception:\nTraceback (most recent call last):\n"
DOTTED = "cerebras.appliance.errors.ApplianceUnknownError: Ran out"


@pytest.mark.parametrize(
    ("log", "state", "reason"),
    [
        (ROUND + END, "finished", ""),
        (ROUND, "unknown", "its log does not say that it ended"),  # a round before a validation
        (ROUND + END + ERROR + DOTTED + "\n", "failed", DOTTED),
        (ROUND + END + "2026-01-01 00:03:00,000 ERROR:   disk full\n", "failed", "disk full"),
        (ERROR + DOTTED + "\n" + ROUND + END, "finished", ""),  # it was restarted
        (ROUND + END + "Exception ignored in: <function>\n", "finished", ""),
    ],
)
def test_the_log_of_plain_cszoo_tells_how_a_run_ended(
    log: str, state: str, reason: str, tmp_path: Path
) -> None:
    """Its config counts epochs, and says of no step."""
    text = SUMMARY.format(first=1, last=10) + log
    run = read_run(write_run(tmp_path / "run", params(loop={"num_epochs": 1}), receipt=False, log=text))
    assert (run.state, run.steps_asked) == (state, 20)
    assert reason in run.reason


def test_a_crash_after_the_last_step_is_a_failure_without_the_lines_of_a_known_version(
    tmp_path: Path,
) -> None:
    log = "2026-01-01 00:00:00,1 ERROR: checkpoint could not be saved\n"
    run = read_run(write_run(tmp_path / "run", params(), receipt=False, log=log, state="?"))
    assert (run.state, run.reason) == ("failed", log.strip())


def test_the_log_tells_where_a_run_of_epochs_began(tmp_path: Path) -> None:
    log = SUMMARY.format(first=1001, last=1010)
    whole = params(loop={"num_epochs": 1}, logging={"log_steps": 10})
    path = write_run(tmp_path / "run", whole, receipt=False, log=log, first=1010, steps=1010, state="?")
    assert read_run(path).steps_asked == 1020


def test_time_between_restarts_of_plain_cszoo_does_not_count(tmp_path: Path) -> None:
    """The fixture's launches begin 1000 seconds apart, and take a second a step."""
    write_run(tmp_path / "run", params(), receipt=False, steps=10, state="?")
    write_run(tmp_path / "run", params(), receipt=False, steps=20, first=11, launch=1, state="?")
    assert read_run(tmp_path / "run").seconds == 18.0


def test_native_sparsity_is_counted_over_the_weights_it_takes(tmp_path: Path) -> None:
    """Of the fixture's model: 4 · 8·8 of attention, and 2 · 8·16."""
    layer = "model.transformer_decoder.layers.0.{}.weight"
    small, large = layer.format("self_attn.proj_q_dense_layer"), layer.format("ffn.ffn.0.linear_layer")
    groups = [{"sparsity": 0.9, "param_filter": "*ffn*weight"}, {"sparsity": 0.5}]
    path = write_run(tmp_path / "run", params(sparsity=groups))
    unknown = read_run(path).sparsity
    assert (unknown.requested, unknown.masked, unknown.effective) == (pytest.approx(0.7), 512, None)
    file = next((path / "events").iterdir())
    for name, actual in ((small, 0.5), (large, 0.8)):
        event = record(scalar_event(f"sparsity/{name}/actual", actual, 20, BEGUN + 20))
        file.write_bytes(file.read_bytes() + event)
    assert read_run(path).sparsity.effective == pytest.approx((0.5 * 64 + 0.8 * 128) / 192)


@pytest.mark.parametrize(
    ("written", "name", "requested", "masked"),
    [
        (0.9, "gpt2", 0.9, 512),
        ({"groups": [{"params": {"sparsity": 0.9}}]}, "gpt2", 0.9, 512),
        (0.9, "falcon", 0.9, 512),  # not built here: all the linear layers of its decoder
        ({"sparsity": 0.9, "param_filter": "*ffn*"}, "falcon", None, 0),
        ({"sparsity": {"type": "linear", "init": 0.1, "slope": 0.1}}, "gpt2", None, 512),
        ("0.5", "gpt2", None, 0),
        ([], "gpt2", 0.0, 0),
    ],
)
def test_the_forms_of_native_sparsity(
    written: Any, name: str, requested: float | None, masked: int, tmp_path: Path
) -> None:
    trainer = params(sparsity=written)
    trainer["init"]["model"]["name"] = name
    found = read_run(write_run(tmp_path / "run", trainer)).sparsity
    assert (found.requested, found.masked) == (requested, masked)


@pytest.mark.parametrize(
    ("logged", "every", "limit", "expected"),
    [(20, 1, 100, 20), (10, 10, 100, 100), (1, 10, 100, 1), (3, 10, 25, 25), (2, 10, None, None)],
)
def test_batches_are_those_that_were_logged_unless_the_config_explains_them(
    logged: int, every: int, limit: int | None, expected: int | None, tmp_path: Path
) -> None:
    trainer = params(loop={"max_steps": 20, "eval_steps": limit}, logging={"log_steps": every})
    assert read_run(write_run(tmp_path / "run", trainer, batches=logged)).batches == expected


NOTHING_LEFT = {"type": "NothingLeftError", "message": "trainer.init.loop\n   nothing is left to do: step 20"}
EXCEEDS = {"type": "RuntimeError", "message": "Initial global step 20 already exceeds max step 20."}
LOGGED = f"""\
2026-01-01 00:00:00,000 INFO:   Running command: cszoo fit c.yaml --target_device CPU
2026-01-01 00:00:01,000 INFO:   Processed 0 training sample(s) in 4.3 seconds.
{ERROR}RuntimeError: {EXCEEDS["message"]}
"""


@pytest.mark.parametrize(
    "again",
    [{"error": NOTHING_LEFT}, {"error": EXCEEDS}, {"receipt": False, "log": LOGGED}],
    ids=["torch", "cszoo", "plain cszoo"],
)
def test_a_repeated_fit_that_has_nothing_left_leaves_the_result(
    again: dict[str, Any], tmp_path: Path
) -> None:
    first: dict[str, Any] = {"receipt": again.get("receipt", True)}
    if not first["receipt"]:
        first["log"] = SUMMARY.format(first=1, last=10) + END
    write_run(tmp_path / "run", params(), perplexity=12.0, **first)
    before = read_run(tmp_path / "run")
    later: dict[str, Any] = {"launch": 1, "steps": 0, "state": "failed", "linked": True, **again}
    after = read_run(write_run(tmp_path / "run", params(rate=0.02), **later))
    assert after.last[PERPLEXITY] == (20, 12.0)
    assert (after.state, after.reason, after.params) == ("finished", "", before.params)


def test_a_run_that_had_nothing_to_train_from_the_start_says_so(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path / "run", params(), steps=0, state="failed", error=NOTHING_LEFT))
    assert (run.state, run.last) == ("failed", {})
    assert "NothingLeftError" in run.reason


@pytest.mark.parametrize(
    ("told", "start"),
    [({"start": None}, "random weights"), ({"start": None, "steps": 0}, ""), ({}, "")],
)
def test_a_run_that_began_with_no_checkpoint(told: dict[str, Any], start: str, tmp_path: Path) -> None:
    """Before its first step, a run may not have come to its checkpoint; older receipts do not say."""
    file = next(write_run(tmp_path / "run", params()).glob("*/run.json"))
    file.write_text(json.dumps({**json.loads(file.read_text()), **told}))
    assert read_run(tmp_path / "run").start == start


def test_states_that_the_command_line_chose_are_part_of_the_config(tmp_path: Path) -> None:
    file = next(write_run(tmp_path / "run", params()).glob("*/run.json"))
    command = ["fit", "c.yaml", "--load_checkpoint_states", "model"]
    receipt = json.loads(file.read_text())
    file.write_text(json.dumps({**receipt, "environment": {"device": "cpu", "command": command}}))
    callbacks = read_run(tmp_path / "run").params["init"]["callbacks"]
    assert callbacks == [{"LoadCheckpointStates": {"load_checkpoint_states": "model"}}]
