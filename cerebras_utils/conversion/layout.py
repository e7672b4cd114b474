"""How tensors of one layout are made from those of another: copied, transposed, stacked, rows reordered.

A rule works on elements of any dtype, so weights, masks and LoRA factors are moved by the same rule.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pruning.checkpoint.source import ITEMSIZE, Bytes, TensorInfo, TensorSource, listing_digest

Array = NDArray[np.generic]
Build = Callable[..., Array]


@dataclass(frozen=True)
class Rule:
    """``build`` makes one tensor of the tensors ``inputs``; None copies the only one, in pieces."""

    inputs: tuple[str, ...]
    shape: tuple[int, ...]
    build: Build | None = None


def transposed(array: Array) -> Array:
    return array.T


def stacked(*arrays: Array) -> Array:
    return np.concatenate(arrays)


def stacked_transposed(*arrays: Array) -> Array:
    return np.concatenate(arrays).T


def zeros(size: int) -> Build:
    return lambda array: np.zeros(size, array.dtype)


def rows(start: int, stop: int, *, turned: bool) -> Callable[[Array], Array]:
    """Some rows; ``turned``: of the transpose."""
    return lambda array: (array.T if turned else array)[start:stop]


def halves_from_pairs(heads: int) -> Callable[[Array], Array]:
    """Rows of q or k: from rotated pairs side by side (Cerebras) to two halves of a head (HuggingFace)."""
    return lambda array: array.reshape(heads, -1, 2, *array.shape[1:]).swapaxes(1, 2).reshape(array.shape)


def pairs_from_halves(heads: int) -> Callable[[Array], Array]:
    return lambda array: array.reshape(heads, 2, -1, *array.shape[1:]).swapaxes(1, 2).reshape(array.shape)


class RearrangedSource(TensorSource):
    """The tensors that ``rules`` make of those of ``source``. Holds one of them at a time, but for copies."""

    kind = "rearranged"

    def __init__(self, source: TensorSource, rules: Mapping[str, Rule]) -> None:
        dtype = {name: source.infos[rule.inputs[0]].dtype for name, rule in rules.items()}
        super().__init__(
            source.where, {name: TensorInfo(name, rule.shape, dtype[name]) for name, rule in rules.items()}
        )
        self._source, self._rules = source, dict(rules)
        self._latest: tuple[str, Bytes] | None = None

    def read(self, name: str, start: int, out: Bytes) -> None:
        rule = self._rules[name]
        if rule.build is None:
            self._source.read(rule.inputs[0], start, out)
            return
        if self._latest is None or self._latest[0] != name:
            self._latest = None  # frees the last before the next is made
            self._latest = (name, self._built(rule))
        first = start * ITEMSIZE[self.infos[name].dtype]
        out[:] = self._latest[1][first : first + len(out)]

    def _built(self, rule: Rule) -> Bytes:
        assert rule.build is not None
        arrays = []
        for name in rule.inputs:
            info = self._source.infos[name]
            elements = self._source.array(name).view(f"V{ITEMSIZE[info.dtype]}")
            arrays.append(elements.reshape(info.shape))
        made = np.ascontiguousarray(rule.build(*arrays))
        assert made.shape == rule.shape, (rule.inputs, made.shape, rule.shape)
        return made.reshape(-1).view(np.uint8)

    def quantum(self, name: str) -> int:
        rule = self._rules[name]
        return self._source.quantum(rule.inputs[0]) if rule.build is None else 1

    def fingerprint(self) -> str:
        digest = listing_digest(self.infos)
        digest.update(self._source.fingerprint().encode())
        return digest.hexdigest()
