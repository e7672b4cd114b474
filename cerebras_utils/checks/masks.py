"""The mask file: whole, of this checkpoint, on weights that may be masked, as sparse as is said."""

import re
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np

from cerebras_utils.checks.case import MASKS, Case, exists
from cerebras_utils.checks.lora import factors
from cerebras_utils.checks.registry import Doubt, Finding, NotMade, check
from cerebras_utils.rewriting.header import START
from cerebras_utils.sparse_callback import MARK, file_digest
from pruning.checkpoint.mdl_file import MdlSource
from pruning.masks.bits import count, pack, to_bool
from pruning.masks.collection import resolve_names
from pruning.problems import Problem, ProblemError
from pruning.registry import suggest

_ARGUMENTS = ("mask_path", "apply_every_step")
_SPARSITY = re.compile(re.escape(START) + r"sparsity (?P<share>\d\.\d+) of ")
_DIGEST = re.compile(re.escape(START) + r"sha256 (?P<digest>[0-9a-f]{64})")
_SHOWN = 5


@check("masks")
def arguments(case: Case) -> Iterator[Finding]:
    """Arguments of SparseMaskCallback that it does not have, or that are of another kind."""
    callback = case.callback(MASKS)
    if callback is None:
        raise NotMade(f"the config names no masks: it has no {MASKS}")
    for name in callback.arguments:
        if name not in _ARGUMENTS:
            what = f"is no argument of {MASKS}.{suggest(str(name), list(_ARGUMENTS))}"
            yield Problem(case.where(f"{callback.key}.{name}"), what, f"known: {', '.join(_ARGUMENTS)}")
    path, every = callback.arguments.get("mask_path"), callback.arguments.get("apply_every_step", True)
    if not isinstance(path, str) or not path:
        what = "lacks mask_path" if path is None else f"has the mask_path {path!r}, which is no path"
        yield Problem(case.where(callback.key), what, "write `mask_path: FILE` below it")
    if not isinstance(every, bool):
        where = case.where(f"{callback.key}.apply_every_step")
        yield Problem(where, f"{every!r} is neither true nor false", "write true or false")
    elif not every:
        what = "the masks are applied once, and training is dense from there: no step is cheaper for it"
        yield Doubt(
            case.where(f"{callback.key}.apply_every_step"), what, "write true to keep the weights sparse"
        )


@check("masks")
def opens(case: Case) -> Iterator[Finding]:
    """A mask file that cannot be read, or is no mask file."""
    path = case.mask_path[1]
    if exists(path):
        case.files.masks(path)
    else:
        raise NotMade(f"{path} is not there, or may not be seen: see paths.exist, paths.readable")
    yield from ()


@check("masks")
def intact(case: Case) -> Iterator[Finding]:
    """Bits that were changed: kept weights are counted again, and compared with what the file says."""
    case.masks.verify()
    yield from ()


@check("masks")
def of_this_checkpoint(case: Case) -> Iterator[Finding]:
    """Masks that were computed from another checkpoint."""
    where, path = case.mask_path
    if case.masks.checkpoint is None:
        what = f"{path} does not say which checkpoint its masks were computed from"
        yield Doubt(where, what, "compute masks with `wafersparse masks`, which writes it down")
        return
    source = case.checkpoint
    if (found := source.fingerprint()) != case.masks.checkpoint:
        if any(name.endswith("_mask") for name in source.infos):
            return  # it was trained with masks: as_in_checkpoint compares them bit by bit
        scalars: Mapping[str, object] = source.scalars() if isinstance(source, MdlSource) else {}
        if scalars.get(f"{MARK}.sha256") == file_digest(case.masks.path):
            return  # a later checkpoint of a run that was started with these masks
        what = f"{path} was computed from another checkpoint: from {case.masks.checkpoint[:12]}…, and "
        what += f"{source.where} is {found[:12]}… (a conversion of the same weights is another file, too)"
        yield Problem(where, what, f"compute them again: wafersparse masks {source.where}")


