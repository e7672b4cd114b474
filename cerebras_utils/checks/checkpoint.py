"""The checkpoint that the run starts from: what strict loading would say, and loose loading would hide."""

from collections.abc import Iterator, Mapping
from typing import Any

from cerebras_utils.checks.case import GIVEN, MASKS, Case, exists, section
from cerebras_utils.checks.lora import is_lora, trains_lora
from cerebras_utils.checks.registry import Doubt, Finding, NotMade, check
from pruning.checkpoint.mdl_file import MdlSource
from pruning.problems import Problem

_SHOWN = 3
_MASK = "_mask"
MODEL_ALONE = (
    "load the model alone: start with `wafersparse fit --load_checkpoint_states model`, or write the "
    "callback `- LoadCheckpointStates: {load_checkpoint_states: model}`, which also holds for a resume"
)


@check("checkpoint")
def opens(case: Case) -> Iterator[Finding]:
    """A checkpoint that is damaged, cut short, or saved on a CSX before its first step."""
    where, path = case.checkpoint_path
    if where != GIVEN and not exists(path):
        raise NotMade(f"{path} is not there, or may not be seen: see paths.exist, paths.readable")
    case.files.checkpoint(path)
    yield from ()


@check("checkpoint")
def format_of_cszoo(case: Case) -> Iterator[Finding]:
    """A format of which cszoo loads nothing: safetensors and flat state dicts have no `model`."""
    where, path = case.checkpoint_path
    source, fix = case.checkpoint, f"convert {path} to a .mdl, or save it as torch.save({{'model': state}})"
    if source.kind == "safetensors":
        what = "is safetensors: cszoo finds no `model` in it, warns, and trains from random weights"
        yield Problem(where, what, fix)
    elif source.kind == "torch" and not isinstance(_top(path).get("model"), Mapping):
        what = "is a bare state dict: cszoo finds no `model` in it, warns, and trains from random weights"
        yield Problem(where, what, fix)


@check("checkpoint")
def prefix(case: Case) -> Iterator[Finding]:
    """A key that does not begin with `model.`: one is enough for cszoo to load another way, or nothing."""
    foreign = [name for name in case.checkpoint.infos if not name.startswith("model.")]
    if foreign:
        where, _ = case.checkpoint_path
        what = f"{_some(foreign)} do{'es' * (len(foreign) == 1)} not begin with `model.`: cszoo then loads "
        what += "into another module, and without strict loading trains from random weights"
        yield Problem(where, what, "rename them, or save the state dict of the trainer's model again")


@check("checkpoint")
def strict(case: Case) -> Iterator[Finding]:
    """Strict loading is off: what does not fit is passed over, and stays random."""
    key = "disable_strict_checkpoint_loading"
    if section(case.init, "checkpoint").get(key) is not True:
        return
    what = "weights that the checkpoint lacks, or that have another name, stay random without a word"
    fix = f"remove {key}; the callbacks of this project load dense and masked checkpoints strictly"
    try:
        starts = bool(case.checkpoint_path)
    except NotMade:
        starts = False  # nothing is loaded, unless the command line names it
    kind = Problem if starts or case.callback(MASKS) else Doubt
    yield kind(case.where(f"init.checkpoint.{key}"), what, fix)


@check("checkpoint")
def fits(case: Case) -> Iterator[Finding]:
    """Weights that the model has and the checkpoint lacks, or the other way round, or of another shape."""
    where, path = case.checkpoint_path
    found = {n: i.shape for n, i in case.checkpoint.infos.items() if not n.endswith(_MASK) and not is_lora(n)}
    wanted = case.model_weights
    fix = "give the checkpoint of this model, or the model section of this checkpoint"
    if missing := sorted(wanted.keys() - found.keys()):
        yield Problem(where, f"{path} lacks {_some(missing)}, which the model has", fix)
    if extra := sorted(found.keys() - wanted.keys()):
        yield Problem(where, f"{path} has {_some(extra)}, which the model has not", fix)
    other = [n for n in sorted(wanted.keys() & found.keys()) if wanted[n] != found[n]]
    if other:
        first = f"{other[0]} is {found[other[0]]} in the checkpoint and {wanted[other[0]]} in the model"
        more = f" (and {len(other) - 1} more)" if len(other) > 1 else ""
        yield Problem(where, f"{first}{more}", fix)


