"""The engine against the rule written plainly, and against itself cut into other pieces."""

from decimal import Decimal
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pruning.checkpoint.memory import MemorySource
from pruning.engine.compute import packed_masks
from pruning.engine.exact import keep_largest, keep_n_of_m
from pruning.engine.stream import Sizes
from pruning.importance import SCORES
from pruning.planning.plan import make_plan
from pruning.planning.spec import MaskSpec
from pruning.problems import ProblemError

DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]
LEVELS = ("0", "0.1", "0.5", "0.85")
CUTS = [Sizes(1), Sizes(2, 64, 64), Sizes(3, 64, 256), Sizes(5, 128, 128)]


def state(dtype=torch.float32, seed=0):
    """Two layers of awkward sizes: rows that end inside a byte, ties, zeros of both signs."""
    rng = torch.Generator().manual_seed(seed)
    shapes = {"q_proj": (12, 20), "up": (33, 7), "down": (7, 33), "out": (20, 12)}
    tensors = {
        f"layers.{i}.{name}.weight": (torch.randn(shape, generator=rng) * 0.02).to(dtype)
        for i in range(2)
        for name, shape in shapes.items()
    }
    tensors["layers.0.up.weight"][:9] = 0.0
    tensors["layers.0.up.weight"][3:5] = -0.0
    tensors["layers.1.down.weight"] = torch.arange(7 * 33).reshape(7, 33).remainder(5).to(dtype)
    return tensors


def run(tensors, *specs, sizes=None, bits=True):
    plan = make_plan(MemorySource(tensors), specs)
    levels = packed_masks(MemorySource(tensors), plan, sizes or Sizes(2))
    if not bits:
        return levels
    return [{name: bools(packed, tensors[name].shape) for name, packed in level.items()} for level in levels]


def bools(packed, shape):
    count = int(np.prod(shape))
    assert not np.unpackbits(packed, bitorder="little")[count:].any(), "padding bits are zero"
    return np.unpackbits(packed, bitorder="little")[:count].astype(bool).reshape(shape)


def truth(tensors, spec, score):
    """The rule: one stable sort per pool over the tensors in the order of their names."""
    plan = make_plan(MemorySource(tensors), [spec])
    masks = {}
    for pool in plan.pools[0]:
        names = [layer.name for layer in pool.layers]
        scores = [score(name).double().flatten().numpy() for name in names]
        keep = keep_largest(np.concatenate(scores), pool.drop)
        for name, part in zip(names, np.split(keep, np.cumsum([len(s) for s in scores])[:-1]), strict=True):
            masks[name] = part.reshape(tensors[name].shape)
    return masks


@pytest.mark.parametrize("allocation", ["uniform", "global", "erk"])
@pytest.mark.parametrize("dtype", [*DTYPES, "mixed"], ids=str)
def test_magnitude_equals_a_plain_sort(dtype, allocation):
    tensors = state(torch.float32 if dtype == "mixed" else dtype)
    if dtype == "mixed":
        tensors = {name: t.to(DTYPES[i % 4]) for i, (name, t) in enumerate(tensors.items())}
    specs = [MaskSpec(sparsity=Decimal(s), allocation=allocation) for s in LEVELS]
    for spec, masks in zip(specs, run(tensors, *specs), strict=True):
        expected = truth(tensors, spec, lambda name: tensors[name].double().abs())
        assert all((masks[name] == expected[name]).all() for name in expected)


@pytest.mark.parametrize("allocation", ["uniform", "global", "erk"])
@pytest.mark.parametrize("score", ["l2", "random", "cube"])
def test_other_scores_equal_a_plain_sort(score, allocation, cube):
    tensors = state()
    spec = MaskSpec(sparsity=Decimal("0.6"), allocation=allocation, score=score)
    scores = {
        "l2": lambda name: tensors[name].double().abs(),
        "random": lambda name: SCORES["random"](tensors[name], name=name),
        "cube": lambda name: tensors[name].double() ** 3,
    }
    expected = truth(tensors, spec, scores[score])
    (masks,) = run(tensors, spec)
    assert all((masks[name] == expected[name]).all() for name in expected)


@pytest.fixture
def cube():
    """A score with negative values: a registered function like any user's."""
    SCORES.register("cube")(lambda weight: weight.double() ** 3)
    yield
    SCORES.unregister("cube")


