"""The compiled kernels: histogram, refine and compare-and-pack over unsigned ordering keys.

A key is an unsigned integer whose order is the order of the scores; for a float the bit pattern
of |w| already is one. Keys come in chunks that fit in the L2 cache. All kernels release the GIL,
so plain Python threads run them in parallel, and reading overlaps with computing by itself.

Bits are packed least significant first, 64 keys to a little-endian word, which is the byte order
of a mask file.
"""

import sys
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from numpy.typing import NDArray

from pruning.compiled import compiled

assert sys.byteorder == "little", "the kernels pack little-endian words"

BINS = 1 << 16  # of one 16-bit digit
LANES = 4  # histograms side by side, so that equal neighbours do not wait for each other's store
WORD = 64  # keys per packed word
_BLOCK = 64  # words

Keys = NDArray[np.unsignedinteger[Any]]
Words = NDArray[np.uint64]
Counts = NDArray[np.uint32]


def _masked_vector(context: Any, builder: Any, keys: Any, array: Any, first: Any, mask: Any) -> Any:
    """IR that loads 64 keys, from any index on, and clears the bits outside ``mask``."""
    vector = ir.VectorType(ir.IntType(keys.dtype.bitwidth), WORD)
    data = context.make_array(keys)(context, builder, array).data
    values = builder.load(builder.bitcast(builder.gep(data, [first]), vector.as_pointer()))
    values.align = keys.dtype.bitwidth // 8
    return builder.and_(values, _splat(builder, vector, mask))


def _splat(builder: Any, vector: Any, scalar: Any) -> Any:
    undefined = ir.Constant(vector, ir.Undefined)
    one = builder.insert_element(undefined, scalar, ir.Constant(ir.IntType(32), 0))
    zeros = ir.Constant(ir.VectorType(ir.IntType(32), WORD), [0] * WORD)
    return builder.shuffle_vector(one, undefined, zeros)


