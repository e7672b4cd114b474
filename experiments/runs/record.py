"""What is known about one run, as plain values: what the cache holds and every comparison reads."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

RANDOM = "random weights"  # a start that is no checkpoint
Points = list[list[float]]  # [step, value], oldest first


@dataclass(frozen=True, kw_only=True)
class Sparsity:
    """Asked and found. None: nobody knows, which is not the same as 0."""

    requested: float | None = None  # of the masked weights, by the mask file or the native algorithm
    effective: float | None = None  # counted in the checkpoint that was saved, over the same weights
    masked: int = 0  # weights under masks
    resurrected: int | None = None
    newly_dead: int | None = None
    layers: Mapping[str, float] = field(default_factory=dict)  # effective, by weight
    mask: str = ""  # the name of the mask file, which tells score, pattern, allocation, sparsity
    path: str = ""
    sha256: str = ""
    note: str = ""  # why something is not known


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    path: str
    name: str
    state: str  # of cerebras_utils.run_receipt.State; of a sweep also "planned" and "lost"
    reason: str = ""  # why it is not finished
    backend: str = ""  # torch or cszoo
    device: str = ""
    seed: int | None = None
    params: Mapping[str, Any] = field(default_factory=dict)  # the trainer's config, as it ran
    steps: int = 0
    steps_asked: int | None = None
    started: float | None = None  # seconds since the epoch
    seconds: float | None = None  # wall time, of all launches together
    samples_per_second: float | None = None
    last: Mapping[str, tuple[int, float]] = field(default_factory=dict)  # tag: step and value
    batches: int | None = None  # of the last validation
    peak_rate: float | None = None  # the highest learning rate that a step used
    curves: Mapping[str, Points] = field(default_factory=dict)  # thinned out, for pictures
    sparsity: Sparsity = field(default_factory=Sparsity)
    start: str = ""  # fingerprint of the checkpoint it began with, or RANDOM; "" where nobody knows
    data: str = ""  # digest of what it was trained on
    problems: tuple[str, ...] = ()  # files that could not be read

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> "RunRecord":
        values = dict(plain)
        values["sparsity"] = Sparsity(**values["sparsity"])
        values["problems"] = tuple(values["problems"])
        values["last"] = {tag: (int(step), float(value)) for tag, (step, value) in values["last"].items()}
        return cls(**values)


def short(digest: str) -> str:
    """Of a checkpoint or a mask file, as people are shown it."""
    return digest if digest == RANDOM else digest[:12]