@check("masks")
def as_in_checkpoint(case: Case) -> Iterator[Finding]:
    """Masks in the checkpoint that differ from those of the file."""
    where, path = case.mask_path
    inside = {name.removesuffix("_mask") for name in case.checkpoint.infos if name.endswith("_mask")}
    if not inside:
        raise NotMade("the checkpoint holds no masks")
    for name, weight in _owners(case).items():
        if weight not in inside:
            yield Problem(where, f"the checkpoint has masks, and none for {weight}", _SAME)
            continue
        info = case.checkpoint.infos[f"{weight}_mask"]
        if info.shape != case.masks.shape(name) or info.dtype not in ("BOOL", "U8"):
            yield Problem(where, f"the checkpoint's mask of {weight} is {info.shape} of {info.dtype}", _SAME)
            continue
        theirs = pack(to_bool(case.checkpoint.array(info.name).view(np.uint8), f"{path}: {name}"))
        if differ := count(theirs ^ case.masks.packed(name)):
            numel = case.masks.numel(name)
            what = f"{name} differs from the mask in the checkpoint in {differ:,} of {numel:,} weights"
            yield Problem(where, what, _SAME)


@check("masks")
def names(case: Case) -> Iterator[Finding]:
    """Masks without a weight of their name, or of another shape."""
    where, path = case.mask_path
    weights = _maskable(case)
    for name, weight in resolve_names(case.masks.names, weights).items():
        if case.masks.shape(name) != weights[weight]:
            what = f"{path}: {name} is of shape {case.masks.shape(name)}, its weight of {weights[weight]}"
            yield Problem(where, what, "take the masks that were computed for this model")


@check("masks")
def targets(case: Case) -> Iterator[Finding]:
    """Masks on embeddings, norms, LoRA factors, the output head or the MoE router that nobody asked for."""
    from pruning.checkpoint.source import TensorInfo
    from pruning.planning.selection import reason_to_leave_out

    where, path = case.mask_path
    asked = _asked(case)
    found: dict[str, list[str]] = {}
    for name in case.masks.names:
        info = TensorInfo(name, case.masks.shape(name), "F32")
        if (reason := reason_to_leave_out(info)) and not any(fnmatchcase(name, glob) for glob in asked):
            found.setdefault(reason, []).append(name)
    for reason, masked in found.items():
        what = f"{path} masks {_some(masked)}: {reason}, which its spec did not ask for by name"
        yield Problem(where, what, "compute the masks without it, or ask for it: --include 'GLOB'")


@check("masks")
def tied(case: Case) -> Iterator[Finding]:
    """A mask on one of two names of the same weight: the other would bring it back."""
    where, path = case.mask_path
    owners = {weight: name for name, weight in _owners(case).items()}
    for one, other in tied_pairs(case):
        masked = [weight for weight in (one, other) if weight in owners]
        if len(masked) == 1:
            missing = other if masked[0] == one else one
            what = f"{path} masks {masked[0]} and not {missing}, which is the same weight"
            yield Problem(where, what, "mask both alike, or neither")
        elif len(masked) == 2:
            bits = [case.masks.packed(owners[weight]) for weight in masked]
            if len(bits[0]) != len(bits[1]) or (bits[0] != bits[1]).any():
                what = f"{path} masks {one} and {other} differently, and they are the same weight"
                yield Problem(where, what, "mask both alike, or neither")


@check("masks")
def dropped_whole(case: Case) -> Iterator[Finding]:
    """A layer of which nothing is kept: a sparsity of 1.0."""
    where, path = case.mask_path
    gone = [name for name in case.masks.names if case.masks.numel(name) and not case.masks.kept(name)]
    if gone:
        what = (
            f"{path} keeps no weight of {_some(gone)}: a sparsity of 1.0, which the vendor's API refuses too"
        )
        yield Problem(where, what, "lower the sparsity, or set a smallest share to keep for each layer")


