"""Samples by number: of preprocessed files, of a corpus cut into sequences, of a part, of a mixture.

A sample is three rows of one length, int32: the input ids, the loss mask (which ModelZoo calls attention
mask) and the labels.
"""

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from cerebras_utils.fallback.data.files import Rows

FEATURES = ("input_ids", "attention_mask", "labels")

Samples = NDArray[np.int32]  # (samples, features, sequence length)


class Reader(Protocol):
    sequence_length: int

    def __len__(self) -> int: ...

    def read(self, numbers: NDArray[np.int64]) -> Samples: ...

    def close(self) -> None: ...


class SampleReader:
    """Files of shape (samples, features, sequence length), as ModelZoo's data preparation writes them."""

    def __init__(self, rows: Rows) -> None:
        self.rows = rows
        self.sequence_length = rows.shape[1]

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, numbers: NDArray[np.int64]) -> Samples:
        parts = [self.rows.read(start, stop)[:, : len(FEATURES)] for start, stop in runs(numbers)]
        return np.concatenate(parts)

    def close(self) -> None:
        self.rows.close()


class CorpusReader:
    """Files of token ids, one document after another, cut into sequences that overlap by one token."""

    def __init__(self, rows: Rows, sequence_length: int) -> None:
        self.rows = rows
        self.sequence_length = sequence_length

    def __len__(self) -> int:
        return max(len(self.rows) - 1, 0) // self.sequence_length

    def read(self, numbers: NDArray[np.int64]) -> Samples:
        samples = np.ones((len(numbers), len(FEATURES), self.sequence_length), np.int32)
        done = 0
        for start, stop in runs(numbers):
            tokens = self.rows.read(start * self.sequence_length, stop * self.sequence_length + 1)
            part = samples[done : done + stop - start]
            part[:, 0] = tokens[:-1].reshape(-1, self.sequence_length)
            part[:, 2] = tokens[1:].reshape(-1, self.sequence_length)
            done += stop - start
        return samples

    def close(self) -> None:
        self.rows.close()


class Subset:
    """The parts of a data set that ``data_subset`` names, such as ``0.0-0.2,0.5-0.7``."""

    def __init__(self, reader: Reader, text: str) -> None:
        """``ValueError`` where ``text`` is no list of rising ranges in [0, 1]."""
        self.reader = reader
        self.sequence_length = reader.sequence_length
        bounds = [tuple(map(float, part.split("-"))) for part in text.split(",")]
        flat = [bound for pair in bounds for bound in pair]
        if (
            any(len(pair) != 2 for pair in bounds)
            or flat != sorted(flat)
            or not 0 <= flat[0] <= flat[-1] <= 1
        ):
            raise ValueError(text)
        total = len(reader)
        self._starts = np.array([int(total * start) for start, _ in bounds])
        lengths = np.array([int(total * end) for _, end in bounds]) - self._starts
        self._ends = lengths.cumsum()
        self._shifts = self._starts - (self._ends - lengths)

    def __len__(self) -> int:
        return int(self._ends[-1])

    def read(self, numbers: NDArray[np.int64]) -> Samples:
        return self.reader.read(numbers + self._shifts[self._ends.searchsorted(numbers, side="right")])

    def close(self) -> None:
        self.reader.close()


class Mixture:
    """Several data sets in the proportion of their weights; smaller ones are repeated to fill their share.

    An epoch is as long as it takes to see every sample of each set that has more than 5 % of the weight.
    Without shuffling, ``interleave`` spreads the sets over the epoch and keeps the order within each.
    """

    def __init__(self, readers: Sequence[Reader], weights: Sequence[float], *, interleave: bool, seed: int):
        """``ValueError`` where no set has more than 5 % of the weight."""
        self.readers = tuple(readers)
        self.sequence_length = readers[0].sequence_length
        total = sum(weights)
        shares = [weight / total for weight in weights]
        epoch = max(
            len(reader) / share for reader, share in zip(readers, shares, strict=True) if share > 0.05
        )
        self.counts = [int(epoch * share) for share in shares]  # samples of each set in an epoch
        self._ends = np.cumsum(self.counts)
        self._numbers = _interleaved(self._ends, seed) if interleave else None

    def __len__(self) -> int:
        return int(self._ends[-1])

    def read(self, numbers: NDArray[np.int64]) -> Samples:
        if self._numbers is not None:
            numbers = self._numbers[numbers]
        whose = self._ends.searchsorted(numbers, side="right")
        samples = np.empty((len(numbers), len(FEATURES), self.sequence_length), np.int32)
        for i in np.unique(whose):
            reader, mine = self.readers[i], whose == i
            begin = self._ends[i - 1] if i else 0
            samples[mine] = reader.read((numbers[mine] - begin) % len(reader))
        return samples

    def close(self) -> None:
        for reader in self.readers:
            reader.close()


def _interleaved(ends: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    numbers = np.arange(ends[-1])
    np.random.default_rng(seed).shuffle(numbers)
    begin = 0
    for end in ends:
        numbers[(begin <= numbers) & (numbers < end)] = np.arange(begin, end)
        begin = end
    return numbers


def runs(numbers: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Neighbours are read at once: ``[4, 5, 6, 9]`` gives (4, 7) and (9, 10)."""
    cuts = np.flatnonzero(np.diff(numbers) != 1) + 1
    for part in np.split(numbers, cuts):
        yield int(part[0]), int(part[-1]) + 1
