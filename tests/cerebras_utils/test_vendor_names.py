"""The table of ModelZoo's callbacks and loggers, against ModelZoo where it is installed."""

import importlib
import inspect
import warnings

import pytest

from cerebras_utils.trainer_keys import INIT, SECTIONS, settings
from cerebras_utils.vendor_names import (
    CALLBACKS,
    DEFAULT_CALLBACKS,
    DEFAULT_LOGGERS,
    LOGGERS,
    Effect,
    effect_lines,
    entry_problems,
    with_defaults,
)


def said(entries, kind="callback"):
    return [f"{p.where} | {p.what} | {p.fix}" for p in entry_problems(entries, "w", kind)]


def test_names_are_compared_without_case():
    assert said([{"computenorm": {}}, {"SPARSEMASKCALLBACK": {"mask_path": "x"}}]) == []
    assert said([{"tensorboardlogger": {}}], "logger") == []


@pytest.mark.parametrize(
    ("entries", "says"),
    [
        (
            [{"SparsMaskCallback": {}}],
            "w[0].SparsMaskCallback | is no callback. Did you mean 'SparseMaskCallback'?",
        ),
        ([{"TensorBoardLogger": {}}], "is no callback"),
        ([{"KeepNCheckpoints": {"m": 3}}], "w[0].KeepNCheckpoints.m | is no argument of KeepNCheckpoints."),
        ([{"LogOptimizerParamGroup": {}}], "lacks 'keys'"),
        ([{"LogOptimizerParamGroup": {"keys": 3}}], "3 is not a name or a list of names"),
        ([{"LogOptimizerParamGroup": {"keys": []}}], "[] is not a name or a list of names"),
        ([{"KeepNCheckpoints": {"n": 0}}], "0 is not a whole number above 0, or null"),
        ([{"KeepNCheckpoints": {"n": -1}}], "-1 is not"),
        ([{"KeepNCheckpoints": {"n": "2"}}], "'2' is not"),
        ([{"KeepNCheckpoints": {"n": 1.5}}], "1.5 is not"),
        ([{"KeepNCheckpoints": {"n": True}}], "True is not"),
        ([{"LoadCheckpointStates": {"load_checkpoint_states": 3}}], '3 is not "all", or names'),
        ([{"LoadCheckpointStates": {"load_checkpoint_states": "model, optimizer"}}], "no spaces"),
        ([{"SparseMaskCallback": None}], "drops the callback without a word"),
        ([{"KeepNCheckpoints": None}], "drops the callback without a word"),
        ([{"KeepNCheckpoints": 3}], "is a int, not arguments by name"),
        (["CheckLoss"], "write `- CheckLoss: {}`"),
        ([{"CheckLoss": {}, "ComputeNorm": {}}], "is a dict, not one name with its arguments"),
        ([{}], "not one name"),
        ({"CheckLoss": {}}, "w | is a dict, not a list"),
        (None, "w | is null, not a list"),
        ([{"SelectiveGrad": {"selective_grads": {}}}], "is not supported here: it changes the gradients"),
    ],
)
def test_mistakes(entries, says):
    (found,) = said(entries)
    assert says in found


@pytest.mark.parametrize(("key", "value"), [("summary_dir", 3), ("legacy_event_dirs", "no")])
def test_values_of_a_loggers_arguments(key, value):
    (found,) = said([{"TensorBoardLogger": {key: value}}], "logger")
    assert found.startswith(f"w[0].TensorBoardLogger.{key} | {value!r} is not")


def test_null_keeps_all_checkpoints():
    assert said([{"KeepNCheckpoints": {"n": None}}, {"KeepNCheckpoints": {}}]) == []


def test_a_callback_of_ours_is_no_logger():
    assert "is no logger" in said([{"SparseMaskCallback": {}}], "logger")[0]


def test_what_does_nothing_here_is_said_and_what_is_switched_off_is_not():
    entries = [{"GlobalFlags": {"csx.x": 1}}, {"FlopUtilization": None}, {"CheckLoss": {}}]
    assert said(entries) == []
    (line,) = effect_lines(entries, "w", "callback")
    assert line == "w[0].GlobalFlags has no effect here: its flags are for the CS-3 compiler and runtime"


def test_defaults_come_after_what_is_written_and_null_switches_them_off():
    entries = [{"keepncheckpoints": {"n": 2}}, {"CHECKLOSS": None}, {"LogOptimizerParamGroup": {"keys": "x"}}]
    found = with_defaults(entries, DEFAULT_CALLBACKS)
    assert found[:2] == [("KeepNCheckpoints", {"n": 2}), ("LogOptimizerParamGroup", {"keys": "x"})]
    others = [name for name in DEFAULT_CALLBACKS if name not in ("CheckLoss", "LogOptimizerParamGroup")]
    assert found[2:] == [(name, {}) for name in others]
    assert with_defaults([], DEFAULT_LOGGERS) == [(name, {}) for name in DEFAULT_LOGGERS]


