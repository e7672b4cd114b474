"""The processes of a run: the same steps as with one, each with its part of a batch.

``batch_size`` is that of all processes together, as on several CS-3s: each takes its equal part of every
batch, and gradients and losses are those of the whole batch, so that the number of processes changes
rounding and nothing else. (cerebras-pytorch 2.10 on GPUs gives every process the same whole batch.)
With ``num_tokens`` a process counts as much as it has tokens: a mean of means would not be the mean.
Dropout draws from a generator of each process, so with dropout the numbers depend on how many there are.
"""

import inspect
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from cerebras_utils.fallback.shards import whole
from pruning.problems import Problem, ProblemError

Batch = dict[str, Tensor]
T = TypeVar("T")


class Processes:
    """The processes of a run, as one of them sees them. By default there is one."""

    def __init__(self, rank: int = 0, world: int = 1, kind: str = "ddp") -> None:
        self.rank, self.world, self.kind = rank, world, kind
        self.agreed = False  # an error that all know of has been raised in all
        self._by_tokens = False  # the loss divides by the number of tokens that count
        self.share = 1.0  # of the latest batch: what this process's mean loss counts, times ``world``

    @property
    def first(self) -> bool:
        return self.rank == 0

    def __str__(self) -> str:
        """To be put behind the name of a device."""
        return "" if self.world == 1 else f", {self.world} processes with {self.kind.upper()}"

    # What all do, or none

    def together(self, work: Callable[[], T]) -> T:
        """What ``work`` returns here, when it has ended well in every process; else its error, in all."""
        if self.world == 1:
            return work()
        result, error = None, None
        try:
            result = work()
        except Exception as raised:
            error = raised
        self._agree(error)
        return result  # type: ignore[return-value]  # without an error, it is what ``work`` returned

    def by_first(self, work: Callable[[], T]) -> T:
        """Done by the first process alone; its result, or its error, for all."""
        result = self.together(lambda: work() if self.first else None)
        if self.world > 1:
            known = [result]
            dist.broadcast_object_list(known, src=0, device=torch.device("cpu"))
            (result,) = known
        return result  # type: ignore[return-value]

    def gather(self, value: T) -> list[T]:
        """The values of all processes, in their order, in each of them."""
        if self.world == 1:
            return [value]
        values: list[Any] = [None] * self.world
        dist.all_gather_object(values, value)
        return values

    def sums(self, numbers: Sequence[float]) -> list[float]:
        if self.world == 1:
            return list(numbers)
        total = torch.tensor(numbers, dtype=torch.float64)
        dist.all_reduce(total)
        values: list[float] = total.tolist()
        return values

    def any(self, asked: bool) -> bool:
        """Whether it is so in one of them."""
        return self.sums([asked])[0] > 0

    def _agree(self, error: Exception | None) -> None:
        known = self.gather(None if error is None else told(error))
        found = [(rank, what) for rank, what in enumerate(known) if what is not None]
        if not found:
            return
        self.agreed = True
        rank, (problems, text) = found[0]
        if error is not None and (self.first or rank == self.rank):
            raise error
        if problems:
            raise ProblemError(problems)
        raise RuntimeError(f"process {rank} of {self.world} ended with\n{text}")

    # Batches, and what they count

    def batches(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """The same batches; a process that cannot read its part ends all of them."""
        if self.world == 1:
            yield from batches
            return
        source = iter(batches)
        while True:
            batch, error = None, None
            try:
                batch = next(source, None)
            except Exception as raised:
                error = raised
            tokens = 0 if batch is None else int(batch["attention_mask"].sum())
            total, failed = self.sums([tokens, error is not None])
            if failed:
                self._agree(error)
            if batch is None:
                return
            self.share = tokens * self.world / total if self._by_tokens and total else 1.0
            yield batch

    def mean(self, loss: Tensor) -> Tensor:
        """The loss of the whole batch, from that of each part, which has been weighted already."""
        if self.world == 1:
            return loss
        return torch.tensor(self.sums([loss.item()])[0] / self.world)

    # The model

    def place(self, model: nn.Module, device: torch.device) -> None:
        """On the device; with FSDP shared out, under the same names. Before the optimizer is made.

        FSDP moves layer after layer, so that a model may be larger than the memory of one device.
        """
        if self.world == 1 or self.kind != "fsdp":
            model.to(device)
            return
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        mesh = init_device_mesh(device.type, (self.world,))
        for layer in model.get_submodule("model.transformer_decoder.layers").children():
            fully_shard(layer, mesh=mesh, reshard_after_forward=True)
        fully_shard(model, mesh=mesh, reshard_after_forward=True)

    def runner(self, model: Any, device: torch.device, *, trains: bool) -> "Runner":
        """What to call in the place of ``model``, whose parameters keep their names."""
        if self.world == 1:
            return Runner(model, self)
        self._by_tokens = model.options.loss_scaling == "num_tokens"
        if self.kind == "fsdp" or not trains:
            return Runner(model, self)
        indices = [device.index] if device.type == "cuda" else None
        ddp = nn.parallel.DistributedDataParallel
        known = inspect.signature(ddp).parameters  # no buffer of a model here ever changes
        once = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
        options: dict[str, Any] = {once: False}
        return Runner(ddp(model, device_ids=indices, **options), self)

    def whole(self, tree: Any) -> Any:
        """With FSDP: a tree with its parameters put together, in the first process. All have to call it."""
        return whole(tree, keep=self.first) if self.world > 1 and self.kind == "fsdp" else tree

    def one_seed(self) -> None:
        """Where a config has no seed: all processes take the one that the first has drawn."""
        if self.world > 1:
            torch.manual_seed(self.by_first(torch.initial_seed))

    def own_random_numbers(self, step: int = 0) -> None:
        """From here on each process draws its own, the first those that a single one would draw."""
        if not self.first:
            torch.manual_seed((torch.initial_seed() + 1_000_003 * step + self.rank) % 2**63)


class Runner:
    """A forward pass whose loss, averaged over the processes, is that of the whole batch."""

    def __init__(self, model: nn.Module, processes: Processes) -> None:
        self._model, self._processes = model, processes

    def __call__(self, batch: Batch) -> Any:
        share = self._processes.share
        if share == 1.0:
            return self._model(batch)
        if share == 0.0:  # nothing divided by nothing, which a weight of 0 would not hide: count one token
            counts = torch.zeros_like(batch["attention_mask"])
            counts[0, 0] = 1
            batch = {**batch, "attention_mask": counts}
        output = self._model(batch)
        return output._replace(loss=output.loss * share)

    def accumulating(self, more: bool) -> AbstractContextManager[None]:
        """While more micro-batches follow, DDP need not exchange gradients. FSDP does: it holds parts."""
        if more and isinstance(self._model, nn.parallel.DistributedDataParallel):
            held: AbstractContextManager[None] = self._model.no_sync()
            return held
        return nullcontext()


def told(error: Exception) -> tuple[tuple[Problem, ...], str]:
    """An error as what can travel: problems where it has them, and text."""
    if isinstance(error, ProblemError):
        return error.problems, ""
    return (), "".join(traceback.format_exception(error))
