"""Which data a run is trained and validated on, in one line: what tells runs on different data apart.

Names, sizes and sampled blocks of the HDF5 files, like the fingerprint of a checkpoint. Directories do not
count: data that were moved or copied are the same data. What a config takes of them (``num_samples``, seeds,
the weights of a mixture) is a setting and stands in the config.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cerebras_utils.fallback.data.settings import read_settings
from cerebras_utils.trainer_keys import DATALOADERS
from pruning.checkpoint.source import BLOCKS, sample_digest

_BLOCKS_OF_A_SET = 4096  # of 4 KiB: a set of thousands of files is read in seconds as well


def data_digest(trainer: Mapping[str, Any], verb: str) -> str:
    """SHA-256 over the training and validation sets of a trainer's section for ``verb``.

    Empty where not all of them are HDF5 files that can be read here: another processor of ModelZoo's, or
    directories that only the machines of a cluster see. A digest of a part would call others equal.
    """
    stage, digest, sets = trainer.get(verb) or {}, hashlib.sha256(), 0
    try:
        for key in (DATALOADERS[verb][0], *(["val_dataloader"] if verb == "fit" else [])):
            written = stage.get(key)
            for section in written if isinstance(written, list) else [written]:
                if section is not None:
                    digest.update(key.encode() + _set_digest(section))
                    sets += 1
    except (OSError, ValueError):
        return ""
    return digest.hexdigest() if sets else ""


def _set_digest(section: Any) -> bytes:
    settings, _ = read_settings(section, "")
    names = [name for source in settings.sources for name in source.directories] if settings else []
    listed = [sorted(Path(name).glob("*.h5"), key=lambda file: file.name) for name in names]
    if not listed or not all(listed):
        raise ValueError("a directory without HDF5 files")
    blocks = min(BLOCKS, max(2, _BLOCKS_OF_A_SET // sum(map(len, listed))))
    digest = hashlib.sha256()
    for files in listed:
        digest.update(len(files).to_bytes(8, "little"))
        for file in files:
            name = file.name.encode()
            digest.update(len(name).to_bytes(8, "little") + name + sample_digest(file, blocks))
    return digest.digest()