SPECS = [
    MaskSpec(sparsity=Decimal("0.37")),
    MaskSpec(sparsity=Decimal("0.37"), allocation="global"),
    MaskSpec(sparsity=Decimal("0.37"), allocation="erk", score="random", seed=7),
    MaskSpec(sparsity=Decimal("0.5"), pattern="row"),
    MaskSpec(sparsity=Decimal("0.5"), pattern="column", score="l2"),
    MaskSpec(pattern="2:4", include=("*q_proj*", "*out*")),
    MaskSpec(pattern="1:3", include=("*down*",)),
    MaskSpec(
        sparsity=Decimal("0.5"), pattern="block:4x4", include=("*q_proj*", "*out*"), allocation="global"
    ),
]


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name.rsplit("-", 1)[0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_bits_do_not_depend_on_threads_and_chunks(spec, dtype):
    tensors = state(dtype)
    expected, *others = (run(tensors, spec, sizes=sizes, bits=False)[0] for sizes in CUTS)
    for other in others:
        assert all((other[name] == expected[name]).all() for name in expected)


@pytest.mark.parametrize("allocation", ["uniform", "global", "erk"])
@pytest.mark.parametrize("score", ["magnitude", "random"])
def test_levels_are_nested_and_equal_those_computed_alone(score, allocation):
    tensors = state(torch.bfloat16)
    specs = [MaskSpec(sparsity=Decimal(s), allocation=allocation, score=score) for s in LEVELS]
    together = run(tensors, *specs)
    for looser, tighter in pairwise(together):
        assert not any((tighter[name] & ~looser[name]).any() for name in looser)
    for spec, masks in zip(specs, together, strict=True):
        (alone,) = run(tensors, spec)
        assert all((alone[name] == masks[name]).all() for name in masks)


weights = st.lists(
    st.one_of(st.sampled_from([0.0, -0.0, 1.0, -1.0, 0.5]), st.floats(-4, 4, width=16)),
    min_size=2,
    max_size=300,
)


@settings(max_examples=150, deadline=None)
@given(
    values=weights,
    cents=st.integers(0, 99),
    dtype=st.sampled_from(DTYPES),
    sizes=st.sampled_from(CUTS),
    rows=st.integers(1, 4),
)
def test_any_weights_drop_exactly_what_was_asked(values, cents, dtype, sizes, rows):
    values = (values * rows)[: len(values) // rows * rows]
    tensor = torch.tensor(values, dtype=dtype).view(rows, -1)
    sparsity = Decimal(cents) / 100
    drop = round(cents * tensor.numel() / 100) if cents * tensor.numel() % 50 else None
    if tensor.numel() < 2:
        return
    try:
        (masks,) = run({"w": tensor}, MaskSpec(sparsity=sparsity), sizes=sizes)
    except ProblemError as error:
        assert "drops all" in str(error)  # noqa: PT017
        return
    mask = masks["w"]
    if drop is not None:
        assert int((~mask).sum()) == drop
    kept = int(mask.sum())
    magnitudes = tensor.double().abs().flatten()
    # torch.topk may choose other ones of equal magnitudes, but never other magnitudes
    top = torch.topk(magnitudes, kept).values.sort().values
    assert torch.equal(magnitudes[torch.from_numpy(mask.ravel())].sort().values, top)
    assert (mask.ravel() == keep_largest(magnitudes.numpy(), tensor.numel() - kept)).all()


@settings(max_examples=100, deadline=None)
@given(
    values=weights,
    group=st.sampled_from([(1, 2), (2, 4), (4, 8), (3, 5), (1, 7), (16, 64), (63, 64)]),
    data=st.data(),
)
def test_n_of_m_equals_a_plain_sort_of_every_group(values, group, data):
    n, m = group
    columns = m * data.draw(st.integers(1, 5))
    rows = data.draw(st.integers(1, 12))
    dtype = data.draw(st.sampled_from(DTYPES))
    tensor = torch.tensor((values * 2000)[: rows * columns], dtype=dtype).view(rows, columns)
    if tensor.numel() != rows * columns:
        tensor = torch.zeros(rows, columns, dtype=dtype)
    (masks,) = run({"w": tensor}, MaskSpec(pattern=f"{n}:{m}"), sizes=data.draw(st.sampled_from(CUTS)))
    expected = keep_n_of_m(tensor.double().abs().flatten().numpy(), n, m)
    assert (masks["w"].ravel() == expected).all()


def test_n_of_m_of_a_long_tensor():
    """Long enough that the ranks are counted 64 at a time, in several pieces."""
    tensor = torch.randint(-9, 9, (300, 1024), generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    for n, m in ((2, 4), (3, 8), (1, 64)):
        (masks,) = run({"w": tensor}, MaskSpec(pattern=f"{n}:{m}"), sizes=Sizes(2, 1 << 12, 1 << 13))
        assert (masks["w"].ravel() == keep_n_of_m(tensor.double().abs().flatten().numpy(), n, m)).all()


def test_radix_select_over_many_pieces_and_bins():
    """Values over all exponents, so that thresholds fall in rare bins; ties across pieces."""
    rng = np.random.default_rng(0)
    values = np.exp(rng.uniform(-60, 60, 100_000)).astype(np.float32)
    values[rng.integers(0, 100_000, 30_000)] = values[17]
    tensor = torch.from_numpy(values).view(100, 1000)
    specs = [MaskSpec(sparsity=Decimal(s)) for s in ("0.001", "0.2", "0.35", "0.5", "0.999")]
    for spec, masks in zip(specs, run({"w": tensor}, *specs, sizes=Sizes(3, 1 << 12, 1 << 12)), strict=True):
        drop = round(spec.sparsity * 100_000)
        assert (masks["w"].ravel() == keep_largest(np.abs(values).astype(np.float64), drop)).all()


@pytest.mark.parametrize("misled", [False, True])
def test_a_guess_from_a_sample_may_be_wrong(misled, monkeypatch):
    """The sample is the beginning of every piece; where that tells nothing, one more read does."""
    from pruning.engine import select

    weight = torch.randn(16, 4096, generator=torch.Generator().manual_seed(0))
    if misled:
        weight[:4] *= 1e6
        monkeypatch.setattr(select, "_SAMPLE", 64)
    refined = []
    plain = select._next_digits
    monkeypatch.setattr(select, "_next_digits", lambda *a: refined.append(1) or plain(*a))
    (masks,) = run({"w": weight}, MaskSpec(sparsity=Decimal("0.5")), sizes=Sizes(1, 1 << 14, 1 << 16))
    assert (masks["w"].ravel() == keep_largest(weight.double().abs().flatten().numpy(), 1 << 15)).all()
    assert bool(refined) == misled


@pytest.mark.parametrize(
    ("pattern", "units"),
    [
        ("row", lambda w: w.mean(axis=1, keepdims=True)),
        ("column", lambda w: w.mean(axis=0, keepdims=True)),
        ("block:4x5", lambda w: w.reshape(3, 4, 4, 5).mean(axis=(1, 3)).repeat(4, 0).repeat(5, 1)),
    ],
)
def test_cells_of_a_grid_go_together(pattern, units):
    weight = state()["layers.0.q_proj.weight"]
    (masks,) = run({"w": weight}, MaskSpec(sparsity=Decimal("0.5"), pattern=pattern))
    score = np.broadcast_to(units(weight.double().abs().numpy()), weight.shape)
    mask = masks["w"]
    assert score[mask].min() > score[~mask].max()
    assert mask.mean() == 0.5


def test_heads_are_dropped_in_all_projections_of_their_module():
    rng = torch.Generator().manual_seed(1)
    heads, groups, width, model = 4, 2, 6, 24
    tensors = {
        "a.q_proj.weight": torch.randn(heads * width, model, generator=rng),
        "a.k_proj.weight": torch.randn(groups * width, model, generator=rng),
        "a.v_proj.weight": torch.randn(groups * width, model, generator=rng),
        "a.o_proj.weight": torch.randn(model, heads * width, generator=rng),
        "mlp.up.weight": torch.randn(8, 8, generator=rng),
    }
    q = tensors["a.q_proj.weight"].double().abs().reshape(heads, -1).mean(1)
    o = tensors["a.o_proj.weight"].double().abs().reshape(model, heads, width).mean((0, 2))
    order = (q + o).argsort(descending=True)
    for drop, sparsity in ((1, "0.25"), (2, "0.5"), (3, "0.75")):
        (masks,) = run(tensors, MaskSpec(sparsity=Decimal(sparsity), pattern="head:4"))
        kept = sorted(order[: heads - drop].tolist())
        assert sorted(masks) == [f"a.{p}_proj.weight" for p in "koqv"]
        assert np.flatnonzero(masks["a.q_proj.weight"].reshape(heads, -1).all(1)).tolist() == kept
        assert (
            np.flatnonzero(masks["a.o_proj.weight"].reshape(model, heads, width).all((0, 2))).tolist() == kept
        )
        readers = sorted({head // (heads // groups) for head in kept})
        for name in ("a.k_proj.weight", "a.v_proj.weight"):
            assert np.flatnonzero(masks[name].reshape(groups, -1).any(1)).tolist() == readers


def test_tied_tensors_are_masked_alike():
    embedding = torch.randn(10, 8)
    tensors = {
        "model.word_embeddings.weight": embedding,
        "model.lm_head.weight": embedding.clone(),
        "w": torch.ones(4, 4),
    }
    spec = MaskSpec(sparsity=Decimal("0.5"), score="random", include=("*embeddings*", "*lm_head*"))
    (masks,) = run(tensors, spec)
    assert (masks["model.word_embeddings.weight"] == masks["model.lm_head.weight"]).all()
    with pytest.raises(ProblemError, match=r"tied to model\.word_embeddings\.weight"):
        run(tensors, MaskSpec(sparsity=Decimal("0.5"), include=("*lm_head*",)))


@pytest.mark.parametrize(
    "pattern",
    [{"sparsity": Decimal("0.5")}, {"pattern": "2:4"}, {"sparsity": Decimal("0.5"), "pattern": "row"}],
)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("score", ["magnitude", "random"])
def test_a_weight_that_is_not_finite_is_named(score, dtype, value, pattern):
    tensors = {"a": torch.ones(8, 8, dtype=dtype), "b": torch.ones(8, 8, dtype=dtype)}
    tensors["b"][3, 3] = value
    with pytest.raises(ProblemError, match=r"(?s)b.*NaN or infinite.*fix: "):
        run(tensors, MaskSpec(score=score, **pattern))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("score", ["magnitude", "random"])
def test_nan_can_be_read_as_pruned(score, dtype):
    tensor = torch.arange(64, dtype=dtype).view(8, 8)
    tensor[2] = float("nan")
    tensor[7, 7] = torch.finfo(dtype).max
    (masks,) = run({"w": tensor}, MaskSpec(sparsity=Decimal("0.25"), nan_as_pruned=True, score=score))
    assert not masks["w"][2].any()
    assert masks["w"].sum() == 48
    with pytest.raises(ProblemError, match="more weights are NaN than the sparsity drops"):
        run({"w": tensor}, MaskSpec(sparsity=Decimal("0.1"), nan_as_pruned=True, score=score))
    tensor[0, 0] = float("inf")
    with pytest.raises(ProblemError, match="infinite"):
        run({"w": tensor}, MaskSpec(sparsity=Decimal("0.5"), nan_as_pruned=True, score=score))


def test_nan_as_pruned_in_groups():
    tensor = torch.arange(1.0, 17.0).view(2, 8)
    tensor[0, 1] = tensor[1, 6] = float("nan")
    (masks,) = run({"w": tensor}, MaskSpec(pattern="2:4", nan_as_pruned=True))
    assert not masks["w"][0, 1]
    tensor[0, 0] = tensor[0, 2] = float("nan")
    with pytest.raises(ProblemError, match="more NaN than it drops"):
        run({"w": tensor}, MaskSpec(pattern="2:4", nan_as_pruned=True))


def test_every_bad_layer_is_named_at_once():
    tensors = {name: torch.ones(8, 8) for name in ("a", "b", "c")}
    tensors["a"][0, 0] = tensors["c"][1, 1] = float("nan")
    with pytest.raises(ProblemError, match=r"(?s)1\. .*: a.*2\. .*: c"):
        run(tensors, MaskSpec(sparsity=Decimal("0.5")))


def test_scores_of_groups_that_overflow_are_an_error():
    rows = torch.tensor([[1e308] * 2, [1.5e308] * 2, [1.7e308] * 2, [1e307] * 2], dtype=torch.float64)
    with pytest.raises(ProblemError, match="add up to infinity"):
        run({"w": rows}, MaskSpec(sparsity=Decimal("0.5"), pattern="row"))


def test_a_score_must_give_the_same_values_again():
    calls = iter(range(100))
    SCORES.register("moody")(lambda weight: weight * next(calls))
    try:
        with pytest.raises(ProblemError, match="other values when it was asked again"):
            run(state(), MaskSpec(sparsity=Decimal("0.5"), score="moody", allocation="global"))
    finally:
        SCORES.unregister("moody")


def test_a_checkpoint_that_changes_meanwhile_is_an_error():
    class Changing(MemorySource):
        reads = 0

        def read(self, name, start, out):
            super().read(name, start, out)
            self.reads += 1
            if self.reads > 2:  # the sample and the digits; from here on the last read
                out[:] = 0

    source = Changing({"w": torch.randn(64, 64)})
    plan = make_plan(source, [MaskSpec(sparsity=Decimal("0.5"))])
    with pytest.raises(ProblemError, match="changed while it was read"):
        packed_masks(source, plan, Sizes(1))
