"""The benchmark of LoRA measures what it says."""

from pruning.lora import layers
from pruning.lora.arithmetic import gated_linear
from tests.benchmarks.lora import KINDS, PLAIN_EXPRESSION, measure, table


def test_kinds_side_by_side():
    hidden, count = 32, 2
    found = measure(hidden=hidden, tokens=8, layers=count, rank=2, repeat=2)
    assert list(found) == [*KINDS, PLAIN_EXPRESSION]
    assert found["plain LoRA"]["to plain LoRA"] == 1
    assert all(row["from"] <= row["ms"] <= row["to"] for row in found.values())
    weight = 4 * hidden * hidden
    more = found[PLAIN_EXPRESSION]["kept"] - found["sparse_to_sparse"]["kept"]
    assert more == (count - 1) * weight  # the first layer has no gradient of its input to compute
    assert found["sparse_to_sparse"]["kept"] < found["plain LoRA"]["kept"]  # whose B·(A·x) is kept, too
    assert layers.gated_linear is gated_linear
    assert len(table(found).splitlines()) == 2 + len(found)
