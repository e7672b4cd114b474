"""``MergedSource``: a base and its LoRA factors read as one checkpoint, row by row.

The update is computed in the rows that are asked for, in float32 (float64 for a float64 base), and rounded
once to the dtype of the base. No product of a whole layer is ever held.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from cerebras_utils.conversion.factors import A, B, Factors
from pruning.checkpoint.source import ITEMSIZE, Bytes, TensorInfo, TensorSource, listing_digest

TORCH_DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}

Mask = Callable[[str, int, int], Tensor | None]  # of a weight, flat elements [start, stop): True = keep


@dataclass(frozen=True)
class Piece:
    """What became of some elements of one weight."""

    before: Tensor  # as the base has them, under the mask where there is one
    after: Tensor
    update: Tensor  # unmasked
    mask: Tensor | None
    hidden: int  # weights of the base that were not zero under the mask


class MergedSource(TensorSource):
    """The tensors of the base. ``told`` hears of every piece of a merged weight that is read."""

    kind = "merged"

    def __init__(
        self,
        base: TensorSource,
        adapter: TensorSource,
        factors: Mapping[str, Factors],
        *,
        mask: Mask,
        keep: bool,
        told: Callable[[str, Piece], None],
    ) -> None:
        infos = {n: i for n, i in base.infos.items() if not n.endswith((A, B, "_mask"))}
        super().__init__(base.where, {n: TensorInfo(n, i.shape, i.dtype) for n, i in infos.items()})
        self._base, self._adapter, self._factors = base, adapter, dict(factors)
        self._mask, self._keep, self._told = mask, keep, told
        self._latest: tuple[str, Tensor, Tensor] | None = None  # the factors of the last weight that was read

    def read(self, name: str, start: int, out: Bytes) -> None:
        self._base.read(name, start, out)
        itemsize = ITEMSIZE[self.infos[name].dtype]
        stop = start + len(out) // itemsize
        mask = self._mask(name, start, stop)
        if name not in self._factors and mask is None:
            return
        values = torch.from_numpy(out).view(TORCH_DTYPES[self.infos[name].dtype])
        hidden = 0
        if mask is not None:
            hidden = int(torch.count_nonzero((values != 0) & ~mask))
            values.masked_fill_(~mask, 0)
        before = values.clone()
        update = torch.zeros(len(values))
        if name in self._factors:
            update = self._update(name, start, stop)
            kept = update
            if self._keep:
                kept = update * (before != 0 if mask is None else mask)
            values.copy_(before.to(update.dtype) + kept)
        self._told(name, Piece(before, values, update, mask, hidden))

    def _update(self, name: str, start: int, stop: int) -> Tensor:
        width = self.infos[name].shape[1]
        first, last = start // width, -(-stop // width)
        a, b = self._both(name)
        rows = (a[:, first:last].T @ b.T) if self._factors[name].transposed else (b[first:last] @ a)
        flat = (rows * self._factors[name].scaling).reshape(-1)
        return flat[start - first * width : stop - first * width]

    def _both(self, name: str) -> tuple[Tensor, Tensor]:
        if self._latest is None or self._latest[0] != name:
            pair = self._factors[name]
            wide = torch.float64 if self.infos[name].dtype == "F64" else torch.float32
            a, b = (tensor_of(self._adapter, n).to(wide) for n in (pair.a, pair.b))
            self._latest = (name, a, b)
        return self._latest[1:]

    def quantum(self, name: str) -> int:
        """Whole rows: a row of the product is computed once."""
        rows = self.infos[name].shape[1] if name in self._factors else 1
        return max(rows, self._base.quantum(name))

    def fingerprint(self) -> str:
        digest = listing_digest(self.infos)
        digest.update((self._base.fingerprint() + self._adapter.fingerprint()).encode())
        return digest.hexdigest()


def tensor_of(source: TensorSource, name: str) -> Tensor:
    info = source.infos[name]
    return torch.from_numpy(source.array(name)).view(TORCH_DTYPES[info.dtype]).reshape(info.shape)
