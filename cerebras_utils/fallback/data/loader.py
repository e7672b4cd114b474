"""Batches in ModelZoo's order, from any position, read here or by worker processes."""

import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from cerebras_utils.fallback.data.checks import data_problems
from cerebras_utils.fallback.data.opening import make_order, open_reader
from cerebras_utils.fallback.data.order import Order
from cerebras_utils.fallback.data.readers import FEATURES, Reader
from cerebras_utils.fallback.data.settings import DataSettings, data_notes, read_settings
from pruning.problems import Problem, ProblemError, fail

__all__ = ["Batch", "Loader", "data_notes", "data_problems", "make_loader"]

Batch = dict[str, Tensor]
_STATE_VERSION = 1  # of ModelZoo's dataloader state
_FREE = ("batch_size", "use_worker_cache")  # may differ when a run is resumed


def make_loader(
    params: Mapping[str, Any], *, seed: int, where: str, rank: int = 0, world: int = 1
) -> "Loader":
    """A loader for a ``train_dataloader`` or ``val_dataloader`` section; raises all that is wrong with it.

    The order of the samples depends on ``shuffle_seed`` alone, as in ModelZoo; ``seed`` is for the random
    state of worker processes, which would else take a number from torch's global generator. With ``world``
    processes each gets its equal part of every batch, in the order of ``rank``.
    """
    settings, problems = read_settings(params, where)
    if settings is None:
        raise ProblemError(problems)
    reader, opened, found = open_reader(settings, where)
    order = None
    if reader is not None:
        order, more = make_order(settings, len(reader), where)
        found += more
    if problems or reader is None or order is None:
        for rows in opened:
            rows.close()
        raise ProblemError(problems + found)
    if order.batch_size % world or (not order.drop_last and order.length % order.batch_size % world):
        reader.close()
        fix = f"choose a batch_size that {world} divides, and drop_last: true"
        raise fail(f"{where}.batch_size", f"is {order.batch_size}: {world} processes cannot share it", fix)
    return Loader(settings, reader, order, _described(params), where=where, seed=seed, rank=rank, world=world)


