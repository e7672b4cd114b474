"""Sparsity as a function of the training step: ``schedule(step) -> float`` in [0, 1).

Steps before the first and after the last are clipped, so a schedule may be asked at any step.
"""

from collections.abc import Callable, Sequence

from pruning.registry import Registry

Schedule = Callable[[int], float]
SCHEDULES: Registry[Callable[..., Schedule]] = Registry("schedule")


@SCHEDULES.register("one_shot")
def one_shot(final: float, *, begin: int = 0) -> Schedule:
    """Dense before ``begin``, ``final`` from there on."""
    _check(final=final)
    return lambda step: final if step >= begin else 0.0


@SCHEDULES.register("linear")
def linear(final: float, *, steps: int, initial: float = 0.0, begin: int = 0) -> Schedule:
    _check(initial=initial, final=final)
    progress = _progress(begin, steps)
    return lambda step: initial + (final - initial) * progress(step)


@SCHEDULES.register("cubic")
def cubic(final: float, *, steps: int, initial: float = 0.0, begin: int = 0) -> Schedule:
    """Fast at first, while weights are plenty (Zhu & Gupta, arXiv:1710.01878)."""
    _check(initial=initial, final=final)
    progress = _progress(begin, steps)
    return lambda step: final + (initial - final) * (1 - progress(step)) ** 3


@SCHEDULES.register("exponential")
def exponential(final: float, *, steps: int, initial: float, begin: int = 0) -> Schedule:
    """Grows by the same factor at every step."""
    _check(initial=initial, final=final)
    if initial == 0:
        raise ValueError("an exponential schedule multiplies its initial sparsity, so it cannot start at 0")
    progress = _progress(begin, steps)
    return lambda step: float(initial * (final / initial) ** progress(step))


@SCHEDULES.register("list")
def levels(values: Sequence[float], *, every: int, begin: int = 0) -> Schedule:
    """One level after the other, each for ``every`` steps; the last one stays."""
    if not values:
        raise ValueError("a list schedule needs at least one level")
    _check(**{f"level {i}": value for i, value in enumerate(values)})
    if every < 1:
        raise ValueError(f"every must be at least 1 step, got {every}")
    return lambda step: values[min(max(step - begin, 0) // every, len(values) - 1)]


def iterative_rate(final: float, rounds: int) -> float:
    """What each round drops of the weights that remain (Frankle & Carbin, arXiv:1803.03635)."""
    _check(final=final)
    if rounds < 1:
        raise ValueError(f"rounds must be at least 1, got {rounds}")
    return float(1 - (1 - final) ** (1 / rounds))


def _progress(begin: int, steps: int) -> Callable[[int], float]:
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    return lambda step: min(max((step - begin) / steps, 0.0), 1.0)


def _check(**sparsities: float) -> None:
    for name, value in sparsities.items():
        if not 0 <= value < 1:
            raise ValueError(f"{name} sparsity must be in [0, 1), got {value!r}")
