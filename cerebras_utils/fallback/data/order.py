"""Which samples make which batch: ModelZoo's order, as a function of one number.

The stream of samples is one epoch after another, each with an order of its own. The position in it is the
number of samples that were given out since the beginning, which is what ModelZoo keeps in a checkpoint; the
epoch, the order and the samples left over from an epoch all follow from it. So resuming costs nothing, and
a resumed run cannot see other batches than an uninterrupted one.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Order:
    samples: int  # that the data hold
    batch_size: int
    shuffle: bool = False
    seed: int = 0
    drop_last: bool = True
    num_samples: int | None = None  # of an epoch, where that is not all samples once

    def __post_init__(self) -> None:
        assert self.samples > 0
        assert self.batch_size <= self.length or not self.drop_last

    @property
    def length(self) -> int:
        """Samples of an epoch."""
        return self.samples if self.num_samples is None else self.num_samples

    def remaining(self, position: int = 0) -> int:
        """Batches from ``position`` to the end of its pass over the data.

        With ``drop_last`` nothing is dropped: what does not fill a batch at the end of an epoch begins the
        next one, whose pass is then longer. Without it, a pass ends with a smaller batch.
        """
        left = self.length - position % self.length
        if not self.drop_last:
            return math.ceil(left / self.batch_size)
        return (left if left >= self.batch_size else left + self.length) // self.batch_size

    def end_of_pass(self, position: int) -> int:
        if self.drop_last:
            return position + self.remaining(position) * self.batch_size
        return position - position % self.length + self.length

    def after(self, position: int) -> int:
        """The position when the batch at ``position`` was given out."""
        if self.drop_last:
            return position + self.batch_size
        return min(position + self.batch_size, position - position % self.length + self.length)

    def batches(self, position: int = 0) -> Iterator[list[int]]:
        """The samples of each remaining batch of the pass at ``position``."""
        epoch = position // self.length
        first = epoch * self.length  # the position that ``order`` begins at
        order = self.shuffled(epoch) if self.shuffle else None
        for _ in range(self.remaining(position)):
            end = self.after(position)
            if order is None:
                yield [i % self.length % self.samples for i in range(position, end)]
            else:
                batch = order[position - first : end - first]
                if end > first + self.length:
                    epoch, first = epoch + 1, first + self.length
                    order = self.shuffled(epoch)
                    batch = torch.cat([batch, order[: end - first]])
                yield batch.tolist()
            position = end

    def shuffled(self, epoch: int) -> Tensor:
        """The samples of one epoch, in its order."""
        if self.length < self.batch_size:
            epoch += 1  # ModelZoo's batch sampler has then used up an epoch before its first batch
        rng = torch.Generator().manual_seed(self.seed + epoch)
        order = torch.randperm(self.samples, generator=rng)
        if self.length <= self.samples:
            return order[: self.length]
        whole = math.ceil(self.length / self.samples) - 1
        order = torch.cat([torch.arange(self.samples).repeat(whole), order])[: self.length]
        return order[torch.randperm(self.length, generator=rng)]