class Loader:
    """Iterating gives the batches of one pass over the data, from where the last iteration stopped.

    A batch is a dict of int32 tensors (samples, sequence length). ``position`` counts the samples that were
    given out; a batch counts when it is handed over, however many were read ahead.
    """

    def __init__(
        self,
        settings: DataSettings,
        reader: Reader,
        order: Order,
        described: dict[str, Any],
        *,
        where: str,
        seed: int,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.order = order
        self.where = where
        self.position = 0
        self.began = 0  # where the latest iteration did
        self._goes_on = False  # the next iteration is the rest of one that began earlier
        self._iteration: object = None
        self._described = described
        self._reader = reader
        self._batches = _Batches(reader, rank, world)
        self._workers = _workers(self, settings, seed) if settings.num_workers else None

    @property
    def sequence_length(self) -> int:
        return self._reader.sequence_length

    @property
    def batch_size(self) -> int:
        return self.order.batch_size

    @property
    def remaining(self) -> int:
        """Batches that an iteration gives from here."""
        return self.order.remaining(self.position)

    def __len__(self) -> int:
        """Batches of the first epoch. Later ones have one more at times: see ``Order.remaining``."""
        return self.order.remaining(0)

    def __iter__(self) -> Iterator[Batch]:
        iteration = self._iteration = object()
        if not self._goes_on or self.position >= self.order.end_of_pass(self.began):
            self.began = self.position
        self._goes_on = False
        for batch in self._read():
            if iteration is not self._iteration:
                raise RuntimeError("this loader was moved, or iterated anew, while it was iterated")
            self.position = self.order.after(self.position)
            yield batch

    def rewind(self) -> None:
        """Back to where the latest iteration began, which is where ModelZoo on a CPU begins every part of
        the training that it does between two validations."""
        self._move(self.began)

    def go_on(self, began: int) -> None:
        """The next iteration is the rest of one that began there: ``rewind`` goes back to its beginning."""
        self.began, self._goes_on = began, True

    def restart(self) -> None:
        """Back to the first sample, which is where every validation begins."""
        self._move(0)

    def state_dict(self) -> dict[str, Any]:
        """What ModelZoo keeps of its loader in a checkpoint, so that either resumes from the other's."""
        return {
            "samples_streamed": self.position,
            "__version__": _STATE_VERSION,
            "dataset": dict(self._described),
            "samples": self.order.samples,  # ModelZoo does not look at it
        }

    def load_state_dict(self, state: Mapping[str, Any], *, strict: bool = True) -> None:
        """Go to the position of a checkpoint, where it was made with these data.

        ModelZoo 2.10 forgets ``num_samples`` when it resumes; here the order goes on.
        """
        where = f"{self.where}: the checkpoint's dataloader state"
        position = state.get("samples_streamed")
        if not isinstance(position, int) or isinstance(position, bool) or position < 0:
            raise fail(where, f"has samples_streamed: {position!r}", "resume from another checkpoint")
        if strict and (problems := self._differences(state, where)):
            raise ProblemError(problems)
        self._move(position)

    def close(self) -> None:
        """End the worker processes and close the files."""
        self._iteration = self._workers = None
        self._reader.close()

    def _move(self, position: int) -> None:
        self._iteration = None
        self.position = self.began = position
        self._goes_on = False

    def _read(self) -> Iterator[Batch]:
        if self._workers is None:
            for numbers in self.order.batches(self.position):
                yield self._batches.read(numbers)
            return
        for batch in self._workers:
            if isinstance(batch, tuple):
                raise ProblemError(batch)
            yield batch

    def _differences(self, state: Mapping[str, Any], where: str) -> list[Problem]:
        if state.get("__version__") != _STATE_VERSION or not isinstance(state.get("dataset"), Mapping):
            what = f"has version {state.get('__version__', 0)}, not {_STATE_VERSION}"
            return [Problem(where, what, "resume from a checkpoint of ModelZoo 2.x")]
        theirs, ours = state["dataset"], self._described
        problems = [
            Problem(
                f"{self.where}.{'mixture' if key == 'mixture_params' else key}",
                f"is {ours.get(key)!r}, and {theirs.get(key)!r} in the checkpoint that this run goes on from",
                "write the checkpoint's value, or load the checkpoint without its dataloader state",
            )
            for key in sorted(ours.keys() | theirs.keys())
            if key not in _FREE and ours.get(key) != theirs.get(key)
        ]
        samples = state.get("samples", self.order.samples)
        if samples != self.order.samples:
            what = f"counts in data of {samples:,} samples, and there are {self.order.samples:,} now"
            fix = "restore the files, or load the checkpoint without its dataloader state"
            problems.append(Problem(where, what, fix))
        return problems


class _Batches(Dataset[Any]):
    """Lists of sample numbers to batches, in whatever process."""

    def __init__(self, reader: Reader, rank: int, world: int) -> None:
        self._reader, self._rank, self._world = reader, rank, world

    def read(self, numbers: list[int]) -> Batch:
        share = len(numbers) // self._world
        mine = np.array(numbers[self._rank * share : (self._rank + 1) * share])
        samples = self._reader.read(mine)
        return {
            name: torch.from_numpy(np.ascontiguousarray(samples[:, i])) for i, name in enumerate(FEATURES)
        }

    def __getitem__(self, numbers: list[int]) -> Batch | tuple[Problem, ...]:
        """For worker processes: problems travel as values, for exceptions lose theirs on the way."""
        try:
            return self.read(numbers)
        except ProblemError as error:
            return error.problems


class _Ahead(Sampler[list[int]]):
    """What the workers read: the pass that begins where the loader is."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def __iter__(self) -> Iterator[list[int]]:
        return self._loader.order.batches(self._loader.position)


def _workers(loader: Loader, settings: DataSettings, seed: int) -> "DataLoader[Any]":
    with warnings.catch_warnings():
        # More workers than processors is what configs for servers ask of a laptop; data_notes says it.
        warnings.filterwarnings("ignore", message="This DataLoader will create", category=UserWarning)
        return DataLoader(
            loader._batches,
            batch_size=None,
            sampler=_Ahead(loader),
            collate_fn=_unchanged,
            num_workers=settings.num_workers,
            prefetch_factor=settings.prefetch_factor,
            persistent_workers=settings.persistent_workers,
            generator=torch.Generator().manual_seed(seed),
        )


def _unchanged(batch: Any) -> Any:
    """In the place of torch's own collation, which takes tuples and arrays apart."""
    return batch


def _described(params: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that ModelZoo writes into a checkpoint and compares when it resumes."""
    return {
        "use_worker_cache": params.get("use_worker_cache", False),
        "max_sequence_length": params.get("max_sequence_length"),
        "shuffle": params.get("shuffle", False),
        "shuffle_seed": params.get("shuffle_seed", 0),
        "data_dir": params.get("data_dir"),
        "mixture_params": params.get("mixture"),
        "batch_size": params["batch_size"],
        "drop_last": params.get("drop_last", True),
        "num_samples": params.get("num_samples"),
        "sort_files": params.get("sort_files", True),
        "use_vsl": params.get("use_vsl", False),
        "pad_last": params.get("pad_last", False),
    }
