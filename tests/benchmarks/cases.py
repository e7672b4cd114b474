"""What is run, in which order: competitors side by side, so that noise meets both of a pair."""

import itertools
import json
import os
import shutil
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

from measure import Run, plain_write, run

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]
LEVELS = ("0.1", "0.2", "0.3", "0.4", "0.5", "0.6", "0.7", "0.8", "0.9", "0.95")
TINY = 4e-5  # GB: read in no time, so that what is left is start-up
ITEMSIZE = {"bf16": 2, "fp32": 4}
_HALF = ("--sparsity", "0.5")
CASES = {
    "global": (*_HALF, "--allocation", "global"),
    "ten": (*itertools.chain(*(("--sparsity", level) for level in LEVELS)), "--allocation", "global"),
    "uniform": _HALF,
    "random": (*_HALF, "--allocation", "global", "--score", "random"),
    "2:4": ("--pattern", "2:4"),
}
OF_DTYPE = {"bf16": tuple(CASES), "fp32": ("global",)}
CONTESTANTS = ("prune", "kthvalue", "topk")


@dataclass(frozen=True, kw_only=True)
class Settings:
    work: Path
    runs: int
    gigabytes: float
    small: float
    torch_weights: int
    vendor_python: Path
    seed: int
    only: str | None = None  # a part, instead of all

    def __post_init__(self) -> None:
        if self.runs < 1 or not 0 < self.small < self.gigabytes:
            raise SystemExit("--runs must be at least 1, and --small less than --gigabytes")

    @property
    def sizes(self) -> dict[str, float]:
        return {"large": self.gigabytes, "small": self.small}

    @property
    def mdl_sizes(self) -> dict[str, float]:
        """A .mdl is read by HDF5, which is slower: less of it shows as much."""
        return {size: gigabytes / 8 for size, gigabytes in self.sizes.items()}


@dataclass(frozen=True)
class Masks:
    """A run of the command, and what it wrote."""

    run: Run
    weights: int
    written: int  # bytes of mask files


@dataclass
class Samples:
    """Everything measured; one entry per repetition, so entry i of all lists belong together."""

    masks: dict[tuple[str, str, str], list[Masks]] = field(default_factory=lambda: defaultdict(list))
    cat: dict[tuple[str, str, str], list[Run]] = field(default_factory=lambda: defaultdict(list))
    writes: dict[int, list[float]] = field(default_factory=lambda: defaultdict(list))  # by number of levels
    others: dict[tuple[str, str], list[dict[str, Any]]] = field(default_factory=lambda: defaultdict(list))
    nbytes: dict[tuple[str, str], int] = field(default_factory=dict)  # of the checkpoints

    def cold(self) -> tuple[int, int]:
        """How many runs read more than a hundredth of their checkpoint from the disk, of how many."""
        runs = [(key, item.run) for key, items in self.masks.items() for item in items]
        runs += [(key, item) for key, items in self.cat.items() for item in items]
        return sum(each.disk * 100 > self.nbytes[key[1], key[2]] for key, each in runs), len(runs)