def _compare_with_threshold(operator: str) -> Any:
    """A comparison of 64 masked keys with one threshold, as a 64-bit word: bit i is key i.

    Written as IR because no loop is reliably turned into it: with AVX-512 this is two or four
    compare instructions, and LLVM finds the best there is on every other machine.
    """

    def emit(typingctx: Any, keys: Any, start: Any, threshold: Any, mask: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            array, first, limit, bits = args
            values = _masked_vector(context, builder, keys, array, first, bits)
            found = builder.icmp_unsigned(operator, values, _splat(builder, values.type, limit))
            return builder.bitcast(found, ir.IntType(WORD))

        return types.uint64(keys, types.intp, keys.dtype, keys.dtype), codegen

    return intrinsic(emit)


@intrinsic  # type: ignore[untyped-decorator]
def _word_at_least(typingctx: Any, keys: Any, start: Any, other: Any, mask: Any) -> Any:
    """Bit i: is key ``start + i`` at least as large as key ``other + i``."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        array, first, second, bits = args
        left = _masked_vector(context, builder, keys, array, first, bits)
        right = _masked_vector(context, builder, keys, array, second, bits)
        return builder.bitcast(builder.icmp_unsigned(">=", left, right), ir.IntType(WORD))

    return types.uint64(keys, types.intp, types.intp, keys.dtype), codegen


_word_above = _compare_with_threshold(">")
_word_equal = _compare_with_threshold("==")


@intrinsic  # type: ignore[untyped-decorator]
def _ones(typingctx: Any, word: Any) -> Any:
    """Number of set bits."""
    return types.int64(types.uint64), lambda context, builder, sig, args: builder.ctpop(args[0])


@compiled
def histogram16(keys: Any, mask: Any, counts: Any) -> None:
    """Add to ``counts[lane, key & mask]``. Four keys are loaded at a time."""
    quads = keys[: keys.size // 4 * 4].view(np.uint64)
    wide = np.uint64(mask)
    one = np.uint32(1)
    for i in range(quads.size):
        quad = quads[i]
        counts[0, quad & wide] += one
        counts[1, (quad >> np.uint64(16)) & wide] += one
        counts[2, (quad >> np.uint64(32)) & wide] += one
        counts[3, (quad >> np.uint64(48)) & wide] += one
    for i in range(quads.size * 4, keys.size):
        counts[0, keys[i] & mask] += one


@compiled
def histogram_high(keys: Any, mask: Any, counts: Any) -> None:
    """Add to ``counts[lane, top 16 bits of key & mask]``."""
    shift = np.uint64(keys.itemsize * 8 - 16)
    wide = np.uint64(mask)
    one = np.uint32(1)
    whole = keys.size // 4 * 4
    for i in range(0, whole, 4):
        counts[0, (np.uint64(keys[i]) & wide) >> shift] += one
        counts[1, (np.uint64(keys[i + 1]) & wide) >> shift] += one
        counts[2, (np.uint64(keys[i + 2]) & wide) >> shift] += one
        counts[3, (np.uint64(keys[i + 3]) & wide) >> shift] += one
    for i in range(whole, keys.size):
        counts[0, (np.uint64(keys[i]) & wide) >> shift] += one


@compiled
def refine(keys: Any, mask: Any, prefixes: Any, shift: Any, counts: Any) -> None:
    """For keys whose bits above ``shift + 16`` equal ``prefixes[p]``: add to ``counts[p, next 16 bits]``.

    Few keys qualify, so they are found 64 at a time: ``prefix`` is brought to the key's own
    width and compared with the lower bits masked away.
    """
    low = np.uint64(shift)
    high = np.uint64(shift + 16)
    wide = np.uint64(mask)
    one = np.uint32(1)
    upper = type(mask)(wide >> high << high)
    words = keys.size // WORD
    for word in range(words):
        for p in range(prefixes.size):
            found = _word_equal(keys, word * WORD, type(mask)(prefixes[p] << high), upper)
            while found != 0:
                lane = _ones((found & (~found + np.uint64(1))) - np.uint64(1))
                key = np.uint64(keys[word * WORD + lane]) & wide
                counts[p, (key >> low) & np.uint64(0xFFFF)] += one
                found &= found - np.uint64(1)
    for i in range(words * WORD, keys.size):
        key = np.uint64(keys[i]) & wide
        for p in range(prefixes.size):
            if key >> high == prefixes[p]:
                counts[p, (key >> low) & np.uint64(0xFFFF)] += one


@compiled
def split(keys: Any, mask: Any, thresholds: Any, first: Any, above: Any, ties: Any, tied: Any) -> None:
    """One row per level: bits of the keys above its threshold, bits of those equal to it.

    Rows are written from word ``first`` on, and the number of ties is added to ``tied``. Unused
    bits of the last word are zero.
    """
    words = keys.size // WORD
    for begin in range(0, words, _BLOCK):  # a block stays in the L1 cache for all levels
        end = min(begin + _BLOCK, words)
        for level in range(thresholds.size):
            threshold = thresholds[level]
            count = np.int64(0)
            for word in range(begin, end):
                above[level, first + word] = _word_above(keys, word * WORD, threshold, mask)
                equal = _word_equal(keys, word * WORD, threshold, mask)
                ties[level, first + word] = equal
                count += _ones(equal)
            tied[level] += count
    if words * WORD < keys.size:
        for level in range(thresholds.size):
            greater = np.uint64(0)
            equal = np.uint64(0)
            for i in range(words * WORD, keys.size):
                bit = np.uint64(1) << np.uint64(i - words * WORD)
                key = keys[i] & mask
                if key > thresholds[level]:
                    greater |= bit
                elif key == thresholds[level]:
                    equal |= bit
            above[level, first + words] = greater
            ties[level, first + words] = equal
            tied[level] += _ones(equal)


@compiled
def count_above(keys: Any, mask: Any, threshold: Any) -> Any:
    words = keys.size // WORD
    count = np.int64(0)
    for word in range(words):
        count += _ones(_word_above(keys, word * WORD, threshold, mask))
    for i in range(words * WORD, keys.size):
        count += (keys[i] & mask) > threshold
    return count


@compiled
def keep_first_ties(above: Any, ties: Any, quota: Any) -> Any:
    """Add the first ``quota`` ties to ``above`` in place; the number of bits that are then set."""
    kept = np.int64(0)
    for i in range(above.size):
        word = ties[i]
        if word != 0 and quota > 0:
            here = _ones(word)
            while here > quota:  # drop the highest ties of the word where the quota ends
                top = word
                for shift in (1, 2, 4, 8, 16, 32):
                    top |= top >> np.uint64(shift)
                word &= top >> np.uint64(1)
                here -= 1
            above[i] |= word
            quota -= here
        kept += _ones(above[i])
    return kept


@compiled
def pack_n_of_m(keys: Any, mask: Any, n: Any, m: Any, packed: Any) -> Any:
    """Keep the ``n`` largest of every ``m`` consecutive keys, ties to the lower index.

    A key's rank is the number of keys in its group that come before it. Where ``m`` divides 64
    the ranks of 64 keys are counted at once: plane b holds bit b of every rank, and the outcome
    of one comparison at distance d serves both keys that it compares.
    """
    words = 0
    if WORD % m == 0:
        words = max(0, (keys.size - m) // WORD)  # the last comparisons look m - 1 keys ahead
        planes = np.zeros(7, np.uint64)
        partner = _lanes_with_partner(m)
        for word in range(words):
            for b in range(planes.size):
                planes[b] = 0
            for distance in range(1, m):
                wins = _word_at_least(keys, word * WORD, word * WORD + distance, mask)
                _count(planes, ~wins & partner[distance])
                _count(planes, (wins & partner[distance]) << np.uint64(distance))
            packed[word] = _less_than(planes, n)
    return _pack_rest(keys, mask, n, m, words, packed)


@compiled
def _lanes_with_partner(m: Any) -> Any:
    """For each distance: the lanes whose group of ``m`` has a key this far ahead of them."""
    lanes = np.zeros(m, np.uint64)
    for distance in range(1, m):
        for i in range(WORD):
            if i % m + distance < m:
                lanes[distance] |= np.uint64(1) << np.uint64(i)
    return lanes


@compiled
def _count(planes: Any, carry: Any) -> None:
    """Add one to the number of every lane in ``carry``."""
    b = 0
    while carry != 0:
        carried = planes[b] & carry
        planes[b] ^= carry
        carry = carried
        b += 1


@compiled
def _less_than(planes: Any, n: Any) -> Any:
    """Lanes whose number, spread over the planes, is less than ``n``."""
    less = np.uint64(0)
    equal = ~np.uint64(0)
    for b in range(planes.size - 1, -1, -1):
        if n >> b & 1:
            less |= equal & ~planes[b]
            equal &= planes[b]
        else:
            equal &= ~planes[b]
    return less


@compiled
def _pack_rest(keys: Any, mask: Any, n: Any, m: Any, words: Any, packed: Any) -> Any:
    """The groups after the first ``words`` words, one key at a time."""
    packed[words:] = 0
    for start in range(words * WORD, keys.size, m):
        for i in range(start, start + m):
            key = keys[i] & mask
            rank = 0
            for j in range(start, i):
                rank += (keys[j] & mask) >= key
            for j in range(i + 1, start + m):
                rank += (keys[j] & mask) > key
            if rank < n:
                packed[i // WORD] |= np.uint64(1) << np.uint64(i % WORD)
    kept = np.int64(0)
    for word in packed:
        kept += _ones(word)
    return kept


@compiled
def random_keys(stream: Any, start: Any, out: Any) -> None:
    """A random number in [1, 2**30] for each flat index, by the SplitMix64 mixing of (stream, index).

    Counter-based: a key depends on nothing but its own index, so not on chunks or threads.
    """
    for i in range(out.size):
        z = stream + np.uint64(start + i + 1) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        out[i] = np.uint32((z ^ (z >> np.uint64(31))) >> np.uint64(34)) + np.uint32(1)


@compiled
def add_cells(values: Any, start: Any, columns: Any, high: Any, wide: Any, sums: Any) -> None:
    """Add each value to the sum of its grid cell, in flat order: so the sums are the same bits
    however the matrix was cut into pieces. ``columns`` is the width of the whole matrix."""
    across = columns // wide
    row = start // columns
    column = start % columns
    for i in range(values.size):
        sums[row // high * across + column // wide] += values[i]
        column += 1
        if column == columns:
            column = 0
            row += 1


@compiled
def pack_cells(keep: Any, start: Any, count: Any, columns: Any, high: Any, wide: Any, packed: Any) -> Any:
    """Bits of ``count`` elements from flat index ``start``, a multiple of 8; the number of ones."""
    across = columns // wide
    row = start // columns
    column = start % columns
    packed[:] = 0
    kept = np.int64(0)
    for i in range(count):
        if keep[row // high * across + column // wide]:
            packed[i >> 3] |= np.uint8(1 << (i & 7))
            kept += 1
        column += 1
        if column == columns:
            column = 0
            row += 1
    return kept


def warm_up() -> None:
    """Compile every kernel for every key width, so that no command waits for it later."""
    mask = {np.uint16: 0x7FFF, np.uint32: 0x7FFFFFFF, np.uint64: (1 << 63) - 1}
    one, row = np.zeros(1, np.int64), np.zeros((1, 4), np.uint64)
    for dtype, bits in mask.items():
        keys, limit = np.zeros(200, dtype), dtype(bits)
        counts = np.zeros((LANES, BINS), np.uint32)
        if dtype is np.uint16:
            histogram16(keys, limit, counts)
        else:
            histogram_high(keys, limit, counts)
            refine(keys, limit, np.zeros(1, np.uint64), 0, counts)
        split(keys, limit, np.zeros(1, dtype), 0, row, row.copy(), one)
        pack_n_of_m(keys, limit, 2, 4, row[0])
        count_above(keys, limit, limit)
    keep_first_ties(row[0], row[0].copy(), 1)
    random_keys(np.uint64(0), 0, np.zeros(1, np.uint32))
    add_cells(np.zeros(4), 0, 2, 1, 2, np.zeros(2))
    pack_cells(np.zeros(2, np.bool_), 0, 4, 2, 1, 2, np.zeros(1, np.uint8))


if __name__ == "__main__":
    warm_up()
