from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pruning.planning.allocation import ALLOCATIONS, Layer
from pruning.planning.amount import drop_count, parse_sparsity
from pruning.problems import ProblemError


def layers(*shapes):
    return [Layer(f"w{i}", shape, shape[0] * shape[1]) for i, shape in enumerate(shapes)]


LLAMA = layers((4096, 4096), (1024, 4096), (14336, 4096), (4096, 14336))


@pytest.mark.parametrize(
    ("sparsity", "expected"),
    [("0.5", (0.29545, 0, 0.54708, 0.54708)), ("0.9", (0.86531, 0.66327, 0.91341, 0.91341))],
)
def test_erk_gives_the_published_shares(sparsity, expected):
    pools = ALLOCATIONS["erk"](LLAMA, Decimal(sparsity))
    assert [pool.drop / pool.units for pool in pools] == pytest.approx(expected, abs=5e-6)


shapes = st.lists(st.tuples(st.integers(1, 40), st.integers(1, 40)), min_size=1, max_size=6)
levels = st.integers(0, 999).map(lambda n: Decimal(n) / 1000)


@given(shapes, levels)
@pytest.mark.parametrize("name", ["erk", "global"])
def test_the_total_is_exact(name, shapes, sparsity):
    pools = ALLOCATIONS[name](layers(*shapes), sparsity)
    assert sum(pool.drop for pool in pools) == drop_count(sparsity, sum(h * w for h, w in shapes))
    assert all(0 <= pool.drop <= pool.units for pool in pools)


@given(shapes, levels, levels)
@pytest.mark.parametrize("name", list(ALLOCATIONS))
def test_no_layer_gets_denser_when_the_sparsity_grows(name, shapes, one, other):
    looser, tighter = (ALLOCATIONS[name](layers(*shapes), s) for s in sorted((one, other)))
    assert all(a.drop <= b.drop for a, b in zip(looser, tighter, strict=True))


@given(shapes, levels)
def test_erk_densities_follow_the_shapes(shapes, sparsity):
    """Between layers that are not dense, kept weights go as the sum of the shape."""
    pools = ALLOCATIONS["erk"](layers(*shapes), sparsity)
    ratios = [
        (Fraction(2 * (pool.units - pool.drop) - 1, 2 * sum(pool.layers[0].shape)),
         Fraction(2 * (pool.units - pool.drop) + 1, 2 * sum(pool.layers[0].shape)))
        for pool in pools
        if pool.drop
    ]  # fmt: skip
    assert not ratios or max(low for low, _ in ratios) <= min(high for _, high in ratios)


def test_uniform_rounds_every_layer_by_itself():
    assert [p.drop for p in ALLOCATIONS["uniform"](layers((3, 1), (5, 1), (7, 1)), Decimal("0.5"))] == [
        2,
        2,
        4,
    ]


@pytest.mark.parametrize(
    ("written", "count", "drop"),
    [
        ("0.1", 10, 1),
        ("0.3", 10, 3),
        ("0.29", 100, 29),
        ("0.5", 3, 2),
        ("0.5", 5, 2),
        ("0.07", 10**12, 7 * 10**10),
    ],
)
def test_counts_are_of_the_decimal_that_was_written(written, count, drop):
    assert drop_count(parse_sparsity(written), count) == drop
    assert drop_count(parse_sparsity(float(written)), count) == drop


@pytest.mark.parametrize("wrong", ["1", "1.0", "-0.1", "nan", "inf", "half", "", "50", 1, True, None, "0,5"])
def test_sparsity_outside_its_range_is_an_error(wrong):
    with pytest.raises(ProblemError, match="fix: "):
        parse_sparsity(wrong)


def test_percent_is_explained():
    with pytest.raises(ProblemError, match=r"50 % is 0\.5"):
        parse_sparsity("50")


def test_equal_sparsities_are_equal_texts():
    assert {str(parse_sparsity(s)) for s in ("0.5", ".50", 0.5, "5e-1")} == {"0.5"}
