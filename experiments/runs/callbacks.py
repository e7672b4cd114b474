"""The callbacks of a trainer's config, by the names that cszoo compares: in any case, each one once."""

from collections.abc import Iterator, Mapping
from typing import Any

MASKS, LORA, SPARSE_LORA = "SparseMaskCallback", "Lora", "SparseLora"
_STATES, _STATES_CALLBACK = "--load_checkpoint_states", "LoadCheckpointStates"
_SPELLED = {name.lower(): name for name in (MASKS, LORA, SPARSE_LORA)}


def callbacks_of(init: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Arguments by name: what this project reads in the spelling above, others as they are written."""
    return dict(_named(init.get("callbacks")))


def masks_apply_once(init: Mapping[str, Any]) -> bool:
    """Sparse to dense: the masks shape the start alone, and zeros that come back are what was asked for."""
    return callbacks_of(init).get(MASKS, {}).get("apply_every_step") is False


def with_states(trainer: dict[str, Any], words: Any) -> dict[str, Any]:
    """With ``--load_checkpoint_states`` of a command as the callback that cszoo makes of it.

    Plain PyTorch runs the config as it is written: of what it was told, the command alone tells.
    """
    given = [part for word in (words if isinstance(words, list) else []) for part in str(word).split("=", 1)]
    init = trainer.get("init")
    if _STATES not in given[:-1] or not isinstance(init, Mapping):
        return trainer
    entries = init.get("callbacks") or []
    if not isinstance(entries, list):
        return trainer
    others = [one for one in entries if not (isinstance(one, Mapping) and _STATES_CALLBACK in one)]
    entry = {_STATES_CALLBACK: {"load_checkpoint_states": given[given.index(_STATES) + 1]}}
    return {**trainer, "init": {**init, "callbacks": [*others, entry]}}


def _named(entries: Any) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for entry in entries if isinstance(entries, list) else []:
        for name, given in entry.items() if isinstance(entry, Mapping) else ():
            yield spelled(str(name)), given if isinstance(given, Mapping) else {}


def spelled(name: str) -> str:
    return _SPELLED.get(name.lower(), name)
