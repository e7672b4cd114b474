"""The vendor's own `sparsity:`: settings that stop the run, are silent, or mask what nobody meant."""

from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any

import numpy as np

from cerebras_utils.checks.case import MASKS, Case, number
from cerebras_utils.checks.lora import factors, is_lora, trains_lora
from cerebras_utils.checks.registry import Doubt, Finding, NotMade, check
from pruning.problems import Problem
from pruning.registry import suggest

_DYNAMIC = {"gmp": "GMP", "set": "SET", "rigl": "RigL"}
_ALGORITHMS = {"static": "Static", **_DYNAMIC}
_SCHEDULES = {  # of a hyperparameter: what it must be given
    "constant": ("value",),
    "linear": ("init", "slope"),
    "exp": ("init", "gamma"),
    "power": ("init", "beta"),
    "cosine": ("init", "half_period"),
    "cycling": ("values",),
}
_INITS = ("random", "topk", "from_zeros", "checkerboard")
_DENSE_NAMES = ("embedding", "norm", "lm_head", "pe_helper")  # of the vendor's default filter


class Group:
    """One entry of ``sparsity:``, which may be a number, a map, or a list of maps."""

    def __init__(self, key: str, entry: Mapping[str, Any]) -> None:
        self.key, self.entry = key, entry
        self.algorithm = str(entry.get("algorithm", entry.get("type", "static"))).lower()
        self.level = entry.get("schedule") if "schedule" in entry else entry.get("sparsity")

    @property
    def level_key(self) -> str:
        return f"{self.key}.{'schedule' if 'schedule' in self.entry else 'sparsity'}"

    @property
    def filters(self) -> list[str] | None:
        """None is the vendor's default."""
        written = self.entry.get("param_filter")
        listed = [written] if isinstance(written, str) else written
        return (
            [glob for glob in listed if isinstance(glob, str)] if isinstance(listed, list | tuple) else None
        )

    def matches(self, name: str, shape: tuple[int, ...]) -> bool:
        if self.filters is None:
            return len(shape) > 1 and not any(part in name.lower() for part in _DENSE_NAMES)
        return any(fnmatchcase(name, glob) for glob in self.filters)


def groups(case: Case) -> list[Group]:
    written = case.init.get("sparsity")
    if written is None or written == []:
        raise NotMade("the config has no native `sparsity:`")
    if isinstance(written, Mapping) and "groups" in written:
        written = written["groups"]
        key = "init.sparsity.groups"
    else:
        key = "init.sparsity"
    entries = written if isinstance(written, list) else [written]
    found = []
    for index, entry in enumerate(entries):
        here = f"{key}[{index}]" if isinstance(written, list) else key
        if type(entry) in (int, float):
            entry, here = {"sparsity": entry}, here
        if isinstance(entry, Mapping):
            inner = entry.get("params")
            found.append(Group(here, {**entry, **inner} if isinstance(inner, Mapping) else entry))
    return found


@check("sparsity")
def form(case: Case) -> Iterator[Finding]:
    """A `sparsity:` that is neither a number, nor a map, nor a list of maps."""
    written = case.init.get("sparsity")
    if written is None:
        raise NotMade("the config has no native `sparsity:`")
    entries = written if isinstance(written, list) else [written]
    for index, entry in enumerate(entries):
        if type(entry) not in (int, float) and not isinstance(entry, Mapping):
            where = case.where("init.sparsity" + (f"[{index}]" if isinstance(written, list) else ""))
            yield Problem(where, f"{entry!r} is no sparsity", "write `sparsity: 0.5`, or a map with it")
    if written == []:
        yield Problem(case.where("init.sparsity"), "is empty: the run is dense", "remove it")


@check("sparsity")
def beside_masks(case: Case) -> Iterator[Finding]:
    """Native sparsity beside SparseMaskCallback: there is one algorithm in a run."""
    groups(case)
    if callback := case.callback(MASKS):
        what = f"stands beside {MASKS}: both set the sparsity of the run"
        fix = f"remove one of them: `sparsity:`, or {case.where(callback.key)}"
        yield Problem(case.where("init.sparsity"), what, fix)


