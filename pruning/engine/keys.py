"""Weights as unsigned integers in the order of their scores: what the kernels compare.

For magnitude (and l2, which orders single weights alike) the bit pattern without its sign is
the key, and nothing is computed at all. Tensors of different dtypes that compete with each other
are widened, which is exact.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pruning.checkpoint.source import ITEMSIZE, TensorInfo, TensorSource
from pruning.engine.radix import Keys, count_above, random_keys
from pruning.engine.stream import Buffers
from pruning.importance import evaluate, random_stream
from pruning.planning.spec import MaskSpec
from pruning.problems import fail

UNSIGNED: dict[int, type[np.unsignedinteger[Any]]] = {2: np.uint16, 4: np.uint32, 8: np.uint64}
INFINITY = {"F16": 0x7C00, "BF16": 0x7F80, "F32": 0x7F800000, "F64": 0x7FF0000000000000}  # bits without sign


class KeyReader(ABC):
    """Keys of one pool of tensors. All have one width, so that they compare."""

    bytes_per_key: int
    mask: int  # bits of a key that count
    not_finite: int  # keys from here on are infinities and NaN; 1 << 64 where load finds them itself
    hint = "mend the checkpoint; if the NaN mark weights that were pruned, use --nan-as-pruned"

    def __init__(self, source: TensorSource) -> None:
        self.source = source

    @abstractmethod
    def load(self, name: str, start: int, count: int, buffers: Buffers) -> Keys:
        """Keys of ``count`` elements from flat index ``start``, in a buffer that the next call reuses."""

    @property
    def dtype(self) -> type[np.unsignedinteger[Any]]:
        return UNSIGNED[self.bytes_per_key]

    def _raw(self, name: str, start: int, count: int, buffers: Buffers) -> NDArray[np.uint8]:
        raw = buffers.get("raw", count * ITEMSIZE[self.source.infos[name].dtype])
        self.source.read(name, start, raw)
        return raw


class MagnitudeKeys(KeyReader):
    def __init__(self, source: TensorSource, infos: Sequence[TensorInfo], nan_as_pruned: bool) -> None:
        super().__init__(source)
        dtypes = {info.dtype for info in infos}
        self._dtype = dtypes.pop() if len(dtypes) == 1 else "F64" if "F64" in dtypes else "F32"
        self._nan_as_pruned = nan_as_pruned
        self.bytes_per_key = ITEMSIZE[self._dtype]
        self.mask = (1 << (8 * self.bytes_per_key - 1)) - 1
        self.not_finite = 1 << 64 if nan_as_pruned else INFINITY[self._dtype]

    def load(self, name: str, start: int, count: int, buffers: Buffers) -> Keys:
        raw = self._raw(name, start, count, buffers)
        dtype = self.source.infos[name].dtype
        if dtype != self._dtype:
            raw = _widen(raw, dtype, self._dtype)
        keys: Keys = raw.view(self.dtype)
        if self._nan_as_pruned:  # NaN becomes 0 and all else moves up by one
            keys = keys & self.dtype(self.mask)
            infinity = self.dtype(INFINITY[self._dtype])
            if (keys == infinity).any():
                raise fail(f"{self.source.where}: {name}", "it holds infinite values", "mend the checkpoint")
            keys = np.where(keys > infinity, self.dtype(0), keys + self.dtype(1))
        return keys


class RandomKeys(KeyReader):
    """Keyed by seed and name. The weights are read all the same: they must be finite."""

    bytes_per_key, mask, not_finite = 4, 0x7FFFFFFF, 1 << 64

    def __init__(self, source: TensorSource, seed: int, nan_as_pruned: bool) -> None:
        super().__init__(source)
        self._seed, self._nan_as_pruned = seed, nan_as_pruned

    def load(self, name: str, start: int, count: int, buffers: Buffers) -> Keys:
        raw = self._raw(name, start, count, buffers)
        dtype = self.source.infos[name].dtype
        unsigned = UNSIGNED[ITEMSIZE[dtype]]
        infinity = unsigned(INFINITY[dtype])
        sign = unsigned((1 << (8 * unsigned().nbytes - 1)) - 1)
        keys = buffers.get("keys", count * 4).view(np.uint32)
        random_keys(np.uint64(random_stream(self._seed, name)), start, keys)
        if count_above(raw.view(unsigned), sign, infinity - unsigned(1)):
            bad = (raw.view(unsigned) & infinity) == infinity
            if not self._nan_as_pruned or not np.isnan(as_floats(raw, dtype)[bad]).all():
                raise fail(
                    f"{self.source.where}: {name}",
                    f"{int(bad.sum())} or more values are NaN or infinite",
                    self.hint,
                )
            keys[bad] = 0
        return keys


class ScoreKeys(KeyReader):
    """Any registered score: computed for a whole tensor at a time, kept for the one or two in use."""

    bytes_per_key, mask, not_finite = 8, (1 << 64) - 1, 1 << 64

    def __init__(self, source: TensorSource, spec: MaskSpec) -> None:
        super().__init__(source)
        self._spec, self._lock = spec, Lock()
        self._recent: dict[str, Keys] = {}
        self._seen: dict[str, tuple[int, int]] = {}  # what a score gave at first: it is asked for every read

    def load(self, name: str, start: int, count: int, buffers: Buffers) -> Keys:
        with self._lock:
            if name not in self._recent:
                while len(self._recent) > 1:
                    del self._recent[next(iter(self._recent))]
                keys = self._recent[name] = _sortable(scores_of(self.source, name, self._spec))
                found = (
                    int(keys.sum()),
                    int(np.bitwise_xor.reduce(keys * np.arange(1, len(keys) + 1, dtype=np.uint64))),
                )
                if self._seen.setdefault(name, found) != found:
                    raise fail(
                        f"{self.source.where}: {name}",
                        f"score {self._spec.score!r} gave other values when it was asked again",
                        "make it a function of the weight, the name and the seed alone",
                    )
            return self._recent[name][start : start + count]


def key_reader(source: TensorSource, infos: Sequence[TensorInfo], spec: MaskSpec) -> KeyReader:
    if spec.score in ("magnitude", "l2"):
        return MagnitudeKeys(source, infos, spec.nan_as_pruned)
    if spec.score == "random":
        return RandomKeys(source, spec.seed, spec.nan_as_pruned)
    return ScoreKeys(source, spec)


def scores_of(source: TensorSource, name: str, spec: MaskSpec) -> NDArray[np.float64]:
    """A registered score over a whole tensor, flat; weights and scores must be finite."""
    import torch

    info = source.infos[name]
    weight = as_floats(source.array(name), info.dtype)
    where = f"{source.where}: {name}"
    if not np.isfinite(weight).all():
        raise fail(where, f"{int((~np.isfinite(weight)).sum())} values are NaN or infinite", KeyReader.hint)
    tensor = torch.from_numpy(weight).view(info.shape)
    try:
        score = evaluate(spec.score, tensor, source.context(name) | {"name": name, "seed": spec.seed}, where)
    except ValueError as error:
        raise fail(
            where, str(error).removeprefix(f"{where}: "), "mend the score, or choose another"
        ) from error
    flat = score.detach().double().flatten().numpy()
    if not np.isfinite(flat).all():
        raise fail(where, f"score {spec.score!r} is NaN or infinite for some weights", "mend the score")
    return flat


def as_floats(raw: NDArray[np.uint8], dtype: str) -> NDArray[np.floating[Any]]:
    """Values of raw bytes; numpy has no bfloat16, so that becomes float32."""
    if dtype == "BF16":
        return (raw.view(np.uint16).astype(np.uint32) << np.uint32(16)).view(np.float32)
    return raw.view({"F16": np.float16, "F32": np.float32, "F64": np.float64}[dtype])


def _widen(raw: NDArray[np.uint8], dtype: str, wide: str) -> NDArray[np.uint8]:
    target = {"F32": np.float32, "F64": np.float64}[wide]
    return as_floats(raw, dtype).astype(target).view(np.uint8)


def _sortable(scores: NDArray[np.float64]) -> Keys:
    """The order of signed floats as that of unsigned integers; -0.0 is 0."""
    bits = (scores + 0.0).view(np.uint64)
    negative = bits >> np.uint64(63) == 1
    return np.where(negative, ~bits, bits | np.uint64(1 << 63))
