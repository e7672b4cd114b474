"""A config run by ModelZoo's own trainer, in this process, for its graph alone.

Imports Cerebras software: import this module inside functions only.
"""

import copy
from pathlib import Path
from typing import Any

from cerebras_utils.cszoo_yaml import Phase
from cerebras_utils.register import register
from cerebras_utils.trace.stand_in import stand_in_loader
from pruning.problems import fail

# Of ``backend.cluster_config``: volumes of the cluster, which this machine need not have.
_VOLUMES = ("mount_dirs", "python_paths", "mgmt_address", "credentials_path")


def run_modelzoo(phase: Phase, directory: Path, *, stand_in_data: bool) -> None:
    """Ends in ``ReachedEndError`` under ``intercepted``."""
    register()
    from cerebras.modelzoo.trainer.utils import run_trainer

    run_trainer("train", {"trainer": traced_params(phase, directory, stand_in_data=stand_in_data)})


def traced_params(phase: Phase, directory: Path, *, stand_in_data: bool) -> dict[str, Any]:
    """The trainer of the config, for the CS-3, without what happens beside its first step.

    It writes to ``directory`` alone, and so finds no checkpoint of an earlier run. Validation, loggers and
    restarts have no part in the graph of a training step, and some of them reach out to a network.
    """
    params: dict[str, Any] = copy.deepcopy(dict(phase.params))
    fit = params.get("fit")
    if not isinstance(fit, dict) or "train_dataloader" not in fit:
        raise fail(phase.at(), "has no `fit:` with a train_dataloader", "trace a config that trains")
    init = params["init"]
    backend = init.pop("backend", None)
    cluster = (backend.get("cluster_config") if isinstance(backend, dict) else None) or {}
    init.pop("device", None)
    init["backend"] = {
        "backend_type": "CSX",
        "cluster_config": {key: value for key, value in cluster.items() if key not in _VOLUMES},
    }
    init["model_dir"] = str(directory / "model_dir")
    init["loggers"] = []
    init.pop("autorestart", None)
    if isinstance(init.get("checkpoint"), dict):
        init["checkpoint"].pop("checkpoint_root", None)
        init["checkpoint"]["save_initial_checkpoint"] = False
    loader = fit["train_dataloader"]
    if stand_in_data:
        where = phase.at("fit.train_dataloader")
        loader = stand_in_loader(loader, init["model"], directory / "data", where)
    start = {"ckpt_path": fit["ckpt_path"]} if fit.get("ckpt_path") else {}
    return {"init": init, "fit": {"train_dataloader": loader, **start}}
