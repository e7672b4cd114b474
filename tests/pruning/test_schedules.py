import math

import pytest

from pruning.schedules import SCHEDULES, iterative_rate


def at(schedule, *steps):
    return [schedule(step) for step in steps]


def test_cubic_gives_the_published_values():
    cubic = SCHEDULES["cubic"](0.8, steps=100)
    assert at(cubic, 0, 25, 50, 100) == pytest.approx([0, 0.4625, 0.7, 0.8])
    assert at(cubic, -5, 1000) == pytest.approx([0, 0.8])


def test_linear():
    assert at(SCHEDULES["linear"](0.6, steps=10, initial=0.2, begin=5), 0, 5, 10, 15, 99) == pytest.approx(
        [0.2, 0.2, 0.4, 0.6, 0.6]
    )


def test_exponential_multiplies():
    schedule = SCHEDULES["exponential"](0.8, steps=4, initial=0.05)
    assert at(schedule, 0, 1, 2, 4) == pytest.approx([0.05, 0.1, 0.2, 0.8])
    assert math.isclose(schedule(3) / schedule(2), schedule(1) / schedule(0))


def test_one_shot_and_levels():
    assert at(SCHEDULES["one_shot"](0.5, begin=3), 2, 3) == [0, 0.5]
    assert at(SCHEDULES["list"]([0.0, 0.2, 0.8], every=10, begin=5), 0, 14, 15, 25, 999) == [
        0,
        0,
        0.2,
        0.8,
        0.8,
    ]


def test_iterative_rate_gives_the_published_value():
    assert iterative_rate(0.9, 10) == pytest.approx(0.2057, abs=5e-5)
    assert 1 - (1 - iterative_rate(0.9, 10)) ** 10 == pytest.approx(0.9)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: SCHEDULES["exponential"](0.8, steps=4, initial=0), "cannot start at 0"),
        (lambda: SCHEDULES["cubic"](1.0, steps=4), r"in \[0, 1\)"),
        (lambda: SCHEDULES["linear"](0.5, steps=0), "at least 1"),
        (lambda: SCHEDULES["list"]([], every=1), "at least one level"),
        (lambda: SCHEDULES["list"]([0.5], every=0), "at least 1"),
        (lambda: iterative_rate(0.5, 0), "at least 1"),
    ],
)
def test_what_makes_no_schedule_is_an_error(call, says):
    with pytest.raises(ValueError, match=says):
        call()


def test_unknown_schedule_suggests():
    with pytest.raises(LookupError, match="Did you mean 'cubic'"):
        SCHEDULES["cubik"]
