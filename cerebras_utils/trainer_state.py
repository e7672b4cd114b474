"""Where the weights are that autorestart goes on with.

ModelZoo starts a child again from ``trainer_state_N.mdl``, which holds links in the place of tensors: each
names a checkpoint of the run. Only the Cerebras software reads through them; others read that checkpoint.
"""

import json
import re
from pathlib import Path
from typing import Any

_NAME = re.compile(r"trainer_state_\d+\.mdl")


def checkpoint_behind(path: str) -> str:
    """The checkpoint that a trainer state is linked to; every other path as it is."""
    if path.lower().startswith("s3://") or not _NAME.fullmatch(Path(path).name):
        return path
    import h5py

    try:
        with h5py.File(path) as file:
            texts = (file.attrs[key] for key in file.attrs if key.startswith("model."))
            return next((link for text in texts if (link := _link(json.loads(text)))), path)
    except (OSError, ValueError):  # what is wrong with it is told by whatever loads it
        return path


def _link(saved: Any) -> str | None:
    parts = saved.values() if isinstance(saved, dict) else ()
    links = (part["path"] for part in parts if isinstance(part, dict) and "deferred_object_cls" in part)
    return next((link for link in links if isinstance(link, str)), None)
