from pathlib import Path

import h5py
import numpy as np
import pytest


def write_file(path: Path, data: np.ndarray, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file.create_dataset("data", data=data, **options)
    return path


@pytest.fixture
def samples(tmp_path):
    """``samples("a", 5, 3)``: a directory of files of 5 and 3 samples that are all different."""

    def make(name: str, *sizes: int, length: int = 6, features: int = 3, dtype: str = "i4") -> str:
        rng = np.random.default_rng(sum(map(ord, name)))
        for i, size in enumerate(sizes):
            data = rng.integers(0, 100, (size, features, length)).astype(dtype)
            write_file(tmp_path / name / f"{i}.h5", data, chunks=(1, features, length), compression="gzip")
        return str(tmp_path / name)

    return make


@pytest.fixture
def corpus(tmp_path):
    """``corpus("k", 40, 3)``: a directory of files of 40 and 3 tokens."""

    def make(name: str, *sizes: int, dtype: str = "u2") -> str:
        rng = np.random.default_rng(sum(map(ord, name)))
        for i, size in enumerate(sizes):
            write_file(tmp_path / name / f"{i}.h5", rng.integers(0, 100, size).astype(dtype))
        return str(tmp_path / name)

    return make


@pytest.fixture
def section():
    """A dataloader section with what is required; ``section(data_dir=...)``."""

    def make(**changes):
        return {"data_processor": "GptHDF5MapDataProcessor", "batch_size": 2} | changes

    return make