class Bench:
    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.samples = Samples()
        self._work = settings.work.resolve()
        self._out = self._work / f"masks-{os.getpid()}"

    def measure(self) -> Samples:
        self._check_room()
        self._work.mkdir(parents=True, exist_ok=True)
        try:
            for dtype in OF_DTYPE:
                self._dtype(dtype)  # one dtype at a time: both may not fit into the page cache
            self._mdl()
            self._start()
        finally:
            shutil.rmtree(self._out, ignore_errors=True)
        return self.samples

    def _dtype(self, dtype: str) -> None:
        files = {size: self._checkpoint(size, gb, dtype) for size, gb in self.settings.sizes.items()}
        weights = self._path("torch", self.settings.torch_weights * ITEMSIZE[dtype] / 1e9, dtype)
        self._write_checkpoint(*weights)
        for repetition in self._repetitions(f"{dtype} checkpoints"):
            for case in OF_DTYPE[dtype]:
                for size, file in files.items():
                    self._cat(case, dtype, size, file, repetition)
                    self._masks(case, dtype, size, file, repetition)
            if repetition and dtype == "bf16":
                for case, levels in {"global": 1, "ten": len(LEVELS)}.items():
                    nbytes = self.samples.masks[case, dtype, "large"][-1].written
                    self.samples.writes[levels].append(plain_write(self._work / "plain", nbytes))
            if repetition:
                for name in CONTESTANTS:
                    self._contestant(name, dtype, weights[0])

    def _mdl(self) -> None:
        files = {
            size: self._checkpoint(size, gb, "bf16", "mdl") for size, gb in self.settings.mdl_sizes.items()
        }
        for repetition in self._repetitions("a .mdl checkpoint"):
            for size, file in files.items():
                self._masks("global", "mdl", size, file, repetition)
            if repetition:
                self._contestant("h5py", "mdl", files["large"])

    def _start(self) -> None:
        file = self._checkpoint("tiny", TINY, "bf16")
        for repetition in self._repetitions("the start of the command"):
            self._masks("global", "bf16", "tiny", file, repetition)

    def _repetitions(self, what: str) -> Iterator[int]:
        """0 is the warm-up, of which nothing is kept."""
        for repetition in range(self.settings.runs + 1):
            say(f"{what}: {f'run {repetition} of {self.settings.runs}' if repetition else 'warm-up'}")
            yield repetition

    def _cat(self, case: str, dtype: str, size: str, file: Path, repetition: int) -> None:
        done = run(["cat", file], keep=False)
        if repetition:
            self.samples.cat[case, dtype, size].append(done)

    def _masks(self, case: str, dtype: str, size: str, file: Path, repetition: int) -> None:
        """The whole command, as a user starts it, into a directory that was not there before."""
        code = "from experiments.cli import main; main()"
        argv = [sys.executable, "-c", code, "masks", file, *CASES[case], "--out", self._out, "--json"]
        done = run(argv, cwd=REPOSITORY)
        masks = json.loads(done.out)["masks"]
        check_masks(case, masks)
        written = sum(path.stat().st_size for path in self._out.rglob("*.safetensors"))
        shutil.rmtree(self._out)
        os.sync()  # off the clock: what comes next does not wait for what was written before it
        if repetition:
            self.samples.masks[case, dtype, size].append(Masks(done, masks[0]["numel"], written))

    def _contestant(self, name: str, dtype: str, file: Path) -> None:
        before = self.samples.others[name, dtype]
        if before and "missing" in before[0]:
            return
        python = self.settings.vendor_python if name == "topk" else sys.executable
        done = run([python, HERE / "contestants.py", name, file], cwd=self._work)
        result = json.loads(done.out.splitlines()[-1])
        before.append(result | {"peak": done.peak})

    def _checkpoint(self, size: str, gigabytes: float, dtype: str, suffix: str = "safetensors") -> Path:
        path, *_ = asked = self._path("weights", gigabytes, dtype, suffix)
        self._write_checkpoint(*asked)
        self.samples.nbytes["mdl" if suffix == "mdl" else dtype, size] = path.stat().st_size
        return path

    def _path(
        self, name: str, gigabytes: float, dtype: str, suffix: str = "safetensors"
    ) -> tuple[Path, float, str]:
        file = f"{name}-{dtype}-{gigabytes:g}GB-seed{self.settings.seed}.{suffix}"
        return self._work / file, gigabytes, dtype

    def _write_checkpoint(self, path: Path, gigabytes: float, dtype: str) -> None:
        """In a process of its own: this one is to stay small, see ``measure.run``."""
        argv = [sys.executable, HERE / "big_checkpoint.py", path, "--gigabytes", repr(gigabytes)]
        say(run([*argv, "--dtype", dtype, "--seed", str(self.settings.seed)]).out.strip())

    def _check_room(self) -> None:
        wanted = [
            self._path("weights", gb, dtype) for dtype in ITEMSIZE for gb in self.settings.sizes.values()
        ]
        wanted += [self._path("weights", gb, "bf16", "mdl") for gb in self.settings.mdl_sizes.values()]
        wanted += [
            self._path("torch", self.settings.torch_weights * size / 1e9, dtype)
            for dtype, size in ITEMSIZE.items()
        ]
        checkpoints = sum(gb for path, gb, _ in wanted if not path.exists())
        masks = self.settings.gigabytes / 16 * len(LEVELS)  # a bit per bf16 weight and level
        needed = 1.05 * (checkpoints + masks)
        parent = next(p for p in (self._work, *self._work.parents) if p.exists())
        free = shutil.disk_usage(parent).free / 1e9
        if free < needed:
            raise SystemExit(
                f"{self.settings.work}: {needed:.1f} GB are needed ({checkpoints:.1f} of checkpoints, "
                f"{masks:.1f} of mask files), {free:.1f} GB are free\n"
                "fix: free some space, name another directory by --work, or ask for fewer --gigabytes"
            )


def check_masks(case: str, masks: list[dict[str, Any]]) -> None:
    """A command that did less than it was asked is not timed but reported."""
    asked = LEVELS if case == "ten" else ("0.5",)
    assert len(masks) == len(asked), f"{case}: {len(masks)} mask files, not {len(asked)}"
    for mask, sparsity in zip(masks, asked, strict=True):
        off = abs(mask["numel"] - mask["kept"] - Decimal(sparsity) * mask["numel"])
        allowed = len(mask["layers"]) if case == "uniform" else 1
        assert off < allowed, f"{case}: {mask['kept']} of {mask['numel']} kept at sparsity {sparsity}"


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
