"""The few statistics that a comparison of seeds needs: intervals, paired tests, Holm's correction.

Student's distribution is computed here, to twelve digits; a test compares it with scipy.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

FEWEST_PAIRS = 3  # below, a paired test says nothing that the numbers themselves do not say


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds. ``half`` is half of the 95 % interval; None for a single value: there is none."""

    mean: float
    half: float | None
    n: int


@dataclass(frozen=True)
class Comparison:
    """One configuration against the baseline, seed by seed."""

    difference: float | None  # mean of (this - baseline); None without a common seed
    pairs: int
    p: float | None  # two-sided; None where there are too few pairs
    p_holm: float | None = None

    @property
    def verdict(self) -> str:
        if self.p_holm is None:
            return f"n too small ({self.pairs} of {FEWEST_PAIRS} pairs)"
        return "differs" if self.p_holm < 0.05 else "no difference shown"


def estimate(values: Sequence[float]) -> Estimate:
    assert values, "a mean of nothing"
    n, mean = len(values), _mean(values)
    if n == 1 or not all(map(math.isfinite, values)):
        return Estimate(mean, None, n)
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1))
    return Estimate(mean, t_quantile(0.975, n - 1) * deviation / math.sqrt(n), n)


def paired(ours: Mapping[int, float], theirs: Mapping[int, float]) -> Comparison:
    """Values by seed. Only seeds that both have count: what differs between seeds cancels."""
    seeds = sorted(ours.keys() & theirs.keys())
    differences = [ours[seed] - theirs[seed] for seed in seeds]
    if not differences:
        return Comparison(None, 0, None)
    n, mean = len(differences), _mean(differences)
    if n < FEWEST_PAIRS or not math.isfinite(mean):
        return Comparison(mean, n, None)
    variance = math.fsum((d - mean) ** 2 for d in differences) / (n - 1)
    if variance == 0:
        return Comparison(mean, n, 1.0 if mean == 0 else 0.0)
    t = mean / math.sqrt(variance / n)
    return Comparison(mean, n, 2 * (1 - t_cdf(abs(t), n - 1)) if abs(t) < 5 else 2 * t_tail(abs(t), n - 1))


def _mean(values: Sequence[float]) -> float:
    """Of runs that diverged as well: an exact sum refuses infinities of both signs."""
    finite = all(map(math.isfinite, values))
    return (math.fsum(values) if finite else sum(values)) / len(values)


def holm(comparisons: Mapping[str, Comparison]) -> dict[str, Comparison]:
    """The same with ``p_holm``: the chance of any false claim among all of them is at most that."""
    tested = sorted(
        (name for name, found in comparisons.items() if found.p is not None),
        key=lambda name: comparisons[name].p or 0.0,
    )
    corrected, largest = dict(comparisons), 0.0
    for rank, name in enumerate(tested):
        found = comparisons[name]
        largest = max(largest, min(1.0, (len(tested) - rank) * (found.p or 0.0)))
        corrected[name] = Comparison(found.difference, found.pairs, found.p, largest)
    return corrected


def t_tail(t: float, freedom: int) -> float:
    """P(T > t) for t ≥ 0, also where it is tiny."""
    return 0.5 * _incomplete_beta(freedom / 2, 0.5, freedom / (freedom + t * t))


def t_cdf(t: float, freedom: int) -> float:
    tail = t_tail(abs(t), freedom)
    return 1 - tail if t >= 0 else tail


def t_quantile(probability: float, freedom: int) -> float:
    """By bisection: fifty halvings of an interval that surely holds it."""
    assert 0.5 <= probability < 1, probability
    low, high = 0.0, 1.0
    while t_tail(high, freedom) > 1 - probability:
        high *= 2
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if t_tail(middle, freedom) > 1 - probability else (low, middle)
    return (low + high) / 2


def _incomplete_beta(a: float, b: float, x: float) -> float:
    """Regularised, by its continued fraction (Lentz's method), on the side where it converges fast."""
    if x <= 0 or x >= 1:
        return 0.0 if x <= 0 else 1.0
    scale = math.exp(
        math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    )
    if x < (a + 1) / (a + b + 2):
        return scale * _fraction(a, b, x) / a
    return 1 - scale * _fraction(b, a, 1 - x) / b


def _fraction(a: float, b: float, x: float) -> float:
    tiny = 1e-300
    c, d = 1.0, 1 / (1 - (a + b) * x / (a + 1) or tiny)
    value = d
    for m in range(1, 500):
        for step in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d = 1 / (1 + step * d or tiny)
            c = 1 + step / c or tiny
            value *= d * c
        if abs(d * c - 1) < 1e-15:
            return value
    raise AssertionError(f"no convergence at {a}, {b}, {x}")
