"""What the config points at: there, readable, absolute, and where the cluster can see it."""

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cerebras_utils.checks.case import MASKS, Case
from cerebras_utils.checks.registry import Doubt, Finding, NotMade, check
from cerebras_utils.trainer_keys import DATALOADERS
from pruning.problems import Problem
from pruning.registry import suggest

_PATH_KEY = re.compile(r"(^|.*_)(dirs?|paths?|files?)")
_REMOTE = re.compile(r"[a-z0-9]+://", re.IGNORECASE)


@dataclass(frozen=True)
class Use:
    where: str
    path: str
    by_workers: bool  # read on the cluster, by those who load the data; else only where cszoo is started


def uses(case: Case) -> Iterator[Use]:
    """Every local path that the config reads from."""
    for key, loader in case.loaders():
        for inner, path in _paths(loader, key):
            yield Use(case.where(inner), path, by_workers=True)
    masks = case.callback(MASKS)
    if masks and isinstance(file := masks.arguments.get("mask_path"), str) and file:
        yield Use(case.where(f"{masks.key}.mask_path"), file, by_workers=False)
    for stage, written in case.stages():
        key = DATALOADERS[stage][1]
        value = written.get(key)
        for start in value if isinstance(value, list) else [value]:
            if isinstance(start, str) and start and not _REMOTE.match(start) and "*" not in start:
                yield Use(case.where(f"{stage}.{key}"), start, by_workers=False)
    for key in ("mount_dirs", "python_paths"):
        for index, entry in enumerate(_listed(case.cluster.get(key))):
            folder = entry.get("path") if isinstance(entry, Mapping) else entry
            if isinstance(folder, str) and folder:
                here = f"init.backend.cluster_config.{key}[{index}]"
                yield Use(case.where(here), folder, by_workers=True)


@check("paths")
def exist(case: Case) -> Iterator[Finding]:
    """Data, masks, checkpoints, mounts and Python paths that are not there."""
    for use in _each(case):
        if _closed(use.path):
            continue  # whether it is there cannot be seen: `readable` says why
        if not os.path.lexists(use.path):
            fix = "correct the path" + (", and write it absolute" * (case.device == "CSX" and _relative(use)))
            yield Problem(use.where, f"{use.path} does not exist{_nearest(use.path)}", fix)
        elif not os.path.exists(use.path):
            yield Problem(use.where, f"{use.path} is a link to nothing", "mend the link")


@check("paths")
def readable(case: Case) -> Iterator[Finding]:
    """Files and directories that this user may not read."""
    for use in _each(case):
        if closed := _closed(use.path):
            what = f"{use.path} cannot be looked at: {closed} may not be entered by this user"
            yield Problem(use.where, what, f"allow it, or copy the file out of {closed}")
        elif os.path.exists(use.path):
            mode = os.R_OK | os.X_OK if os.path.isdir(use.path) else os.R_OK
            if not os.access(use.path, mode):
                yield Problem(use.where, f"{use.path} may not be read by this user", "allow reading it")


@check("paths")
def absolute(case: Case) -> Iterator[Finding]:
    """Relative paths in a run on the CS-3: workers on the cluster start in another directory."""
    if case.device != "CSX":
        raise NotMade(f"the run is on a {case.device}, in this directory: relative paths are right")
    for use in _each(case):
        if _relative(use) and os.path.lexists(use.path):
            kind, why = (
                (Problem, "workers on the cluster do not start in this directory")
                if use.by_workers
                else (Doubt, "it is right only where cszoo is started in this directory")
            )
            yield kind(use.where, f"{use.path} is relative: {why}", f"write {os.path.abspath(use.path)}")


