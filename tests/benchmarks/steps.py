"""A training that waits before every step until it is told to go on, so that several can take turns.

    python tests/benchmarks/steps.py dense|masked|cszoo WORK

dense and masked are this project's fallback, cszoo is ModelZoo's own trainer; all run configs/gpt2_1m.yaml
as it is, on random data, without validations and checkpoints. A line on stdin asks for a step. The
answers on stdout are JSON: what runs here, or what is missing; then the seconds of each step, with its
batch, its optimizer step and all callbacks. Asked for a step "unmasked", masked leaves its masks out.
"""

import json
import os
import sys
import time
from collections import OrderedDict
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
CONFIG = REPOSITORY / "configs" / "gpt2_1m.yaml"
SAMPLES, ENDLESS = 512, 1_000_000
PACKAGES = {"dense": ("torch",), "masked": ("torch",), "cszoo": ("torch", "cerebras-pytorch")}


class Turns:
    """Hooks that both trainers call. Everything else that is printed goes to stderr."""

    def __init__(self, kind: str) -> None:
        self.answers = os.fdopen(os.dup(1), "w", buffering=1)
        os.dup2(2, 1)
        self.kind, self.begun, self.asked = kind, 0.0, ""

    def say(self, answer: object) -> None:
        print(json.dumps(answer), file=self.answers)

    def wait(self) -> None:
        self.asked = sys.stdin.readline().strip()
        if not self.asked:
            os._exit(0)  # whoever asked has gone; nothing of this run is wanted
        self.begun = time.perf_counter()

    def on_train_start(self, *_: object) -> None:
        self.say({"versions": {name: version(name) for name in PACKAGES[self.kind]}})
        self.wait()

    def on_train_batch_end(self, *_: object) -> None:
        self.say(time.perf_counter() - self.begun)
        self.wait()


def params(work: Path) -> dict[str, Any]:
    import yaml

    loaded: dict[str, Any] = yaml.safe_load(CONFIG.read_text())
    init, fit = loaded["trainer"]["init"], loaded["trainer"]["fit"]
    del fit["val_dataloader"], loaded["trainer"]["validate"]
    init["loop"] = {"max_steps": ENDLESS}
    init["checkpoint"]["steps"] = None
    init["logging"]["log_steps"] = ENDLESS
    fit["train_dataloader"]["data_dir"] = str(data(work, init["model"]))
    return loaded


def data(work: Path, model: dict[str, Any]) -> Path:
    import h5py
    import numpy as np

    place = work / "tokens"
    place.mkdir(exist_ok=True)
    path = place / "0000.h5"
    if not path.exists():
        length = model["max_position_embeddings"]
        tokens = np.random.default_rng(0).integers(0, model["vocab_size"], (SAMPLES, length + 1), np.int32)
        counted = np.ones((SAMPLES, length), np.int32)
        part = place / f".{os.getpid()}.part"
        with h5py.File(part, "w") as file:
            file["data"] = np.stack([tokens[:, :-1], counted, tokens[:, 1:]], axis=1)
            file.attrs["n_examples"] = SAMPLES
        part.replace(path)
    return place


def masks(model: dict[str, Any], path: Path) -> None:
    """Half of every projection."""
    import torch

    from cerebras_utils.fallback.models.build import build_model
    from pruning.mask_ops import save_mask

    weights = build_model(model).named_parameters()
    chosen = {n: w for n, w in weights if w.ndim == 2 and "embedding" not in n and "lm_head" not in n}
    save_mask({name: torch.rand(weight.shape) < 0.5 for name, weight in chosen.items()}, path)


def fallback(kind: str, work: Path) -> None:
    import yaml

    from cerebras_utils.fallback import run
    from cerebras_utils.hooks import Hooks

    class Clock(Turns, Hooks): ...

    asked = params(work)
    init = asked["trainer"]["init"]
    if kind == "masked":
        path = work / f"{kind}-{os.getpid()}.safetensors"
        masks(init["model"], path)
        init["callbacks"] = [{"SparseMaskCallback": {"mask_path": str(path)}}]
    config = work / f"{kind}-{os.getpid()}.yaml"
    config.write_text(yaml.safe_dump(asked))
    made, clock = run.make_callbacks, Clock(kind)

    def callbacks(named: Any) -> OrderedDict[str, Any]:
        found = OrderedDict(made(named))
        if kind == "masked":
            switch(found["SparseMaskCallback"], lambda: clock.asked != "unmasked")
        return OrderedDict(found, clock=clock)

    run.make_callbacks = callbacks
    run.run(config, "fit", run.Overrides(device="CPU", model_dir=str(work / f"{kind}-{os.getpid()}")))


def switch(callback: Any, on: Callable[[], bool]) -> None:
    """What it does in every step, only while ``on``."""

    def maybe(hook: Callable[..., None]) -> Callable[..., None]:
        return lambda *given: hook(*given) if on() else None

    for name in ("on_before_optimizer_step", "on_after_optimizer_step", "on_train_batch_end"):
        setattr(callback, name, maybe(getattr(callback, name)))


def cszoo(kind: str, work: Path) -> None:
    from cerebras.modelzoo.trainer.callbacks import Callback
    from cerebras.modelzoo.trainer.utils import run_trainer

    class Clock(Turns, Callback):
        def __init__(self) -> None:
            super().__init__(kind)

    asked = params(work)
    init = asked["trainer"]["init"]
    init |= {"callbacks": [{"Clock": {}}], "model_dir": str(work / f"{kind}-{os.getpid()}")}
    run_trainer("train_and_eval", asked)


if __name__ == "__main__":
    sys.path.insert(0, str(REPOSITORY))
    asked_for, place = sys.argv[1], Path(sys.argv[2])
    try:
        (cszoo if asked_for == "cszoo" else fallback)(asked_for, place)
    except ModuleNotFoundError as error:
        if asked_for != "cszoo" or str(error.name).split(".")[0] != "cerebras":
            raise  # installed, and broken
        print(json.dumps({"missing": error.name}))
