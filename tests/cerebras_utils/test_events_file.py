"""The bytes of TensorBoard's event files, against bytes that tensorboard itself wrote."""

import math
import struct

import pytest
import torch

from cerebras_utils.events_file import (
    Scalar,
    masked_crc32c,
    read_scalars,
    record,
    scalar_event,
    version_event,
)
from pruning.problems import ProblemError

# The version; loss = 0.5 at step 3; lr/0 = 0 at step 0; x = NaN at step 3e11: by tensorboard 2.17.1.
GOLDEN = bytes.fromhex(
    "1800000000000000a37f4b2209000000000000f83f1a0d627261696e2e4576656e743a322a28646c"
    "1a00000000000000129bd82d09000000000000024010032a0d0a0b0a046c6f7373150000003faf2219d2"
    "1800000000000000a37f4b220900000000000008402a0d0a0b0a046c722f3015000000004bdabba6"
    "1c00000000000000c8c1951d0900000000000008401080f092cbdd082a0a0a080a0178150000c07f4d45196e"
)


def written(tmp_path, data):
    path = tmp_path / "events.out.tfevents.1.host.1.0"
    path.write_bytes(data)
    return path


def test_the_bytes_are_those_of_tensorboard():
    events = [
        version_event(1.5),
        scalar_event("loss", 0.5, 3, 2.25),
        scalar_event("lr/0", 0.0, 0, 3.0),
        scalar_event("x", math.nan, 300_000_000_000, 3.0),
    ]
    assert b"".join(map(record, events)) == GOLDEN


def test_reads_what_tensorboard_wrote(tmp_path):
    scalars = read_scalars(written(tmp_path, GOLDEN))
    assert scalars["loss"] == [(3, 0.5, 2.25)]
    assert scalars["lr/0"] == [Scalar(step=0, value=0.0, wall_time=3.0)]
    assert scalars["x"][0].step == 300_000_000_000
    assert math.isnan(scalars["x"][0].value)


def test_the_checksum_is_crc32c():
    crc = (masked_crc32c(b"123456789") - 0xA282EAD8) & 0xFFFFFFFF
    assert (crc >> 17 | crc << 15) & 0xFFFFFFFF == 0xE3069283  # the check value of CRC-32C


@pytest.mark.parametrize("value", [1e39, -1e39, math.inf, -math.inf])
def test_what_float32_does_not_hold_is_infinite(tmp_path, value):
    file = written(tmp_path, record(version_event(0)) + record(scalar_event("a", value, -1, 0)))
    assert read_scalars(file)["a"] == [(-1, math.copysign(math.inf, value), 0)]


def test_a_file_cut_anywhere_holds_the_whole_records_before_the_cut(tmp_path):
    ends, position = [], 0
    while position < len(GOLDEN):
        position += 16 + struct.unpack_from("<Q", GOLDEN, position)[0]
        ends.append(position)
    assert len(ends) == 4
    for cut in range(len(GOLDEN) + 1):
        scalars = read_scalars(written(tmp_path, GOLDEN[:cut]))
        assert sum(map(len, scalars.values())) == max(0, sum(end <= cut for end in ends) - 1)


def test_a_changed_byte_is_found(tmp_path):
    """A changed length is caught by its checksum, before it is believed."""
    for position in range(len(GOLDEN)):
        data = bytearray(GOLDEN)
        data[position] ^= 0x10
        with pytest.raises(ProblemError, match="byte"):
            read_scalars(written(tmp_path, data))


@pytest.mark.parametrize(
    "payload",
    [
        b"\x0a",  # a field of bytes without its length
        b"\x0a\x05ab",  # and with one past the end
        b"\x80" * 11,  # a number without an end
        b"\x0b",  # the start of a group: not in these messages
        b"\x08\x01",  # the wall time as a whole number
        b"\x2a\x03\x0a\x01\x15",  # a value whose float is cut off
    ],
)
def test_good_checksums_over_no_event(tmp_path, payload):
    with pytest.raises(ProblemError, match="is not a TensorBoard event"):
        read_scalars(written(tmp_path, record(version_event(0)) + record(payload)))


def test_what_is_no_event_file(tmp_path):
    with pytest.raises(ProblemError, match="cannot be read"):
        read_scalars(tmp_path / "absent")
    with pytest.raises(ProblemError, match="cannot be read"):
        read_scalars(tmp_path)
    with pytest.raises(ProblemError, match="not the start of a record"):
        read_scalars(written(tmp_path, b"step,loss\n1,0.5\n"))
    with pytest.raises(ProblemError, match="does not begin with its version"):
        read_scalars(written(tmp_path, record(scalar_event("loss", 1, 1, 1))))
    assert read_scalars(written(tmp_path, b"")) == {}


def test_other_kinds_of_values_are_passed_over(tmp_path):
    """As torch's writer leaves them beside scalars."""
    tensorboard = pytest.importorskip(
        "torch.utils.tensorboard", reason="tensorboard is not installed here", exc_type=ImportError
    )
    with tensorboard.SummaryWriter(str(tmp_path)) as writer:
        writer.add_text("note", "some text", 1)
        writer.add_scalar("loss", 0.25, 1, walltime=7.0)
        writer.add_histogram("weights", torch.arange(8.0), 1)
        writer.add_scalar("loss", 0.125, 2, walltime=8.0)
    (file,) = tmp_path.iterdir()
    assert read_scalars(file) == {"loss": [(1, 0.25, 7.0), (2, 0.125, 8.0)]}