@check("masks")
def stated_sparsity(case: Case) -> Iterator[Finding]:
    """A sparsity that the mask file's receipt or the config's header states, and the masks do not have."""
    where, path = case.mask_path
    masks = case.masks
    numel = sum(masks.numel(name) for name in masks.names)
    kept = sum(count(masks.packed(name)) for name in masks.names)
    actual, stated = 1 - kept / max(1, numel), 0
    if (asked := _asked_sparsity(masks.spec)) is not None:
        stated += 1
        room = 0.5 * len(masks.names) / max(1, numel)  # of rounding in each layer
        if abs(actual - asked) > room + 1e-9:
            what = f"{path} was asked for a sparsity of {asked:g}, and drops {actual:.6f} of its weights"
            yield Problem(where, what, "compute the masks again, and name the file that is meant")
    for line, text in _header(case):
        if match := _SPARSITY.match(text):
            stated += 1
            digits = len(match["share"]) - 2
            if abs(actual - float(match["share"])) > 0.5 * 10**-digits + 1e-9:
                what = f"the header says a sparsity of {match['share']}, and the masks drop {actual:.6f}"
                yield Problem(f"{case.phase.document.path}:{line}", what, _REWRITE)
    if not stated:
        raise NotMade("neither the mask file nor the config's header states a sparsity")


@check("masks")
def stated_digest(case: Case) -> Iterator[Finding]:
    """A mask file other than the one whose digest stands in the config's header."""
    path = case.mask_path[1]
    said = [
        (line, match["digest"]) for line, text in _header(case) if (match := _DIGEST.match(text)) is not None
    ]
    if not said:
        raise NotMade("the config's header states no digest of the mask file")
    digest = file_digest(case.masks.path)
    for line, stated in said:
        if digest != stated:
            what = f"the header says {stated[:12]}…, and {path} is {digest[:12]}…: another file"
            yield Problem(f"{case.phase.document.path}:{line}", what, _REWRITE)


def tied_pairs(case: Case) -> Iterator[tuple[str, str]]:
    """Names under which one weight stands twice in a state dict."""
    weights = case.weights
    heads = {"model.lm_head.weight": "model.embedding_layer.word_embeddings.weight"}
    shared = case.model.get("share_embedding_weights", True) is not False
    for head, embedding in heads.items():
        if shared and weights.get(head, ()) == weights.get(embedding, (0,)):
            yield head, embedding
    for kind in ("weight", "bias"):
        last, norm = f"model.ln_f.{kind}", f"model.transformer_decoder.norm.{kind}"
        if last in weights and norm in weights:
            yield last, norm


_REWRITE = "write the config again with `wafersparse config`, from the masks that are meant"
_SAME = "resume with the masks that it was trained with, or start from dense weights"


def _maskable(case: Case) -> dict[str, tuple[int, ...]]:
    """Weights, and LoRA factors where the run makes them: a file may hold masks for these too."""
    found = {name: shape for name, shape in case.weights.items() if not name.endswith("_mask")}
    return {**found, **factors(case, found)}


def _owners(case: Case) -> dict[str, str]:
    try:
        return resolve_names(case.masks.names, _maskable(case))
    except ProblemError:
        raise NotMade("not every mask has a weight: see masks.names") from None


def _asked(case: Case) -> tuple[str, ...]:
    spec = case.masks.spec if isinstance(case.masks.spec, dict) else {}
    include = spec.get("include") or ()
    return tuple(glob for glob in include if isinstance(glob, str)) if isinstance(include, list) else ()


def _asked_sparsity(spec: object) -> float | None:
    """Of all masks together; None where units are too coarse to hit it, or every layer has its own."""
    from pruning.planning.amount import parse_sparsity

    if not isinstance(spec, dict) or spec.get("layers") or spec.get("nan_as_pruned"):
        return None
    pattern = str(spec.get("pattern"))
    if groups := re.fullmatch(r"(\d+):(\d+)", pattern):
        return 1 - int(groups[1]) / max(1, int(groups[2]))
    if pattern != "unstructured" or spec.get("sparsity") is None:
        return None
    try:
        return float(parse_sparsity(spec["sparsity"]))
    except ProblemError:
        return None


def _header(case: Case) -> Iterator[tuple[int, str]]:
    """The comment at the top of the file, by line, where it is about masks."""
    try:
        text = Path(case.phase.document.path).read_text(encoding="utf-8")
    except OSError:
        return
    for line, content in enumerate(text.splitlines(), 1):
        if content.strip() and not content.startswith("#"):
            return
        yield line, content


def _some(found: list[str]) -> str:
    more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    return f"{', '.join(found[:_SHOWN])}{more}"