@check("paths")
def mounted(case: Case) -> Iterator[Finding]:
    """Data outside of the mounts that `cluster_config.mount_dirs` names."""
    if case.device != "CSX":
        raise NotMade(f"the run is on a {case.device}: nothing is mounted")
    mounts = [
        path
        for entry in _listed(case.cluster.get("mount_dirs"))
        if isinstance(path := entry.get("path") if isinstance(entry, Mapping) else entry, str)
    ]
    if not mounts:
        raise NotMade("the config names no mount_dirs: which volumes the cluster mounts is not known here")
    roots = [os.path.realpath(mount) for mount in mounts]
    for key, loader in case.loaders():
        for inner, path in _paths(loader, key):
            real = os.path.realpath(path)
            if not any(os.path.commonpath([real, root]) == root for root in roots):
                what = f"{path} is outside of mount_dirs ({', '.join(mounts)})"
                if real != os.path.abspath(path):
                    what += f": it leads to {real}"
                fix = f"add {os.path.dirname(real)} to trainer.init.backend.cluster_config.mount_dirs"
                yield Problem(case.where(inner), what, fix)


@check("paths")
def model_dir(case: Case) -> Iterator[Finding]:
    """A directory for the results that cannot be written, or one whose checkpoints would be resumed from."""
    written = case.init.get("model_dir", "./model_dir")
    if not isinstance(written, str) or not written:
        raise NotMade("model_dir is no path: see config.keys")
    where, folder = case.where("init.model_dir"), Path(written)
    near = nearest(folder)
    if not os.path.isdir(near):
        yield Problem(where, f"{near} is a file, not a directory", "choose another model_dir")
    elif not os.access(near, os.W_OK | os.X_OK):
        yield Problem(where, f"{near} may not be written by this user", "choose another model_dir")
    options = case.init.get("checkpoint")
    autoload = not isinstance(options, Mapping) or options.get("autoload_last_checkpoint", True)
    named = any(isinstance(s.get("ckpt_path"), str) for name, s in case.stages() if name == "fit")
    left = sorted(folder.glob("checkpoint_*.mdl")) if os.path.isdir(folder) else []
    if left and autoload and not named:
        what = f"{folder} holds {len(left)} checkpoint{'s'[: len(left) > 1]}: the run goes on from the last"
        fix = "choose another model_dir for a new run, or set checkpoint.autoload_last_checkpoint: false"
        yield Doubt(where, what, fix)


def nearest(path: Path) -> Path:
    """The path, or the nearest directory above it that is there."""
    path = path.absolute()
    return next((p for p in (path, *path.parents) if os.path.lexists(p)), Path("/"))


def _closed(path: str) -> Path | None:
    """The directory on the way to what is not seen that this user may not enter."""
    near = nearest(Path(path))
    hidden = not os.path.lexists(path) and os.path.isdir(near) and not os.access(near, os.X_OK)
    return near if hidden else None


def _relative(use: Use) -> bool:
    return not os.path.isabs(use.path)


def _each(case: Case) -> list[Use]:
    found = list(uses(case))
    if not found:
        raise NotMade("the config names no paths")
    return found


def _paths(value: Any, key: str) -> Iterator[tuple[str, str]]:
    """Below a data loader: texts of keys such as ``data_dir``, ``vocab_file``; and lists of them."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            here = f"{key}.{name}"
            if isinstance(name, str) and _PATH_KEY.fullmatch(name):
                for index, path in enumerate(_listed(inner)):
                    if isinstance(path, str) and path and not _REMOTE.match(path):
                        yield (f"{here}[{index}]" if isinstance(inner, list) else here), path
            else:
                yield from _paths(inner, here)
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _paths(inner, f"{key}[{index}]")


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def _nearest(path: str) -> str:
    """What is there instead: the last directory that exists, and a name like the next one."""
    near = nearest(Path(path))
    rest = Path(path).absolute().relative_to(near).parts
    if not os.path.isdir(near) or not rest:
        return f": {near} is a file"
    try:
        names = sorted(os.listdir(near))[:1000]
    except OSError:
        names = []
    return f": {near} has no {rest[0]!r}.{suggest(rest[0], names)}"
