"""How the run goes on: steps, validation, checkpoints and the disk for them, batches on the machines."""

import math
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from cerebras_utils.checks.case import MASKS, Case, section, whole
from cerebras_utils.checks.lora import adapted_model, factors, is_lora, trains_lora
from cerebras_utils.checks.masks import tied_pairs
from cerebras_utils.checks.paths import nearest
from cerebras_utils.checks.registry import Doubt, Estimate, Finding, NotMade, check
from pruning.problems import Problem

_FEW = 100  # sequences: the mean loss of fewer moves more than what is usually compared
_STATES = {"adam": 2, "adamw": 2, "sgd": 0}  # tensors of a weight's size that the optimizer keeps


@check("loop")
def grad_accumulation(case: Case) -> Iterator[Finding]:
    """`grad_accum_steps`: on a CPU or GPU `max_steps` counts micro-batches; on a CSX it has no effect."""
    loop = section(case.init, "loop")
    wanted = whole(loop.get("grad_accum_steps")) or 1
    if wanted == 1:
        return
    where, steps = case.where("init.loop.grad_accum_steps"), whole(loop.get("max_steps"))
    if case.device == "CSX":
        what = f"is {wanted}, and has no effect on a CSX, which divides a batch by itself"
        yield Doubt(where, what, "remove it; batch_size is the whole batch of a step")
    elif steps:
        what = f"max_steps counts micro-batches under ModelZoo: {steps:,} of them, {wanted} at a time, are "
        what += f"{steps // wanted:,} optimizer steps"
        yield Doubt(
            where, what, f"set max_steps to {steps * wanted:,} where {steps:,} optimizer steps are meant"
        )


@check("loop")
def eval_steps(case: Case) -> Iterator[Finding]:
    """Validation on so few sequences that its loss says little."""
    count = whole(section(case.init, "loop").get("eval_steps"))
    if count is None:
        raise NotMade("no eval_steps: validation takes the whole set")
    for key, loader in case.loaders():
        size = whole(loader.get("batch_size"))
        if "val_dataloader" in key and size and count * size < _FEW:
            what = f"validates on {count * size} sequences ({count} batches of {size}): differences between "
            what += "runs drown in the choice of sequences"
            fix = f"set eval_steps to {math.ceil(_FEW / size)} or more, or remove it to take the whole set"
            yield Doubt(case.where("init.loop.eval_steps"), what, fix)
            return


@check("loop")
def eval_frequency(case: Case) -> Iterator[Finding]:
    """Validation that never comes before the end, though it is asked for more often."""
    every = whole(section(case.init, "loop").get("eval_frequency"))
    fit = section(case.phase.params, "fit")
    if every is None or not fit.get("val_dataloader"):
        raise NotMade("no validation during training is asked for by a number of steps")
    batches = case.steps * case.accumulation
    if every > batches:
        what = f"is {every:,}, and the run has {batches:,} steps: it validates once, at the end"
        yield Doubt(case.where("init.loop.eval_frequency"), what, "lower it to see how the loss goes")


@check("loop")
def checkpoints(case: Case) -> Iterator[Finding]:
    """No checkpoints, or an interval beyond the run: nothing is saved on the way."""
    written = section(case.init, "checkpoint")
    if "fit" not in case.phase.params:
        raise NotMade("the config does not train: it has no `fit:`")
    every, key = written.get("steps"), "init.checkpoint.steps"
    if every in (None, 0):
        what = "is not set: " if every is None else "is 0: "
        what += "no checkpoint is saved, and what was trained is lost at the end"
        yield Problem(case.where(key), what, "set it to the steps between two checkpoints")
    elif whole(every) and every > case.steps * case.accumulation:
        what = f"is {every:,}, and the run has {case.steps * case.accumulation:,} steps: nothing is saved "
        what += "before the last, so a run that breaks off leaves nothing"
        yield Doubt(case.where(key), what, "lower it, to what may be lost at most")


@check("loop")
def disk(case: Case) -> Iterator[Finding]:
    """All checkpoints of the run need more disk than is free."""
    number, size, how = checkpoint_bytes(case)
    written = case.init.get("model_dir", "./model_dir")
    near = nearest(Path(written if isinstance(written, str) else "."))
    free = shutil.disk_usage(near).free
    text = f"{number} checkpoint{'s'[: number > 1]} of {_size(size)} need {_size(number * size)}; "
    text += f"{_size(free)} are free at {near}"
    yield Estimate(case.where("init.checkpoint.steps"), "checkpoint_bytes", number * size, text, how)
    if number * size > free:
        fix = "save less often, keep fewer (`- KeepNCheckpoints: {n: 2}`), or choose another model_dir"
        yield Problem(case.where("init.checkpoint.steps"), text, fix)