@check("sparsity")
def algorithm(case: Case) -> Iterator[Finding]:
    """An algorithm, initialisation or schedule that the vendor does not have: the run stops."""
    for group in groups(case):
        if group.algorithm not in _ALGORITHMS:
            what = f"{group.algorithm!r} is no algorithm.{suggest(group.algorithm, [*_ALGORITHMS])}"
            if group.algorithm == "group":
                what = "'group' passes validation by accident, and is no algorithm"
            where = case.where(f"{group.key}.algorithm")
            yield Problem(where, what, f"use one of {', '.join(_ALGORITHMS)}")
        init = group.entry.get("init_method", "random")
        if init not in _INITS:
            what = f"{init!r} is no init_method.{suggest(str(init), list(_INITS))}"
            yield Problem(case.where(f"{group.key}.init_method"), what, f"use one of {', '.join(_INITS)}")
        for key in (group.level_key, f"{group.key}.drop_fraction"):
            value = group.level if key == group.level_key else group.entry.get("drop_fraction")
            if isinstance(value, Mapping):
                yield from _schedule_problems(value, case.where(key))


@check("sparsity")
def level(case: Case) -> Iterator[Finding]:
    """No sparsity, one that is written as an integer, or one outside of [0, 1)."""
    for group in groups(case):
        where, value = case.where(group.level_key), group.level
        if "sparsity" in group.entry and "schedule" in group.entry:
            yield Problem(where, "sparsity and schedule are two names of one setting", "remove one of them")
        elif value is None:
            what = "lacks `sparsity`" if "sparsity" not in group.entry else "is null: the group is dense"
            yield Problem(case.where(group.key), what, "write `sparsity: 0.5`, the fraction to drop")
        elif group.algorithm == "static" and not isinstance(value, float):
            fix = (
                f"write {float(value)}"
                if type(value) is int and value == 0
                else "write a decimal such as 0.5"
            )
            yield Problem(where, f"{value!r} is not a decimal, and Static takes nothing else", fix)
        elif (s := number(value)) is not None and not 0 <= s < 1:
            more = ": nothing would be kept" if s == 1 else ""
            yield Problem(where, f"{value!r} is outside [0, 1){more}", "write the fraction to drop, below 1")


@check("sparsity")
def changes(case: Case) -> Iterator[Finding]:
    """GMP with a constant, which stops the run; Exp without `final`, which goes on to drop every weight."""
    for group in groups(case):
        value = group.level
        kind = value.get("type") if isinstance(value, Mapping) else None
        constant = type(value) in (int, float) or str(kind).lower() == "constant"
        if group.algorithm == "gmp" and constant:
            what = "GMP stops at a constant sparsity: its pattern would not change"
            fix = "use algorithm: static, or a schedule: {type: exp, init: 0.0, gamma: -0.01, final: 0.9}"
            yield Problem(case.where(group.level_key), what, fix)
        if isinstance(value, Mapping) and str(kind).lower() == "exp" and "final" not in value:
            what = "`final` is left out: it is 1.0 then, and the sparsity goes on to 1.0"
            yield Problem(case.where(group.level_key), what, "write `final:`, the sparsity to end with")


@check("sparsity")
def filters(case: Case) -> Iterator[Finding]:
    """A `param_filter` that matches no weight: silent, where another group matches."""
    listed = [(group, glob) for group in groups(case) for glob in group.filters or ()]
    for group in groups(case):
        written = group.entry.get("param_filter")
        if written is not None and (group.filters is None or not group.filters):
            where = case.where(f"{group.key}.param_filter")
            yield Problem(where, f"{written!r} is no name pattern, nor a list of them", "write '*.weight'")
    if not listed:
        raise NotMade("no `param_filter` is written")
    names = [*case.weights, *factors(case, case.weights)]
    for group, glob in listed:
        if not any(fnmatchcase(name, glob) for name in names):
            what = f"{glob!r} matches no weight: what it names would be dense, without a word"
            hint = suggest(glob.strip("*."), sorted({part for name in names for part in name.split(".")}))
            yield Problem(case.where(f"{group.key}.param_filter"), f"{what}.{hint}", "correct or remove it")


