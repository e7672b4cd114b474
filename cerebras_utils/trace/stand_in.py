"""Data in the place of data that are not on this machine: the shape of a batch is all that is traced."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cerebras_utils.fallback.data.settings import PROCESSOR
from pruning.problems import fail


def stand_in_loader(loader: Any, model: Mapping[str, Any], directory: Path, where: str) -> dict[str, Any]:
    """The section ``train_dataloader`` with a set of zeros that is written to ``directory``."""
    if not isinstance(loader, dict) or loader.get("data_processor") != PROCESSOR:
        name = loader.get("data_processor") if isinstance(loader, dict) else loader
        what = f"{name!r}: data can stand in for those of {PROCESSOR} alone"
        raise fail(where, what, "make the data available here, and trace without --stand-in-data")
    length = loader.get("max_sequence_length") or model.get("max_position_embeddings")
    if type(length) is not int or type(loader.get("batch_size")) is not int:
        what = "says no batch_size, or neither it nor the model says how long a sequence is"
        raise fail(where, what, "write batch_size, and max_sequence_length")
    import h5py
    import numpy as np

    directory.mkdir()
    samples = 2 * loader["batch_size"]
    with h5py.File(directory / "data-00000.h5", "w") as file:
        file.create_dataset("data", (samples, 3, length), np.int32, chunks=(1, 3, length), fillvalue=0)
        file.attrs["n_examples"] = samples
    left_out = ("mixture", "data_subset", "num_workers", "prefetch_factor", "persistent_workers")
    kept = {key: value for key, value in loader.items() if key not in left_out}
    return {**kept, "data_dir": str(directory)}
