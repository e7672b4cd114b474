"""A table of named plug-ins. Registering twice, or asking for an unknown name, is an error."""

from collections.abc import Callable, Iterator
from difflib import get_close_matches
from typing import Generic, TypeVar

T = TypeVar("T")


class Registry(Generic[T]):
    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._table: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        def add(plugin: T) -> T:
            if name in self._table:
                raise ValueError(f"{self._kind} {name!r} is registered twice")
            self._table[name] = plugin
            return plugin

        return add

    def unregister(self, name: str) -> None:
        """Take a name out again: for notebooks that re-run a cell, and for tests."""
        self[name]
        del self._table[name]

    def __contains__(self, name: str) -> bool:
        return name in self._table

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._table))

    def __getitem__(self, name: str) -> T:
        if name in self._table:
            return self._table[name]
        raise LookupError(
            f"Unknown {self._kind} {name!r}.{suggest(name, self._table)} Known: {', '.join(self)}."
        )


def suggest(name: str, known: "dict[str, T] | list[str]") -> str:
    """The end of an error message: the known name that was probably meant, or nothing."""
    close = get_close_matches(name, list(known), n=1)
    return f" Did you mean {close[0]!r}?" if close else ""
