"""The callbacks of a trainer's config, by the names that cszoo compares: in any case, each one once."""

from collections.abc import Iterator, Mapping
from typing import Any

MASKS, LORA, SPARSE_LORA = "SparseMaskCallback", "Lora", "SparseLora"
_SPELLED = {name.lower(): name for name in (MASKS, LORA, SPARSE_LORA)}


def callbacks_of(init: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Arguments by name: what this project reads in the spelling above, others as they are written."""
    return dict(_named(init.get("callbacks")))


def masks_apply_once(init: Mapping[str, Any]) -> bool:
    """Sparse to dense: the masks shape the start alone, and zeros that come back are what was asked for."""
    return callbacks_of(init).get(MASKS, {}).get("apply_every_step") is False


def _named(entries: Any) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for entry in entries if isinstance(entries, list) else []:
        for name, given in entry.items() if isinstance(entry, Mapping) else ():
            yield spelled(str(name)), given if isinstance(given, Mapping) else {}


def spelled(name: str) -> str:
    return _SPELLED.get(name.lower(), name)
