"""The picture: what it says, that labels stand apart, and that nothing global changes."""

import sys

import numpy as np
import pytest

from pruning.mask_ops import plot_sparsity_histogram, save_mask
from pruning.masks.plots import natural_key
from pruning.problems import ProblemError

# Matplotlib 3.9 calls pyparsing by names that its later releases replaced.
pytestmark = pytest.mark.filterwarnings("ignore:.* deprecated - use .*:DeprecationWarning")

KINDS = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj")
KINDS += ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")


def llama(number):
    rng = np.random.default_rng(0)
    names = [f"model.layers.{i}.{kind}.weight" for i in range(-(-number // 7)) for kind in KINDS]
    return {name: rng.random(200) < 0.3 for name in names[:number]}


@pytest.mark.parametrize("number", [1, 6, 32, 300])
def test_labels_never_overlap(number):
    figure = plot_sparsity_histogram(llama(number))
    figure.draw_without_rendering()
    bars = figure.axes[0]
    assert len(bars.patches) == number
    horizontal = number > 40
    labels = bars.get_xticklabels() if horizontal else bars.get_yticklabels()
    places = sorted(label.get_position()[0 if horizontal else 1] for label in labels)
    pixels = bars.transData.transform([(place, place) for place in places])[:, 0 if horizontal else 1]
    text = max(label.get_fontsize() for label in labels) * figure.dpi / 72
    assert all(np.abs(np.diff(pixels)) >= text)


def test_the_title_tells_the_sparsity_and_the_counts():
    masks = {"a.weight": np.arange(10) >= 4, "b.weight": np.arange(10) >= 5}
    title = plot_sparsity_histogram(masks).get_suptitle()
    assert title == "Global sparsity 45.00%: 9 of 20 weights dropped, in 2 masks"


def test_bars_stand_in_model_order():
    figure = plot_sparsity_histogram({f"layers.{i}.w": np.arange(12) >= i for i in (10, 2, 1)})
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["1.w", "2.w", "10.w"]
    assert [bar.get_width() for bar in figure.axes[0].patches] == pytest.approx([1 / 12, 2 / 12, 10 / 12])
    assert sorted(["b10", "b9", "a"], key=natural_key) == ["a", "b9", "b10"]


def test_kinds_of_weight_are_told_apart():
    labels = plot_sparsity_histogram(llama(70)).axes[0].get_xticklabels()
    assert sorted(label.get_text() for label in labels) == sorted(f"{kind} (10)" for kind in KINDS)


@pytest.mark.parametrize(("suffix", "start"), [("png", b"\x89PNG"), ("pdf", b"%PDF"), ("svg", b"<?xml")])
def test_the_suffix_is_the_format_and_a_picture_is_replaced(tmp_path, suffix, start):
    path = tmp_path / "pictures" / f"histogram.{suffix}"
    for number in (2, 3):
        plot_sparsity_histogram(llama(number), save_path=path)
    assert path.read_bytes().startswith(start)
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_an_unknown_picture_format(tmp_path):
    with pytest.raises(ProblemError, match=r"end the name in \.png or \.pdf or \.svg"):
        plot_sparsity_histogram(llama(2), save_path=tmp_path / "a.jpg")


def test_a_mask_file_is_drawn_as_well(tmp_path):
    figure = plot_sparsity_histogram(save_mask(llama(8), tmp_path / "masks.safetensors"))
    assert len(figure.axes[0].patches) == 8
    assert "matplotlib.pyplot" not in sys.modules


def test_no_masks():
    with pytest.raises(ProblemError, match="no masks to draw"):
        plot_sparsity_histogram({})
