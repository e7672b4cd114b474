"""The rule in a few lines of numpy, for scores that fit in memory: what the kernels are tested against."""

import numpy as np
from numpy.typing import NDArray


def keep_largest(scores: NDArray[np.float64], drop: int) -> NDArray[np.bool_]:
    """All but the ``drop`` smallest; of equal scores the lower index is kept. -0.0 equals 0."""
    order = np.argsort(-scores, kind="stable")
    keep = np.zeros(len(scores), np.bool_)
    keep[order[: len(scores) - drop]] = True
    return keep


def keep_n_of_m(scores: NDArray[np.float64], n: int, m: int) -> NDArray[np.bool_]:
    """The ``n`` largest of every ``m`` consecutive scores."""
    groups = scores.reshape(-1, m)
    order = np.argsort(-groups, axis=1, kind="stable")
    keep = np.zeros(groups.shape, np.bool_)
    np.put_along_axis(keep, order[:, :n], True, axis=1)
    return keep.reshape(-1)
