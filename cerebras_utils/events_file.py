"""TensorBoard event files, byte for byte: what ``tensorboard`` reads and writes, on the standard library.

A file is a row of records (length, its checksum, payload, its checksum), a payload a protobuf
``Event``. Only what a run logs is known here, scalars as ``simple_value``; text, histograms and
tensors that another writer put there are passed over.
"""

import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from pruning.problems import fail

VERSION = b"brain.Event:2"  # the first event of every file
_COPY = "copy the file again from where it was written"

_CRC_TABLE = []
for _byte in range(256):
    for _ in range(8):
        _byte = _byte >> 1 ^ (0x82F63B78 if _byte & 1 else 0)
    _CRC_TABLE.append(_byte)

# Fields of the protobuf messages Event, Summary and Summary.Value, and the wire types of protobuf.
_WALL_TIME, _STEP, _FILE_VERSION, _SUMMARY = 1, 2, 3, 5
_VALUE = 1
_TAG, _SIMPLE_VALUE = 1, 2
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


class Scalar(NamedTuple):
    step: int
    value: float
    wall_time: float


def masked_crc32c(data: bytes) -> int:
    """CRC-32C, rotated and offset: so a checksum of data that holds checksums stays a good one."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ _CRC_TABLE[(crc ^ byte) & 0xFF]
    crc ^= 0xFFFFFFFF
    return (crc >> 15 | crc << 17) + 0xA282EAD8 & 0xFFFFFFFF


def record(payload: bytes) -> bytes:
    length = struct.pack("<Q", len(payload))
    return b"".join(
        (length, struct.pack("<I", masked_crc32c(length)), payload, struct.pack("<I", masked_crc32c(payload)))
    )


def version_event(wall_time: float) -> bytes:
    return _fixed64(_WALL_TIME, wall_time) + _bytes(_FILE_VERSION, VERSION)


def scalar_event(tag: str, value: float, step: int, wall_time: float) -> bytes:
    """A value beyond float32 becomes an infinity, as it does in every writer of this format."""
    try:
        packed = struct.pack("<f", value)
    except OverflowError:
        packed = struct.pack("<f", float("inf") if value > 0 else float("-inf"))
    simple_value = _key(_SIMPLE_VALUE, _FIXED32) + packed
    summary = _bytes(_VALUE, _bytes(_TAG, tag.encode()) + simple_value)
    when = _key(_STEP, _VARINT) + _varint(step) if step else b""  # protobuf leaves a zero out
    return _fixed64(_WALL_TIME, wall_time) + when + _bytes(_SUMMARY, summary)


def read_scalars(path: str | os.PathLike[str]) -> dict[str, list[Scalar]]:
    """Every scalar of an event file by tag, in the order of the file.

    A last record that was cut short (the writer was killed, or is writing) is left out; any other
    damage is an error.
    """
    file, found = Path(path), dict[str, list[Scalar]]()
    try:
        with file.open("rb") as stream:
            for number, (position, payload) in enumerate(_records(stream, file)):
                try:
                    version, scalars = _event(payload)
                except (ValueError, struct.error) as error:
                    raise fail(
                        f"{file}: byte {position}", f"is not a TensorBoard event: {error}", _COPY
                    ) from None
                if number == 0 and version != VERSION:
                    raise fail(
                        file, "is no event file: it does not begin with its version", "name another file"
                    )
                for tag, scalar in scalars:
                    found.setdefault(tag, []).append(scalar)
    except OSError as error:
        raise fail(file, f"cannot be read: {error.strerror or error}", "check the path") from error
    return found


def _records(stream: BinaryIO, file: Path) -> Iterator[tuple[int, bytes]]:
    """Payloads with their positions, up to the end of the file as it is now."""
    size = os.fstat(stream.fileno()).st_size
    position = 0
    while size - position >= 12:
        head = stream.read(12)
        length, checksum = struct.unpack("<QI", head)
        if masked_crc32c(head[:8]) != checksum:
            raise fail(f"{file}: byte {position}", "is not the start of a record: the file is damaged", _COPY)
        if length + 4 > size - position - 12:
            return
        payload = stream.read(length)
        if masked_crc32c(payload) != struct.unpack("<I", stream.read(4))[0]:
            raise fail(f"{file}: byte {position}", "the checksum of this record is wrong", _COPY)
        yield position, payload
        position += 16 + length


def _event(payload: bytes) -> tuple[bytes, list[tuple[str, Scalar]]]:
    """The version that an event states, and its scalars."""
    wall_time, step, version = 0.0, 0, b""
    values = []
    for field, value in _fields(payload):
        if field == _WALL_TIME:
            (wall_time,) = struct.unpack("<d", _as_bytes(value))
        elif field == _STEP:
            step = _as_int(value)
        elif field == _FILE_VERSION:
            version = _as_bytes(value)
        elif field == _SUMMARY:
            values += [_as_bytes(inner) for key, inner in _fields(_as_bytes(value)) if key == _VALUE]
    scalars = []
    for fields in map(dict, map(_fields, values)):
        if _SIMPLE_VALUE in fields:
            (number,) = struct.unpack("<f", _as_bytes(fields[_SIMPLE_VALUE]))
            tag = _as_bytes(fields.get(_TAG, b"")).decode()
            scalars.append((tag, Scalar(step, number, wall_time)))
    return version, scalars


def _fields(message: bytes) -> Iterator[tuple[int, bytes | int]]:
    position = 0
    while position < len(message):
        key, position = _read_varint(message, position)
        field, wire = key >> 3, key & 7
        if wire == _VARINT:
            number, position = _read_varint(message, position)
            yield field, number
            continue
        if wire == _BYTES:
            length, position = _read_varint(message, position)
        elif wire in (_FIXED64, _FIXED32):
            length = 8 if wire == _FIXED64 else 4
        else:
            raise ValueError(f"field {field} is of unknown wire type {wire}")
        if length > len(message) - position:
            raise ValueError(f"field {field} goes on past the end")
        yield field, message[position : position + length]
        position += length


def _read_varint(message: bytes, position: int) -> tuple[int, int]:
    number = 0
    for shift in range(0, 70, 7):
        if position == len(message):
            raise ValueError("a number goes on past the end")
        byte = message[position]
        number |= (byte & 0x7F) << shift
        position += 1
        if byte < 0x80:
            return number & 0xFFFFFFFFFFFFFFFF, position
    raise ValueError("a number of more than 64 bits")


def _as_bytes(value: bytes | int) -> bytes:
    if isinstance(value, int):
        raise ValueError("a field of the wrong type")
    return value


def _as_int(value: bytes | int) -> int:
    """Two's complement of 64 bits."""
    if not isinstance(value, int):
        raise ValueError("a field of the wrong type")
    return value - (1 << 64) if value >> 63 else value


def _key(field: int, wire: int) -> bytes:
    return _varint(field << 3 | wire)


def _varint(number: int) -> bytes:
    number &= 0xFFFFFFFFFFFFFFFF
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def _fixed64(field: int, number: float) -> bytes:
    return _key(field, _FIXED64) + struct.pack("<d", number)


def _bytes(field: int, data: bytes) -> bytes:
    return _key(field, _BYTES) + _varint(len(data)) + data