@check("checkpoint")
def masks_inside(case: Case) -> Iterator[Finding]:
    """Masks in the checkpoint that the run does not expect, or native sparsity that finds none."""
    where, path = case.checkpoint_path
    inside = [name for name in case.checkpoint.infos if name.endswith(_MASK)]
    has_callback, native = case.callback(MASKS) is not None, case.init.get("sparsity") not in (None, [])
    if inside and not has_callback and not native:
        what = (
            f"{path} has {len(inside)} masks ({_some(inside)}), and the run is dense: strict loading refuses"
        )
        fix = f"name them with {MASKS}, or remove the `*{_MASK}` tensors for a dense run"
        yield Problem(where, what, fix)
    if native and not inside:
        what = f"{path} is dense, and `sparsity:` asks for `*{_MASK}` tensors: strict loading refuses"
        fix = f"use {MASKS} instead of `sparsity:`, or write the masks into the checkpoint"
        yield Problem(where, what, fix)


@check("checkpoint")
def optimizer_state(case: Case) -> Iterator[Finding]:
    """Optimizer state in the base of a LoRA run: its groups are of another size."""
    if not trains_lora(case):
        raise NotMade("the config has no LoRA")
    where, path = case.checkpoint_path
    source = case.checkpoint
    keys = [*source.others] if isinstance(source, MdlSource) else [f"{key}." for key in _top(path)]
    loads = _loads(case, "optimizer")
    if (
        loads
        and any(k.startswith("optimizer.") for k in keys)
        and not any(is_lora(name) for name in source.infos)
    ):
        what = f"{path} holds optimizer state, whose groups are not those of LoRA: "
        what += "loading stops with a parameter group that does not match"
        yield Problem(where, what, MODEL_ALONE)


@check("checkpoint")
def steps_left(case: Case) -> Iterator[Finding]:
    """A checkpoint that is already at the last step, or past it: nothing would be trained."""
    source = case.checkpoint
    scalars: Mapping[str, Any] = source.scalars() if isinstance(source, MdlSource) else {}
    done, last = scalars.get("global_step"), section(case.init, "loop").get("max_steps")
    if type(done) is not int or type(last) is not int:
        raise NotMade("the step of the checkpoint, or max_steps, is not known")
    where, path = case.checkpoint_path
    if done >= last and _loads(case, "global_step"):
        what = f"{path} is of step {done:,}, and max_steps is {last:,}: nothing is left to train"
        fix = f"raise max_steps above {done:,}, or begin at step 0 from its weights: {MODEL_ALONE}"
        yield Problem(where, what, fix)


@check("checkpoint")
def validate_start(case: Case) -> Iterator[Finding]:
    """`cszoo validate` ignores `fit.ckpt_path`: it would validate random weights."""
    if "validate" not in case.phase.params:
        raise NotMade("the config does not validate by itself: it has no `validate:`")
    fit, own = (section(case.phase.params, stage).get("ckpt_path") for stage in ("fit", "validate"))
    if fit and not own:
        what = "is what `fit` starts from; `cszoo validate` ignores it, and takes the last checkpoint of "
        what += "model_dir or random weights"
        fix = "name it under `validate:` too, or give --checkpoint_path"
        yield Doubt(case.where("fit.ckpt_path"), what, fix)


def _loads(case: Case, state: str) -> bool:
    """Whether the config lets the run take this of its checkpoint. The command line is not known here."""
    callback = case.callback("LoadCheckpointStates")
    states = callback.arguments.get("load_checkpoint_states", "all") if callback else "all"
    listed = states.lower().split(",") if isinstance(states, str) else states
    return not isinstance(listed, list) or "all" in listed or state in listed


def _top(path: str) -> Mapping[str, Any]:
    """What a torch file holds at its top. The tensors are mapped, not read."""
    import torch

    try:
        loaded = torch.load(path, map_location="meta", weights_only=True, mmap=True)
    except Exception:  # (it was opened before: it is a directory of shards, say, and not one file)
        return {}
    return {str(key): value for key, value in loaded.items()} if isinstance(loaded, Mapping) else {}


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{', '.join(names[:_SHOWN])}{more}"
