import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pruning.checkpoint.slabs import slabs


@given(st.lists(st.integers(1, 5), max_size=4), st.data())
def test_slabs_are_the_range_in_order(shape, data):
    whole = np.arange(np.prod(shape, dtype=int)).reshape(shape)
    start = data.draw(st.integers(0, whole.size))
    stop = data.draw(st.integers(start, whole.size))
    boxes = list(slabs(tuple(shape), start, stop))
    got = [index for box, size in boxes for index in whole[box].reshape(size).ravel()]
    assert got == list(range(start, stop))
    assert len(boxes) <= max(1, 2 * len(shape) - 1)


def test_nothing_of_an_empty_tensor():
    assert list(slabs((0, 4), 0, 0)) == []
