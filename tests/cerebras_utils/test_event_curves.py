"""The compiled reader gives what the plain one gives, damage included."""

import math
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cerebras_utils.event_curves import read_curves
from cerebras_utils.events_file import read_scalars, record, scalar_event, version_event
from pruning.problems import ProblemError

EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["loss", "lr/0", "", "sparsity/é/actual", "los"]),
        st.floats(width=32, allow_nan=True),
        st.integers(-(2**63), 2**63 - 1),
        st.floats(0, 2e9),
    ),
    max_size=20,
)


def same(file: Path) -> None:
    curves, scalars = read_curves(file), read_scalars(file)
    assert list(curves) == list(scalars)
    for tag, expected in scalars.items():
        found = curves[tag]
        assert found.steps.tolist() == [scalar.step for scalar in expected]
        assert found.times.tolist() == [scalar.wall_time for scalar in expected]
        assert np.array_equal(
            found.values, np.array([scalar.value for scalar in expected], np.float32), equal_nan=True
        )


@settings(max_examples=60, deadline=None)
@given(events=EVENTS, cut=st.integers(0, 40))
def test_any_events_and_any_cut(
    events: list[tuple[str, float, int, float]], cut: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    file = tmp_path_factory.mktemp("events") / "events.out.tfevents.1"
    records = [record(version_event(1.0))]
    records += [record(scalar_event(tag, value, step, time)) for tag, value, step, time in events]
    data = b"".join(records)
    file.write_bytes(data[: max(len(records[0]), len(data) - cut)])
    same(file)


def test_several_values_in_one_event_and_fields_of_other_writers(tmp_path: Path) -> None:
    def value(tag: bytes, number: float, extra: bytes = b"") -> bytes:
        inner = b"\x0a" + bytes([len(tag)]) + tag + extra + b"\x15" + struct.pack("<f", number)
        return b"\x0a" + bytes([len(inner)]) + inner

    summary = value(b"a", 1.0, b"\x4a\x02hi") + value(b"b", math.inf) + b"\x0a\x03\x0a\x01t"
    event = b"\x09" + struct.pack("<d", 3.5) + b"\x10\x07\x2a" + bytes([len(summary)]) + summary + b"\x38\x05"
    file = tmp_path / "events.out.tfevents.1"
    file.write_bytes(record(version_event(1.0)) + record(event))
    same(file)
    assert read_curves(file).keys() == {"a", "b"}


@pytest.mark.parametrize("position", [3, 9, 20, -1, -9])
def test_damage_is_the_same_error(position: int, tmp_path: Path) -> None:
    file = tmp_path / "events.out.tfevents.1"
    data = bytearray(record(version_event(1.0)) + record(scalar_event("loss", 1.0, 1, 2.0)))
    data[position] ^= 0x40
    file.write_bytes(data)
    with pytest.raises(ProblemError) as plain:
        read_scalars(file)
    with pytest.raises(ProblemError) as compiled:
        read_curves(file)
    assert str(compiled.value) == str(plain.value)


def test_another_file_is_refused_and_an_empty_one_has_no_curves(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(record(b"\x09" + b"\0" * 8))
    with pytest.raises(ProblemError, match="no event file"):
        read_curves(tmp_path / "a")
    (tmp_path / "b").touch()
    assert read_curves(tmp_path / "b") == {}
    with pytest.raises(ProblemError, match="cannot be read"):
        read_curves(tmp_path / "c")