@check("loop")
def batch_size(case: Case) -> Iterator[Finding]:
    """A batch that is smaller than the number of machines, or cannot be divided evenly among them."""
    if case.device != "CSX":
        raise NotMade(f"the run is on a {case.device}: num_csx has no meaning")
    machines = case.cluster.get("num_csx", 1)
    where = case.where("init.backend.cluster_config.num_csx")
    if type(machines) is not int or machines < 1:
        yield Problem(where, f"{machines!r} is no number of machines", "write a whole number from 1")
        return
    for key, loader in case.loaders():
        size = whole(loader.get("batch_size"))
        if size and size < machines:
            what = f"is {size}, and num_csx is {machines}: each machine needs a sequence at least"
            yield Problem(case.where(f"{key}.batch_size"), what, f"set it to {machines} or more")
        elif size and size % machines:
            what = f"is {size}, which {machines} machines cannot share evenly"
            fix = f"set it to {size // machines * machines} or {(size // machines + 1) * machines}"
            # The one that streams refuses it; the others give some machines more than others.
            kind = Problem if loader.get("data_processor") == "GptHDF5DataProcessor" else Doubt
            yield kind(case.where(f"{key}.batch_size"), what, fix)


@check("loop")
def batch_size_form(case: Case) -> Iterator[Finding]:
    """A batch size that is no whole number above 0."""
    for key, loader in case.loaders():
        if "batch_size" in loader and whole(loader["batch_size"]) is None:
            what = f"{loader['batch_size']!r} is no number of sequences"
            yield Problem(case.where(f"{key}.batch_size"), what, "write a whole number from 1")


def checkpoint_bytes(case: Case) -> tuple[int, int, str]:
    """How many checkpoints stay, the bytes of each, and how that was reckoned."""
    options = section(case.init, "checkpoint")
    every = whole(options.get("steps"))
    if every is None or "fit" not in case.phase.params:
        raise NotMade("the run saves no checkpoints")
    number = math.ceil(case.steps * case.accumulation / every)
    restarts = whole(section(case.init, "autorestart").get("max_num_restarts"))
    number += bool(options.get("save_initial_checkpoint") or restarts)
    keep = case.callback("KeepNCheckpoints")
    if keep is not None and (kept := whole(keep.arguments.get("n"))):
        number = min(number, kept + 1)  # a new one is written before the oldest is removed
    numel, twice, trained, most = _counted(case)
    optimizer = case.init.get("optimizer")
    name, given = next(iter(optimizer.items())) if isinstance(optimizer, dict) and optimizer else ("", {})
    states = _STATES.get(str(name).lower(), 0)
    if str(name).lower() == "sgd" and isinstance(given, dict) and given.get("momentum"):
        states = 1
    masked = sum(math.prod(shape) for name, shape in case.weights.items() if name.endswith("_mask"))
    if (masks := case.callback(MASKS)) is not None:
        if masks.arguments.get("apply_every_step", True) is False:
            masked = 0  # they are applied once, and not saved
        else:
            with suppress(NotMade):  # what is not there cannot be counted, and is said elsewhere
                masked = sum(case.masks.numel(mask) for mask in case.masks.names)
    size = 4 * (numel + twice) + 4 * states * trained + masked
    how = f"{numel:,} weights of 4 bytes{most}, tied ones counted once"
    how += f" ({twice:,} are stored under a second name, too)" if twice else ""
    how += f"; {states} optimizer states of 4 bytes for the {trained:,} that are trained{most}; "
    how += f"{masked:,} mask bytes; compression is left out"
    return number, size, how


def _counted(case: Case) -> tuple[int, int, int, str]:
    """Weights, those of them that a checkpoint holds twice, those that are trained, and "at most"."""
    if trains_lora(case) and (model := adapted_model(case)) is not None:
        parameters = list(model.parameters())
        numel = sum(p.numel() for p in parameters)
        stored = sum(tensor.numel() for tensor in model.state_dict().values())
        return numel, stored - numel, sum(p.numel() for p in parameters if p.requires_grad), ""
    weights = {n: s for n, s in case.weights.items() if not n.endswith("_mask") and not is_lora(n)}
    twice = sum(math.prod(weights[name]) for name, _ in tied_pairs(case))
    numel = sum(map(math.prod, weights.values())) - twice
    if not trains_lora(case):
        return numel, twice, numel, ""
    made = sum(map(math.prod, factors(case, weights).values()))
    return numel + made, twice, made, " at most"


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 999.5:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:,.1f} TB"
