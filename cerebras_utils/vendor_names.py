"""Callbacks and loggers of ModelZoo 2.10 by the names that a YAML may use, and what they do on plain PyTorch.

One that only writes something is accepted, and a line says that it does not do so here. One that changes the
weights, the data or the results has to work, or is refused: a number would not mean what its label says.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from cerebras_utils.value_kinds import BOOL, COUNT, KEYS, STATES, TEXT, Kind, or_null
from pruning.problems import Problem
from pruning.registry import suggest


class Effect(Enum):
    WORKS = "has an effect here"
    NONE = "has no effect here"
    REFUSED = "is not supported here"


@dataclass(frozen=True)
class VendorName:
    name: str
    effect: Effect
    arguments: tuple[str, ...] | None = ()  # None: any
    reason: str = ""  # why it has no effect, or is refused
    required: tuple[str, ...] = ()
    kinds: Mapping[str, Kind] = field(default_factory=dict)  # of the arguments that are read here


_ANY = Kind("anything", lambda value: True)  # looked at by whoever reads it
_CSX_FLAGS = "its flags are for the CS-3 compiler and runtime"


def _table(*names: VendorName) -> dict[str, VendorName]:
    """By lower-cased name: cszoo compares them so."""
    return {entry.name.lower(): entry for entry in names}


def _works(name: str, required: tuple[str, ...] = (), **kinds: Kind) -> VendorName:
    return VendorName(name, Effect.WORKS, tuple(kinds), required=required, kinds=kinds)


def _none(name: str, reason: str, *arguments: str, required: tuple[str, ...] = ()) -> VendorName:
    return VendorName(name, Effect.NONE, arguments, reason, required)


def _refused(name: str, reason: str, *arguments: str, required: tuple[str, ...] = ()) -> VendorName:
    return VendorName(name, Effect.REFUSED, arguments, reason, required)


CALLBACKS = _table(
    _works("CheckLoss"),
    _works("ComputeNorm"),
    _works("DurationProfiler"),
    _works("KeepNCheckpoints", n=or_null(COUNT)),
    _works("LoadCheckpointStates", load_checkpoint_states=STATES),
    _works("LogOptimizerParamGroup", ("keys",), keys=KEYS),
    _works("LogSparsity"),
    _works("ModelEvalMetrics"),
    _works("ModelZooParamsMetadata", params=_ANY),
    _works("RateProfiler"),
    _works("SavePerformanceData"),
    VendorName("GlobalFlags", Effect.NONE, None, _CSX_FLAGS),
    VendorName("ScopedBigCodeEvalHarnessFlags", Effect.NONE, None, _CSX_FLAGS),
    VendorName("ScopedEleutherEvalHarnessFlags", Effect.NONE, None, _CSX_FLAGS),
    VendorName("ScopedTrainFlags", Effect.NONE, None, _CSX_FLAGS),
    VendorName("ScopedValidateFlags", Effect.NONE, None, _CSX_FLAGS),
    _none("DebugArgsPath", _CSX_FLAGS, "debug_args_path", required=("debug_args_path",)),
    _none("ComputeNormGNS", "gradient noise is not measured", "per_example_grad_norms"),
    _none("CountParams", "no table is printed", "search_and_replace", "order_by", "descending"),
    _none("DumpActivations", "no activations are written", "outdir", "buffer_steps"),
    _none("DumpAvailableTensorNames", "there are no traced tensors"),
    _none(
        "EmailNotification",
        "no mail is sent",
        *("mailto", "mailfrom", "server_name", "port", "notification_endpoint", "subject"),
        required=("mailto",),
    ),
    _none("FlopUtilization", "the CS-3 compiler counts the operations"),
    _none("HFCacheDir", "nothing of Hugging Face is used", "cache_dir", required=("cache_dir",)),
    _none("LogInputSummaries", "batches are not logged"),
    _none(
        "NormTensorListener",
        "there are no traced tensors",
        *("listener_name", "tensor_names"),
        required=("listener_name", "tensor_names"),
    ),
    _none("OpProfiler", "it profiles a CS-3", "start_step", "end_step", "host_activities"),
    _none("SamplesStreamedInfo", "it gives advice after a NaN on a CS-3"),
    _none("SlackNotification", "no message is sent", "channels", required=("channels",)),
    _none(
        "SummaryTensorListener",
        "there are no traced tensors",
        *("listener_name", "tensor_names"),
        required=("listener_name", "tensor_names"),
    ),
    _none(
        "WeightCompression", "it is a note to the CS-3 compiler", "compressions", required=("compressions",)
    ),
    # These two take the arguments of a data loader besides.
    VendorName("BigCodeEvalHarness", Effect.REFUSED, None, "its results would be missing", ("bigcode_args",)),
    VendorName("EleutherEvalHarness", Effect.REFUSED, None, "its results would be missing", ("eeh_args",)),
    _works("Lora", ("lora_params",), lora_params=_ANY),
    _refused("NaNChecker", "it ends the run early, and checks the kernels of a CS-3", "num_steps"),
    _refused(
        "SaveCheckpointState",
        "the checkpoints it writes would be missing",
        *("k", "checkpoint_states", "checkpoint_name"),
        required=("k",),
    ),
    _refused("SelectiveGrad", "it changes the gradients", "selective_grads", required=("selective_grads",)),
    _refused("SkipSamples", "it changes the data", "n", required=("n",)),
)

LOGGERS = _table(
    _works("ProgressLogger"),
    _works("TensorBoardLogger", summary_dir=or_null(TEXT), legacy_event_dirs=BOOL),
    _none("TelemetryLogger", "there is no cluster to report to", "max_buffer_size", "max_buffer_seconds"),
    _none(
        "WandbLogger",
        "nothing is sent to Weights & Biases",
        *("project", "group", "run_id", "run_name", "job_type", "tags", "resume", "entity"),
    ),
)

# What cszoo adds where the YAML does not name it. One that is set to null is switched off.
DEFAULT_CALLBACKS: Mapping[str, Mapping[str, Any]] = {
    "CheckLoss": {},
    "LogOptimizerParamGroup": {"keys": "lr"},
    "ComputeNorm": {},
    "ModelEvalMetrics": {},
    "RateProfiler": {},
    "DurationProfiler": {},
    "FlopUtilization": {},
    "SavePerformanceData": {},
    "DumpAvailableTensorNames": {},
    "ModelZooParamsMetadata": {},
    "SamplesStreamedInfo": {},
}
DEFAULT_LOGGERS: Mapping[str, Mapping[str, Any]] = {
    "ProgressLogger": {},
    "TensorBoardLogger": {},
    "TelemetryLogger": {},
}

OURS = ("SparseMaskCallback", "SparseLora")  # checks its arguments itself


def with_defaults(
    entries: Sequence[Mapping[str, Any]], defaults: Mapping[str, Mapping[str, Any]]
) -> list[tuple[str, dict[str, Any]]]:
    """Names and arguments in the order in which cszoo makes them: the YAML's, then other defaults."""
    known = {name: entry.name for name, entry in {**CALLBACKS, **LOGGERS}.items()}
    known |= {name.lower(): name for name in OURS}
    left = {name.lower(): (name, dict(arguments)) for name, arguments in defaults.items()}
    found = []
    for entry in entries:
        ((name, arguments),) = entry.items()
        left.pop(name.lower(), None)
        if arguments is not None:
            found.append((known.get(name.lower(), name), dict(arguments)))
    return [*found, *left.values()]