def test_only_what_works_has_no_reason():
    for entry in (*CALLBACKS.values(), *LOGGERS.values()):
        assert bool(entry.reason) == (entry.effect is not Effect.WORKS), entry


def test_settings_hold_defaults():
    assert settings({"loop": {"max_steps": 3}}, "loop")["eval_frequency"] == 1.0
    assert settings({}, "loop")["num_epochs"] == 1
    assert settings({"loop": {"max_steps": 3}}, "loop")["num_epochs"] is None
    assert settings({"logging": None}, "logging")["log_steps"] == 1
    assert settings({}, "precision") is None
    assert settings({"precision": {}}, "precision")["enabled"] is True
    assert settings({}, "checkpoint")["checkpoint_name"] == "checkpoint_{step}.mdl"


@pytest.fixture(scope="module")
def modelzoo():
    pytest.importorskip("cerebras.modelzoo", reason="ModelZoo is not installed here")
    with warnings.catch_warnings(action="ignore"):  # its own, and those of what it imports
        importlib.import_module("cerebras.modelzoo.trainer.extensions")
        from cerebras.modelzoo.trainer import callbacks, loggers, validate

    return callbacks, loggers, validate


def arguments(cls):
    """Names of the arguments of a class and its defaults, None for any."""
    if cls.__init__ is object.__init__:
        return {}
    parameters = list(inspect.signature(cls.__init__).parameters.values())[1:]
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return None
    return {p.name: p.default for p in parameters}


def subclasses(cls):
    return {cls} | {below for sub in cls.__subclasses__() for below in subclasses(sub)}


@pytest.mark.cszoo
def test_the_tables_are_those_of_modelzoo(modelzoo):
    callbacks, loggers, validate = modelzoo
    assert validate.DEFAULT_CALLBACKS == DEFAULT_CALLBACKS
    assert validate.DEFAULT_LOGGERS == DEFAULT_LOGGERS
    their_loggers = subclasses(loggers.Logger)
    theirs = subclasses(callbacks.Callback) - subclasses(callbacks.CoreCallback) - their_loggers
    for table, classes in ((CALLBACKS, theirs), (LOGGERS, their_loggers)):
        named = {
            cls.__name__: cls
            for cls in classes
            if cls.__module__.startswith("cerebras.modelzoo.trainer.")
            and not cls.__name__.startswith("_")
            and "<locals>" not in cls.__qualname__
        }
        # Bases of others, and what the harnesses use inside.
        for name in ("Callback", "Logger", "Profiler", "Notification", "ValidationCallback"):
            named.pop(name, None)
        for name in ("GenerateTokens", "GenerateUntil", "LogLikelihood"):
            named.pop(name, None)
        assert {entry.name for entry in table.values()} == set(named)
        for entry in table.values():
            theirs_take = arguments(named[entry.name])
            if entry.arguments is None:
                assert theirs_take is None
            else:
                assert set(entry.arguments) == set(theirs_take), entry.name
                missing = {n for n, default in theirs_take.items() if default is inspect.Parameter.empty}
                assert set(entry.required) == missing - {"per_example_grad_norms"}, entry.name


@pytest.mark.cszoo
def test_the_sections_are_those_of_modelzoo(modelzoo):
    from cerebras.modelzoo.trainer import Trainer
    from cerebras.pytorch.backend import get_backend_args

    callbacks = modelzoo[0]
    assert set(arguments(Trainer)) == set(INIT)
    for section, cls in {
        "loop": callbacks.TrainingLoop,
        "checkpoint": callbacks.Checkpoint,
        "logging": callbacks.Logging,
        "precision": callbacks.MixedPrecision,
        "autorestart": callbacks.AutoRestart,
    }.items():
        keys = SECTIONS[section]
        theirs = arguments(cls)
        assert set(theirs) == set(keys)
        required = {name for name, default in theirs.items() if default is inspect.Parameter.empty}
        assert {name for name, key in keys.items() if key.required} == required
        assert {n: k.default for n, k in keys.items() if n not in required} == {
            n: default for n, default in theirs.items() if n not in required
        }
    backend = {name for kind in ("CPU", "GPU", "CSX") for name in get_backend_args(kind)}
    assert backend - {"self", "mixed_precision"} == set(SECTIONS["backend"])
