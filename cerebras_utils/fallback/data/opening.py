"""From settings to a reader of samples, or to everything that prevents it."""

from cerebras_utils.fallback.data.files import Rows, describe, list_files
from cerebras_utils.fallback.data.order import Order
from cerebras_utils.fallback.data.readers import (
    FEATURES,
    CorpusReader,
    Mixture,
    Reader,
    SampleReader,
    Subset,
)
from cerebras_utils.fallback.data.settings import DataSettings, Source
from pruning.problems import Problem


def open_reader(settings: DataSettings, where: str) -> tuple[Reader | None, list[Rows], list[Problem]]:
    """The reader, the rows of each source that holds tokens, and what is wrong."""
    readers: list[Reader] = []
    opened: list[Rows] = []
    problems: list[Problem] = []
    for source in settings.sources:
        rows, found = _rows(source, settings)
        problems += found
        if rows is not None:
            opened += [rows] if rows.shape == () or _are_samples(rows) else []
            reader, found = _reader(rows, source, settings.max_sequence_length, where)
            problems += found
            readers += [reader] if reader is not None else []
    if problems or not readers:
        return None, opened, problems
    if not settings.mixed:
        return readers[0], opened, []
    lengths = {
        reader.sequence_length for reader in readers
    }  # never samples beside a corpus: max_sequence_length parts them
    if len(lengths) > 1:
        what = f"the sets have sequences of {', '.join(map(str, sorted(lengths)))} tokens: they make no batch"
        return None, opened, [Problem(f"{where}.mixture", what, "mix sets of one sequence length")]
    weights = [source.weight for source in settings.sources]
    try:
        mixture = Mixture(readers, weights, interleave=not settings.shuffle, seed=settings.shuffle_seed)
    except ValueError:
        what = "no weight is above 5 % of their sum, and ModelZoo measures an epoch by those that are"
        return None, opened, [Problem(f"{where}.mixture", what, "mix fewer sets, or raise a weight")]
    for source, count in zip(settings.sources, mixture.counts, strict=True):
        if not count:
            entry = source.where.removesuffix("data_dir") + "weight"
            what = f"is {source.weight}: the set gives no sample to an epoch of {len(mixture):,}"
            problems.append(Problem(entry, what, "raise it, or remove the entry"))
    return (None if problems else mixture), opened, problems


def make_order(settings: DataSettings, samples: int, where: str) -> tuple[Order | None, list[Problem]]:
    """The order of the samples, where they are enough for a batch."""
    epoch = settings.num_samples or samples
    size = settings.batch_size
    if settings.drop_last and epoch < size:
        counted = (
            f"num_samples is {epoch:,}" if settings.num_samples else f"the data hold {samples:,} samples"
        )
        fix = f"set batch_size to {epoch} or less, or drop_last: false"
        return None, [Problem(f"{where}.batch_size", f"is {size:,}, and {counted}", fix)]
    if settings.pad_last and not settings.drop_last and epoch % size:
        what = f"the last batch has {epoch % size} samples, and ModelZoo fills it up with undefined memory"
        fix = f"remove pad_last, or choose a batch_size that divides {epoch:,}"
        return None, [Problem(f"{where}.pad_last", what, fix)]
    order = Order(
        samples=samples,
        batch_size=size,
        shuffle=settings.shuffle,
        seed=settings.shuffle_seed,
        drop_last=settings.drop_last,
        num_samples=settings.num_samples,
    )
    return order, []


def _rows(source: Source, settings: DataSettings) -> tuple[Rows | None, list[Problem]]:
    files, problems = list_files(source.directories, source.where, sort=settings.sort_files)
    described, found = describe(files)
    problems += found
    return (None if problems or not described else Rows(described)), problems


def _reader(
    rows: Rows, source: Source, max_sequence_length: int | None, where: str
) -> tuple[Reader | None, list[Problem]]:
    key, directory = f"{where}.max_sequence_length", rows.files[0].path.parent
    reader: Reader
    if rows.shape == ():
        if max_sequence_length is None:
            what = f"{directory} holds a corpus of tokens, which must be cut into sequences"
            return None, [Problem(key, what, "set it to the sequence length of the model")]
        reader = CorpusReader(rows, max_sequence_length)
    elif _are_samples(rows):
        if max_sequence_length is not None:
            what = f"{directory} holds samples of {rows.shape[1]} tokens, which are not cut again"
            return None, [Problem(key, f"is {max_sequence_length}; {what}", "remove it")]
        reader = SampleReader(rows)
    else:
        what = f"'data' has rows of shape {rows.shape}, not of {len(FEATURES)} features by sequence length"
        fix = "prepare the data for pre-training: input ids, loss mask and labels of each sample"
        return None, [Problem(str(rows.files[0].path), what, fix)]
    total = len(reader)
    if source.data_subset is not None:
        try:
            reader = Subset(reader, source.data_subset)
        except ValueError:
            what = f"is {source.data_subset!r}, not rising ranges between 0 and 1"
            entry = source.where.removesuffix("data_dir") + "data_subset"
            return None, [Problem(entry, what, "write for example 0.0-0.5 or 0.1-0.3,0.7-1.0")]
    if not len(reader):
        part = f" and {source.data_subset} of them none" if source.data_subset is not None and total else ""
        what = f"{', '.join(source.directories)} hold {total} samples{part}"
        return None, [Problem(source.where, what, "name a directory with data")]
    return reader, []


def _are_samples(rows: Rows) -> bool:
    return len(rows.shape) == 2 and rows.shape[0] >= len(FEATURES) and rows.shape[1] > 0
