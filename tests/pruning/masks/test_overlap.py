"""How alike masks are, against plain counting and against chance."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pruning.mask_ops import save_mask
from pruning.masks.overlap import compare_masks

PAIRS = st.integers(0, 60).flatmap(lambda n: st.tuples(arrays(bool, n), arrays(bool, n)))


@given(PAIRS)
def test_counts_are_those_of_plain_arrays(pair):
    a, b = pair
    found = compare_masks({"w": a}, {"w": b}).total
    union = int((a | b).sum())
    assert found.both == int((a & b).sum())
    assert found.iou == (found.both / union if union else 1.0)
    assert found.agreement == pytest.approx(float((a == b).mean()) if len(a) else 1.0)
    assert found.a_in_b == (not (a & ~b).any())
    assert found.b_in_a == (not (b & ~a).any())


def test_independent_masks_meet_their_chance_level():
    rng = np.random.default_rng(0)
    a, b = rng.random(200_000) < 0.5, rng.random(200_000) < 0.2
    found = compare_masks({"w": a}, {"w": b}).total
    assert found.chance_iou == pytest.approx(0.5 * 0.2 / (0.5 + 0.2 - 0.1), rel=0.02)
    assert found.iou == pytest.approx(found.chance_iou, rel=0.02)


def test_the_chance_of_the_total_is_that_of_the_layers_not_of_the_pooled_sparsity():
    """Two masks that share only which layer is dense overlap by chance, whatever the pooled numbers say."""
    masks = {"dense": np.ones(100, bool), "empty": np.zeros(100, bool)}
    total = compare_masks(masks, masks).total
    assert total.iou == total.chance_iou == 1.0


def test_files_in_any_format_are_compared_and_what_has_no_partner_is_listed(tmp_path):
    a = {"same": np.ones((2, 3), bool), "turned": np.ones((2, 3), bool), "left": np.ones(4, bool)}
    b = {"same": np.eye(2, 3, dtype=bool), "turned": np.ones((3, 2), bool), "right": np.ones(4, bool)}
    found = compare_masks(save_mask(a, tmp_path / "a.npz"), save_mask(b, tmp_path / "b.safetensors"))
    assert list(found.per_layer) == ["same"]
    assert (found.per_layer["same"].kept_a, found.per_layer["same"].kept_b) == (6, 2)
    assert found.per_layer["same"].b_in_a
    assert not found.per_layer["same"].a_in_b
    assert found.only_in_a == ("left",)
    assert found.only_in_b == ("right",)
    assert found.shapes_differ == {"turned": ((2, 3), (3, 2))}
    assert not found.complete
