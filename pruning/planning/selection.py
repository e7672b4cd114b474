"""Which tensors of a checkpoint are pruned, and why each of the others is not."""

import hashlib
from collections import defaultdict
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase

import numpy as np

from pruning.checkpoint.source import FLOATS, ITEMSIZE, TensorInfo, TensorSource
from pruning.problems import Problem

# First match wins. The names are those of ModelZoo and HuggingFace; globs on the full name.
_LEFT_OUT = {
    "embedding": ("*embed*", "*wte.*", "*wpe.*", "shared.weight", "*.shared.weight"),
    "output head": ("*lm_head*", "output.weight", "*output_layer.weight", "*embed_out*", "score.weight"),
    "norm": ("*norm*", "*ln_f*", "*.ln_[0-9]*"),
    "position helper": ("*pe_helper*", "*rotary*", "*relative_attention_bias*", "*relpos*"),
    "MoE router gate": ("gate.weight", "*.gate.weight", "*.gate.wg.*", "*_expert_gate.*", "*.router.*"),
    "LoRA factor": ("*lora_A*", "*lora_B*"),
    "mask": ("*_mask",),
}
_LEFT_OUT_MODULES = {"Embedding": "embedding", "LayerNorm": "norm", "RMSNorm": "norm", "GroupNorm": "norm"}


@dataclass(frozen=True)
class Selection:
    chosen: tuple[TensorInfo, ...]  # sorted by name; of tied tensors the first stands for all
    left_out: Mapping[str, str]  # name → reason
    aliases: Mapping[str, tuple[str, ...]]  # chosen name → the others tied to it
    tied: tuple[tuple[str, ...], ...]  # every tied group of the checkpoint, for the report


def select(
    source: TensorSource, include: tuple[str, ...], exclude: tuple[str, ...]
) -> tuple[Selection, list[Problem]]:
    infos = source.infos
    problems = [
        unmatched(source.where, f"--{kind} {glob}", glob, infos)
        for kind, globs in (("include", include), ("exclude", exclude))
        for glob in globs
        if not any(fnmatchcase(name, glob) for name in infos)
    ]
    left_out = {}
    for name, info in infos.items():
        reason = _reason(info, include, exclude)
        if reason:
            left_out[name] = reason
    chosen = {name: info for name, info in infos.items() if name not in left_out}
    groups = tied_groups(source, chosen)
    aliases: dict[str, tuple[str, ...]] = {}
    excluded = {f"excluded by {glob}" for glob in exclude}
    for group in groups:
        inside = [name for name in group if name in chosen]
        if inside and len(inside) < len(group):
            outside = next(name for name in group if name not in chosen)
            if not include and all(left_out[n] not in excluded for n in group if n not in chosen):
                for name in inside:  # the default choice takes both or neither
                    left_out[name] = f"tied to {outside} ({left_out[outside]})"
                    del chosen[name]
                continue
            problems.append(
                Problem(
                    f"{source.where}: {inside[0]}",
                    f"it is tied to {outside}, which is left out ({left_out[outside]}): a mask on one only "
                    "would be undone by the other",
                    f"include both, or --exclude '{inside[0]}'",
                )
            )
        elif inside:
            aliases[inside[0]] = tuple(inside[1:])
    for name, info in chosen.items():
        if info.numel < 2:
            problems.append(
                Problem(
                    f"{source.where}: {name}",
                    f"it has {info.numel} elements, of which no share can be dropped",
                    f"--exclude '{name}'",
                )
            )
    if not chosen and not problems:
        reasons = ", ".join(sorted(set(left_out.values()))) or "the checkpoint is empty"
        problems.append(
            Problem(
                source.where,
                f"no tensor is left to prune ({reasons})",
                "choose tensors with --include 'GLOB'",
            )
        )
    others = {alias for names in aliases.values() for alias in names}
    kept = tuple(info for name, info in chosen.items() if name not in others)
    return Selection(kept, left_out, aliases, groups), problems


def reason_to_leave_out(info: TensorInfo) -> str:
    """Why a tensor is not pruned where nothing is asked for by name; empty if it is."""
    return _reason(info, (), ())


def _reason(info: TensorInfo, include: tuple[str, ...], exclude: tuple[str, ...]) -> str:
    """Why a tensor is not pruned; empty if it is. What is included by name needs no other reason."""
    for glob in exclude:
        if fnmatchcase(info.name, glob):
            return f"excluded by {glob}"
    if info.dtype not in FLOATS:
        return f"{info.dtype} is not a weight"
    if include:
        return "" if any(fnmatchcase(info.name, glob) for glob in include) else "not included"
    if len(info.shape) < 2:
        return f"{len(info.shape)} dimension{'' if len(info.shape) == 1 else 's'}"
    if info.module in _LEFT_OUT_MODULES:
        return _LEFT_OUT_MODULES[info.module]
    for reason, globs in _LEFT_OUT.items():
        if any(fnmatchcase(info.name, glob) for glob in globs):
            return reason
    return ""


def tied_groups(source: TensorSource, compared: Container[str]) -> tuple[tuple[str, ...], ...]:
    """Tensors that are one: by shared storage, or known duplicates that are equal in content.

    Content is compared only for what is ``compared``, because that reads the tensors.
    """
    storages = defaultdict(list)
    for name, info in source.infos.items():
        if info.storage is not None and info.numel:
            storages[info.storage, info.shape, info.dtype].append(name)
    groups = [tuple(names) for names in storages.values() if len(names) > 1]
    grouped = {name for names in groups for name in names}
    for pair in _known_duplicates(source.infos):
        if not grouped & set(pair) and any(name in compared for name in pair) and _equal(source, *pair):
            groups.append(pair)
    return tuple(sorted(groups))


def _known_duplicates(infos: Mapping[str, TensorInfo]) -> Iterable[tuple[str, str]]:
    """``lm_head`` and the word embedding, the pair that checkpoints store twice when tied."""
    embeddings = [
        n
        for n in infos
        if fnmatchcase(n, "*word_embeddings.weight") or n.endswith(("embed_tokens.weight", "wte.weight"))
    ]
    heads = [n for n in infos if n.endswith("lm_head.weight")]
    for embedding in embeddings:
        for head in heads:
            one, other = infos[embedding], infos[head]
            if one.shape == other.shape and one.dtype == other.dtype and one.numel:
                yield tuple(sorted((embedding, head)))  # type: ignore[misc]


def _equal(source: TensorSource, one: str, other: str) -> bool:
    return _content(source, one) == _content(source, other)


def _content(source: TensorSource, name: str) -> bytes:
    info, digest = source.infos[name], hashlib.sha256()
    size = ITEMSIZE[info.dtype]
    buffer = np.empty(1 << 20, np.uint8)
    for start in range(0, info.nbytes, len(buffer)):
        piece = buffer[: min(len(buffer), info.nbytes - start)]
        source.read(name, start // size, piece)
        digest.update(piece.data)
    return digest.digest()


def unmatched(where: str, what: str, glob: str, names: Iterable[str]) -> Problem:
    """A glob that matches nothing, with the name that was probably meant."""
    names = list(names)
    parts = {part for name in names for part in name.split(".")}
    core = glob.strip("*").strip(".")
    close = get_close_matches(core, [*parts, *names], n=1, cutoff=0.5) if core else []
    meant = f"did you mean '*{close[0]}*'?" if close else "list the names with `wafersparse inspect`"
    return Problem(where, f"{what} matches no tensor", meant)
