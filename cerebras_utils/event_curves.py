"""Event files of long runs, as arrays: the same scalars as ``events_file.read_scalars``, compiled.

Two hundred runs of ten thousand steps are hundreds of megabytes in records of fifty bytes. One compiled pass
checks, reads and sorts them by tag; what is not as it should be is left to the plain reader, which says so.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cerebras_utils.events_file import _CRC_TABLE, VERSION, read_scalars
from pruning.compiled import compiled
from pruning.problems import fail

Bytes = NDArray[np.uint8]
_TABLE = np.array(_CRC_TABLE, np.uint32)
_MOST_TAGS = 1 << 14
_SMALLEST = 16 + 9  # bytes of a record with a scalar in it


@dataclass(frozen=True)
class Curve:
    """One tag of one file, in the order of the file."""

    steps: NDArray[np.int64]
    values: NDArray[np.float32]
    times: NDArray[np.float64]  # seconds since the epoch


def read_curves(path: str | os.PathLike[str]) -> dict[str, Curve]:
    """Every scalar of an event file by tag. Damage is an error as of ``read_scalars``, a cut end is none."""
    file = Path(path)
    try:
        data = np.fromfile(file, np.uint8)
    except OSError as error:
        raise fail(file, f"cannot be read: {error.strerror or error}", "check the path") from error
    version = np.frombuffer(VERSION, np.uint8)
    most = len(data) // _SMALLEST + 1
    tags = np.empty((_MOST_TAGS, 2), np.int64)
    of, steps = np.empty(most, np.int32), np.empty(most, np.int64)
    values, times = np.empty(most, np.float32), np.empty(most, np.float64)
    found, count = _scan(data, _TABLE, version, tags, of, steps, values, times)
    if found < 0:
        return {tag: _curve(scalars) for tag, scalars in read_scalars(file).items()}
    order = np.argsort(of[:count], kind="stable")
    ends = np.cumsum(np.bincount(of[:count], minlength=found))
    curves = {}
    for number in range(found):
        start, length = tags[number]
        chosen = order[ends[number - 1] if number else 0 : ends[number]]
        name = data[start : start + length].tobytes().decode()
        curves[name] = Curve(steps[chosen], values[chosen], times[chosen])
    return curves


def _curve(scalars: Any) -> Curve:
    steps, values, times = zip(*scalars, strict=True)
    return Curve(np.array(steps, np.int64), np.array(values, np.float32), np.array(times, np.float64))


@compiled
def _checksum(data: Bytes, start: int, stop: int, table: NDArray[np.uint32]) -> Any:
    crc = np.uint32(0xFFFFFFFF)
    for i in range(start, stop):
        crc = (crc >> np.uint32(8)) ^ table[(crc ^ data[i]) & np.uint32(0xFF)]
    crc ^= np.uint32(0xFFFFFFFF)
    return np.uint32(((crc >> np.uint32(15)) | (crc << np.uint32(17))) + np.uint32(0xA282EAD8))


@compiled
def _word(data: Bytes, at: int, size: int) -> Any:
    number = np.uint64(0)
    for i in range(size):
        number |= np.uint64(data[at + i]) << np.uint64(8 * i)
    return number


@compiled
def _varint(data: Bytes, at: int, stop: int) -> Any:
    """The number and where it ends; -1 where it does not end."""
    number = np.uint64(0)
    for shift in range(10):
        if at >= stop:
            return np.uint64(0), -1
        byte = data[at]
        number |= np.uint64(byte & 0x7F) << np.uint64(7 * shift)
        at += 1
        if byte < 0x80:
            return number, at
    return np.uint64(0), -1


@compiled
def _field(data: Bytes, at: int, stop: int) -> Any:
    """(key, number, start, end) of the field at ``at``; end is -1 where it is not understood."""
    key, at = _varint(data, at, stop)
    if at < 0:
        return key, np.uint64(0), 0, -1
    wire, number, start = key & np.uint64(7), np.uint64(0), at
    if wire == 0:
        number, at = _varint(data, at, stop)
        return key, number, start, at
    if wire == 2:
        length, start = _varint(data, at, stop)
        if start < 0 or length > np.uint64(stop - start):
            return key, number, 0, -1
        return key, number, start, start + np.int64(length)
    size = 8 if wire == 1 else 4
    if (wire != 1 and wire != 5) or at + size > stop:
        return key, number, 0, -1
    return key, _word(data, at, size), at, at + size


@compiled
def _tag_number(data: Bytes, start: int, length: int, tags: Any, known: int, guess: int) -> Any:
    """Which of the known tags; ``known`` itself for a new one. Tags come in turn: the next is guessed."""
    for tried in range(known):
        number = (guess + tried) % known
        if tags[number, 1] == length:
            other, same = tags[number, 0], True
            for i in range(length):
                if data[start + i] != data[other + i]:
                    same = False
                    break
            if same:
                return number
    return known


@compiled
def _scan(
    data: Bytes, table: Any, version: Bytes, tags: Any, of: Any, steps: Any, values: Any, times: Any
) -> Any:
    """(tags, scalars); tags is -1 where the plain reader must look at it."""
    at: Any = 0
    known, count, guess, first = 0, 0, 0, True
    size = len(data)
    bits32, bits64 = np.empty(1, np.uint32), np.empty(1, np.uint64)
    while size - at >= 12:
        if _checksum(data, at, at + 8, table) != np.uint32(_word(data, at + 8, 4)):
            return -1, 0
        length = _word(data, at, 8)
        if length + np.uint64(4) > np.uint64(size - at - 12):
            break
        begin = at + 12
        stop = begin + np.int64(length)
        if _checksum(data, begin, stop, table) != np.uint32(_word(data, stop, 4)):
            return -1, 0
        wall, step, inner, said, told = 0.0, np.int64(0), begin, False, False
        while inner < stop:  # an event; its time and step come before its summary
            key, number, start, end = _field(data, inner, stop)
            if end < 0:
                return -1, 0
            if told and (key == 9 or key == 16):
                return -1, 0
            if key == 9:
                bits64[0] = number
                wall = bits64.view(np.float64)[0]
            elif key == 16:
                step = np.int64(number)
            elif key == 26:
                said = end - start == len(version)
                for i in range(len(version)):
                    said = said and data[start + i] == version[i]
            elif key == 42:
                told, value_at = True, start
                while value_at < end:
                    key, number, value_start, value_end = _field(data, value_at, end)
                    if value_end < 0:
                        return -1, 0
                    value_at = value_end
                    if key != 10:
                        continue
                    tag_start, tag_length, has = 0, 0, False
                    field_at = value_start
                    while field_at < value_end:
                        key, number, field_start, field_end = _field(data, field_at, value_end)
                        if field_end < 0:
                            return -1, 0
                        field_at = field_end
                        if key == 10:
                            tag_start, tag_length = field_start, field_end - field_start
                        elif key == 21:
                            bits32[0], has = np.uint32(number), True
                    if has:
                        tag = _tag_number(data, tag_start, tag_length, tags, known, guess)
                        if tag == known:
                            if known == len(tags):
                                return -1, 0
                            tags[known] = (tag_start, tag_length)
                            known += 1
                        guess = tag + 1
                        of[count], steps[count], times[count] = tag, step, wall
                        values[count] = bits32.view(np.float32)[0]
                        count += 1
            inner = end
        if first and not said:
            return -1, 0
        first = False
        at = stop + 4
    return known, count