def named_entries(written: Any) -> Iterator[tuple[int, str, Mapping[str, Any]]]:
    """Place, name and arguments of the callbacks or loggers that are written as they should be."""
    for index, entry in enumerate(written if isinstance(written, list) else ()):
        if isinstance(entry, Mapping) and len(entry) == 1:
            ((name, arguments),) = entry.items()
            if isinstance(name, str) and isinstance(arguments, Mapping):
                yield index, name, arguments


def entry_problems(entries: Any, where: str, kind: str, ours: Sequence[str] = OURS) -> Iterator[Problem]:
    """What is wrong with ``callbacks`` or ``loggers`` (``kind``: callback or logger) of a YAML."""
    own = ours if kind == "callback" else ()
    if not isinstance(entries, list):
        fix = f"write a list of `- Name: {{}}`, or leave {kind}s out"
        yield Problem(where, f"is {_brief(entries)}, not a list", fix)
        return
    for index, entry in enumerate(entries):
        here = f"{where}[{index}]"
        if isinstance(entry, str):
            yield Problem(here, f"{entry} stands alone, without its arguments", f"write `- {entry}: {{}}`")
        elif not isinstance(entry, dict) or len(entry) != 1:
            yield Problem(here, f"is {_brief(entry)}, not one name with its arguments", "write `- Name: {}`")
        else:
            ((name, arguments),) = entry.items()
            yield from _named_problems(str(name), arguments, f"{here}.{name}", kind, own)


def effect_lines(entries: Sequence[Mapping[str, Any]], where: str, kind: str) -> Iterator[str]:
    """One line for each that a YAML names and that does nothing here. ``entries`` are without problems."""
    table = CALLBACKS if kind == "callback" else LOGGERS
    for index, entry in enumerate(entries):
        ((name, arguments),) = entry.items()
        known = table.get(name.lower())
        if known and known.effect is Effect.NONE and arguments is not None:
            yield f"{where}[{index}].{name} {known.effect.value}: {known.reason}"


def _named_problems(
    name: str, arguments: Any, where: str, kind: str, ours: Sequence[str]
) -> Iterator[Problem]:
    table = CALLBACKS if kind == "callback" else LOGGERS
    defaults = DEFAULT_CALLBACKS if kind == "callback" else DEFAULT_LOGGERS
    known = table.get(name.lower())
    if known is None and name.lower() not in {own.lower() for own in ours}:
        names = sorted([*(entry.name for entry in table.values()), *ours])
        yield Problem(where, f"is no {kind}.{suggest(name, names)}", f"use one of {', '.join(names)}")
    elif arguments is None:
        if known is None or known.name not in defaults:
            what = f"is null, and cszoo then drops the {kind} without a word"
            yield Problem(where, what, f"write `{name}: {{}}`, or remove it")
    elif not isinstance(arguments, dict):
        fix = f"write `{name}: {{}}` with its arguments by name"
        yield Problem(where, f"is {_brief(arguments)}, not arguments by name", fix)
    elif known is not None:
        if known.effect is Effect.REFUSED:
            fix = "remove it, or run this config with ModelZoo: --backend cszoo"
            yield Problem(where, f"is not supported here: {known.reason}", fix)
        for argument, value in arguments.items():
            wanted = known.kinds.get(argument)
            if known.arguments is not None and argument not in known.arguments:
                takes = ", ".join(known.arguments) or "none"
                what = f"is no argument of {known.name}.{suggest(str(argument), list(known.arguments))}"
                yield Problem(f"{where}.{argument}", what, f"remove it; known: {takes}")
            elif wanted is not None and not wanted.holds(value):
                yield Problem(f"{where}.{argument}", f"{value!r} is not {wanted.says}", "mend the value")
        for argument in known.required:
            if argument not in arguments:
                yield Problem(where, f"lacks {argument!r}", f"write `{argument}:` below it")


def _brief(value: object) -> str:
    return "null" if value is None else f"a {type(value).__name__}"
