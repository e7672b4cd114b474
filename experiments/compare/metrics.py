"""What is compared: names that people use for the tags that a run logs, and which way is better."""

from collections.abc import Iterable
from dataclasses import dataclass

from pruning.problems import fail
from pruning.registry import suggest


@dataclass(frozen=True)
class Metric:
    name: str
    tag: str
    lower_is_better: bool = True
    digits: int = 4


METRICS = {
    metric.name: metric
    for metric in (
        Metric("perplexity", "validate_0/eval/lm_perplexity", digits=3),
        Metric("loss", "validate_0/loss"),
        Metric("accuracy", "validate_0/eval/accuracy", lower_is_better=False),
        Metric("train_loss", "loss"),
    )
}
DEFAULT = ("perplexity", "loss", "accuracy")
TOLERANCE = 1e-4  # of a sparsity: more is another mask, not a rounding
_HIGHER = ("accuracy", "samples_per_sec", "steps_per_sec")


def rounded(sparsity: float) -> float:
    """To the tolerance: layers of different sizes cannot drop the very same fraction."""
    return round(sparsity, 4)


def metric_of(name: str, tags: Iterable[str]) -> Metric:
    """By its name, or by the tag itself, of which any run must have one."""
    if name in METRICS:
        return METRICS[name]
    known = sorted(set(tags))
    if name in known:
        return Metric(name, name, lower_is_better=not name.endswith(_HIGHER))
    meant = suggest(name, [*METRICS, *known])
    listing = f"one of {', '.join(METRICS)}, or a tag that the runs log"
    raise fail(f"--metric {name}", f"is in none of these runs.{meant}", listing)