@check("sparsity")
def from_zeros(case: Case) -> Iterator[Finding]:
    """`from_zeros` with LoRA: lora_B begins with zeros, is masked whole, and never trains."""
    if not trains_lora(case):
        raise NotMade("the config has no LoRA")
    for group in groups(case):
        if group.entry.get("init_method") == "from_zeros" and _masks_factors(group):
            what = "masks lora_B, all zeros at the start, whole: it never trains"
            fix = "write a param_filter that leaves lora_A and lora_B out"
            yield Problem(case.where(f"{group.key}.init_method"), what, fix)


@check("sparsity")
def default_filter(case: Case) -> Iterator[Finding]:
    """The default filter masks LoRA factors and the router of a mixture of experts, too."""
    for group in groups(case):
        if group.filters is not None:
            continue
        fix = "write a param_filter with the weights that are meant"
        if trains_lora(case):
            what = "without param_filter, lora_A and lora_B are masked as well"
            yield Problem(case.where(group.key), what, fix)
        if _has_router(case):
            what = "without param_filter, the router of the experts (`gate.weight`) is masked as well"
            yield Problem(case.where(group.key), what, fix)


@check("sparsity")
def frozen(case: Case) -> Iterator[Finding]:
    """LoRA with native sparsity on frozen weights alone: the first step stops with a misleading error."""
    if not trains_lora(case):
        raise NotMade("the config has no LoRA")
    found = groups(case)
    if found and not any(_masks_factors(group) for group in found):
        what = "masks only weights that LoRA freezes: the vendor's optimizer hooks then stop the first step"
        yield Problem(case.where("init.sparsity"), what, f"use {MASKS}, which knows frozen weights")


@check("sparsity")
def hints(case: Case) -> Iterator[Finding]:
    """A sparsity that is not that of the masks in the checkpoint: the compiler is told the former."""
    found = groups(case)
    names = [name for name in case.checkpoint.infos if name.endswith("_mask")]
    if not names:
        raise NotMade("the checkpoint holds no masks")
    for name in names:
        info = case.checkpoint.infos[name]
        weight = name.removesuffix("_mask")
        group = next((g for g in found if g.matches(weight, info.shape)), None)
        if group is None or not isinstance(group.level, float) or info.dtype not in ("BOOL", "U8"):
            continue
        kept = np.count_nonzero(case.checkpoint.array(name))
        if abs(1 - kept / max(1, info.numel) - group.level) > 1 / max(1, info.numel) + 1e-6:
            what = (
                f"is {group.level}, and the checkpoint's mask of {weight} drops {1 - kept / info.numel:.6f}"
            )
            yield Problem(
                case.where(group.level_key), what, "write the sparsity of the mask, a group a weight"
            )


@check("sparsity")
def dynamic_resume(case: Case) -> Iterator[Finding]:
    """A dynamic algorithm with a schedule that has state: the vendor loses it on resume."""
    for group in groups(case):
        value = group.level
        kind = value.get("type") if isinstance(value, Mapping) else None
        if group.algorithm in _DYNAMIC and str(kind).lower() == "cycling":
            what = "a resumed run does not go on with the saved place in the cycle: the vendor discards it"
            yield Doubt(case.where(group.level_key), what, "let the run finish in one go")


def _schedule_problems(value: Mapping[str, Any], where: str) -> Iterator[Problem]:
    kind = str(value.get("type")).lower()
    if kind not in _SCHEDULES:
        what = f"{value.get('type')!r} is no schedule of the vendor's.{suggest(kind, [*_SCHEDULES])}"
        yield Problem(where, what, f"use one of {', '.join(_SCHEDULES)}")
        return
    for name in _SCHEDULES[kind]:
        if name not in value:
            yield Problem(where, f"{kind} lacks {name!r}", f"write `{name}:` below it")


def _masks_factors(group: Group) -> bool:
    return any(group.matches(f"model.layers.0.linear.{name}", (8, 8)) for name in ("lora_A", "lora_B"))


def _has_router(case: Case) -> bool:
    if any(name.endswith(".gate.weight") for name in _known_weights(case)):
        return True
    moe = case.model.get("moe_params", case.model.get("moe"))
    experts = moe.get("num_experts") if isinstance(moe, Mapping) else case.model.get("num_experts")
    return str(case.model.get("name")) == "mixtral" or (type(experts) is int and experts > 1)


def _known_weights(case: Case) -> list[str]:
    try:
        return [name for name in case.weights if not is_lora(name)]
    except NotMade:
        return []
