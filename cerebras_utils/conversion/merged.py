"""``MergedSource``: a base and its LoRA factors read as one checkpoint, row by row.

The update is computed in the rows that are asked for (``pruning.lora.merge``), and rounded once to the dtype
of the base. No product of a whole layer is ever held.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from cerebras_utils.conversion.factors import FACTORS, Factors
from cerebras_utils.conversion.masks import Masks
from cerebras_utils.conversion.tensors import TORCH_DTYPES, tensor_of
from pruning.checkpoint.source import ITEMSIZE, Bytes, TensorInfo, TensorSource, listing_digest
from pruning.lora.merge import MergeCost, merge_rows, sides

Told = Callable[[str, MergeCost, int], None]  # a weight, what became of a piece of it, and what was hidden


class MergedSource(TensorSource):
    """The tensors of the base, zero under the masks, with the update in them.

    ``told`` hears of every piece of a masked or merged weight that is read, and how many values of it
    were not zero under the mask. A tensor is read once, in whole rows where it has factors (``quantum``).
    """

    kind = "merged"

    def __init__(
        self,
        base: TensorSource,
        adapter: TensorSource,
        factors: Mapping[str, Factors],
        *,
        masks: Masks,
        keep: bool,
        told: Told,
    ) -> None:
        infos = {n: i for n, i in base.infos.items() if not n.endswith((*FACTORS, "_mask"))}
        super().__init__(base.where, {n: TensorInfo(n, i.shape, i.dtype) for n, i in infos.items()})
        self._base, self._adapter, self._factors = base, adapter, dict(factors)
        self._masks, self._keep, self._told = masks, keep, told
        self._latest: tuple[str, Tensor, Tensor] | None = None  # the sides of the weight that was read last

    def read(self, name: str, start: int, out: Bytes) -> None:
        self._base.read(name, start, out)
        itemsize = ITEMSIZE[self.infos[name].dtype]
        stop = start + len(out) // itemsize
        mask = self._masks.read(name, start, stop)
        if name not in self._factors and mask is None:
            return
        values = torch.from_numpy(out).view(TORCH_DTYPES[self.infos[name].dtype])
        hidden = 0
        if mask is not None:
            hidden = int(torch.count_nonzero((values != 0) & ~mask))
            values.masked_fill_(~mask, 0)
        if name in self._factors:
            merged, cost = self._merge(name, start, values, mask)
            values.copy_(merged.view(-1))
        else:
            zeros = values.numel() - int(torch.count_nonzero(values))
            cost = MergeCost(numel=values.numel(), zeros_before=zeros, zeros_after=zeros)
        self._told(name, cost, hidden)

    def _merge(self, name: str, start: int, values: Tensor, mask: Tensor | None) -> tuple[Tensor, MergeCost]:
        width = self.infos[name].shape[1]
        assert start % width == 0 == len(values) % width, "whole rows"
        rows = values.view(-1, width)
        left, right = self._sides(name)
        first = start // width
        pair = self._factors[name]
        if mask is None and self._keep:
            mask = values != 0  # the zeros of the base itself
        return merge_rows(
            rows,
            left[first : first + len(rows)],
            right,
            scaling=pair.scaling,
            trained=pair.trained,
            mask=None if mask is None else mask.view(-1, width),
            keep_sparsity=self._keep,
            where=f"{self.where}: {name}",
        )

    def _sides(self, name: str) -> tuple[Tensor, Tensor]:
        if self._latest is None or self._latest[0] != name:
            pair = self._factors[name]
            wide = torch.float64 if self.infos[name].dtype == "F64" else torch.float32
            a, b = (tensor_of(self._adapter, n).to(wide) for n in (pair.a, pair.b))
            left, right = sides(self.infos[name].shape, a, b, self.where, embedding=pair.embedding)
            self._latest = (name, left, right)
        return self._latest[1:]

    def quantum(self, name: str) -> int:
        """Whole rows: a row of the product is computed once."""
        quantum = self._base.quantum(name)
        if name not in self._factors:
            return quantum
        width = self.infos[name].shape[1]
        return width * max(1, quantum // width)

    def fingerprint(self) -> str:
        digest = listing_digest(self.infos)
        digest.update((self._base.fingerprint() + self._adapter.fingerprint()).encode())
        return digest.hexdigest()
