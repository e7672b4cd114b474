"""Against scipy, and against numbers that can be checked by hand."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.stats import Comparison, estimate, holm, paired, t_cdf, t_quantile, t_tail

stats = pytest.importorskip("scipy.stats", reason="scipy is not installed here")

VALUES = st.lists(st.floats(-100, 100), min_size=3, max_size=12)


@pytest.mark.parametrize("freedom", [1, 2, 3, 7, 30, 200])
@pytest.mark.parametrize("t", [0.0, 0.01, 0.7, 1.0, 2.0, 4.3, 12.7, 60.0])
def test_students_distribution(t: float, freedom: int) -> None:
    assert t_cdf(t, freedom) == pytest.approx(stats.t.cdf(t, freedom), rel=1e-11)
    assert t_cdf(-t, freedom) == pytest.approx(stats.t.cdf(-t, freedom), rel=1e-11)
    assert t_tail(t, freedom) == pytest.approx(stats.t.sf(t, freedom), rel=1e-10)
    assert t_quantile(0.975, freedom) == pytest.approx(stats.t.ppf(0.975, freedom), rel=1e-11)


@given(VALUES)
def test_an_interval_is_scipys(values: list[float]) -> None:
    found = estimate(values)
    assert found.n == len(values)
    error = stats.sem(values)
    assert found.half == pytest.approx(error * stats.t.ppf(0.975, len(values) - 1), rel=1e-8, abs=1e-9)


def test_a_single_value_has_no_interval() -> None:
    assert estimate([3.0]).half is None
    assert estimate([3.0, math.inf]).half is None


def test_infinities_of_both_signs_are_no_number_and_no_error() -> None:
    assert math.isnan(estimate([math.inf, -math.inf]).mean)
    assert estimate([1.0, math.inf]).mean == math.inf
    found = paired({1: math.inf, 2: 1.0, 3: 1.0}, {1: 1.0, 2: math.inf, 3: 1.0})
    assert (found.pairs, found.p) == (3, None)


@given(st.integers(3, 9), st.integers(0, 1000))
def test_a_paired_test_is_scipys(n: int, seed: int) -> None:
    import random

    draw = random.Random(seed)
    ours = {i: draw.gauss(0.3, 1) for i in range(n)}
    theirs = {i: draw.gauss(0, 1) for i in range(n)}
    found = paired(ours, {**theirs, 99: 5.0})
    expected = stats.ttest_rel([ours[i] for i in range(n)], [theirs[i] for i in range(n)])
    assert found.pairs == n
    assert found.p == pytest.approx(expected.pvalue, rel=1e-7)


def test_too_few_pairs_are_said_to_be_too_few() -> None:
    found = paired({1: 1.0, 2: 2.0}, {1: 0.0, 2: 1.0})
    assert (found.difference, found.p) == (1.0, None)
    assert "n too small (2 of 3" in found.verdict
    assert paired({1: 1.0}, {2: 1.0}).difference is None


def test_equal_differences_are_certain() -> None:
    assert paired({1: 1.0, 2: 2.0, 3: 3.0}, {1: 0.0, 2: 1.0, 3: 2.0}).p == 0.0
    assert paired({1: 1.0, 2: 2.0, 3: 3.0}, {1: 1.0, 2: 2.0, 3: 3.0}).p == 1.0


def test_holm_by_hand() -> None:
    given = {"a": 0.01, "b": 0.04, "c": 0.03, "d": None}
    found = holm({name: Comparison(1.0, 3, p) for name, p in given.items()})
    assert [found[name].p_holm for name in "abc"] == pytest.approx([0.03, 0.06, 0.06])
    assert found["d"].p_holm is None
    assert (found["a"].verdict, found["b"].verdict) == ("differs", "no difference shown")
