"""The callback alone, with as little of a trainer as it looks at."""

from collections import OrderedDict
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from cerebras_utils.fallback.mdl_writer import save_mdl
from cerebras_utils.sparse_callback import MARK, SparseMaskCallback, read_mark
from pruning.mask_ops import save_mask
from pruning.problems import ProblemError

NAMES = ("model.0.weight", "model.1.weight")


@pytest.fixture
def masks(tmp_path):
    generator = torch.Generator().manual_seed(0)
    masks = {name: torch.rand((6, 6), generator=generator) >= 0.5 for name in NAMES}
    save_mask(masks, tmp_path / "masks.safetensors")
    return masks


@pytest.fixture
def trainer():
    torch.manual_seed(0)
    model = nn.Sequential(OrderedDict(model=nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6))))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    return SimpleNamespace(model=model, optimizer=optimizer, callbacks={}, global_step=0)


@pytest.fixture
def make(tmp_path, trainer):
    def made(apply_every_step=True):
        callback = SparseMaskCallback(str(tmp_path / "masks.safetensors"), apply_every_step)
        for hook in ("pre_setup", "setup", "post_setup"):
            getattr(callback, hook)(trainer)
        return callback

    return made


def step(callback, trainer, meddle=lambda: None, gradient=None):
    trainer.model(torch.randn(3, 6)).square().sum().backward()
    if gradient is not None:
        gradient()
    callback.on_before_optimizer_step(trainer, trainer.model, trainer.optimizer)
    trainer.optimizer.step()
    callback.on_after_optimizer_step(trainer, trainer.model, trainer.optimizer)
    meddle()
    trainer.optimizer.zero_grad()
    trainer.global_step += 1
    callback.on_train_batch_end(trainer, trainer.model, {}, {}, 0)


def start(callback, trainer):
    callback.on_fit_start(trainer, None, None, None)


def test_a_weight_that_another_callback_revives_is_told_by_layer_and_number(masks, trainer, make):
    callback = make()
    start(callback, trainer)
    step(callback, trainer)
    weight = trainer.model.get_parameter(NAMES[1])
    places = (~masks[NAMES[1]]).nonzero()[:2]

    def meddle():
        with torch.no_grad():
            weight[places[:, 0], places[:, 1]] = 0.1

    with pytest.raises(
        ProblemError, match=rf"step 2: model\.1\.weight\n +2 of the {(~masks[NAMES[1]]).sum()}"
    ):
        step(callback, trainer, meddle)


def test_a_gradient_that_is_nan_under_the_mask_reaches_nothing(masks, trainer, make):
    callback = make()
    start(callback, trainer)
    weight = trainer.model.get_parameter(NAMES[0])

    def spoil():
        weight.grad[~masks[NAMES[0]]] = float("nan")

    step(callback, trainer, gradient=spoil)
    assert weight.isfinite().all()
    assert all(value.isfinite().all() for value in trainer.optimizer.state[weight].values())


@pytest.mark.parametrize("every_step", [True, False])
def test_what_a_mask_would_hide_is_an_error(masks, trainer, make, every_step):
    callback = make(every_step)
    with torch.no_grad():
        trainer.model.get_parameter(NAMES[0])[~masks[NAMES[0]]] = float("inf")
    with pytest.raises(ProblemError, match=f"{int((~masks[NAMES[0]]).sum())} values under the mask are NaN"):
        start(callback, trainer)


def saved(path, callback, trainer):
    tree = {"model": dict(trainer.model.state_dict()), "global_step": trainer.global_step}
    callback.on_save_checkpoint(trainer, tree)
    save_mdl(path, tree)
    callback.on_after_save_checkpoint(trainer, str(path))
    return tree


def test_the_receipt_is_of_the_file_not_of_the_memory(tmp_path, masks, trainer, make):
    callback = make()
    start(callback, trainer)
    step(callback, trainer)
    assert callback.receipt()["found_in"] == "memory"
    saved(tmp_path / "c.mdl", callback, trainer)
    with torch.no_grad():
        trainer.model.get_parameter(NAMES[0]).fill_(1)
    callback.on_fit_end(trainer, None)
    receipt = callback.receipt()
    assert receipt["found_in"] == str(tmp_path / "c.mdl")
    assert (receipt["resurrected"], receipt["newly_dead"]) == (0, 0)
    for name, mask in masks.items():
        assert receipt["layers"][name]["sparsity"] == int((~mask).sum()) / mask.numel()


def test_a_saved_checkpoint_that_is_not_sparse_is_an_error(tmp_path, masks, trainer, make):
    callback = make()
    start(callback, trainer)
    with torch.no_grad():
        trainer.model.get_parameter(NAMES[0]).fill_(1)
    saved(tmp_path / "c.mdl", callback, trainer)
    back = int((~masks[NAMES[0]]).sum())
    with pytest.raises(ProblemError, match=f"{back} weights that the mask drops are not zero in the saved"):
        callback.on_fit_end(trainer, None)
    assert callback.receipt()["resurrected"] == back


def test_newly_dead_are_counted_from_the_start_of_the_run(tmp_path, masks, trainer, make):
    callback = make()
    weight = trainer.model.get_parameter(NAMES[0])
    kept = masks[NAMES[0]].nonzero()
    with torch.no_grad():
        weight[kept[0, 0], kept[0, 1]] = 0
    start(callback, trainer)
    with torch.no_grad():
        weight[kept[:3, 0], kept[:3, 1]] = 0
    saved(tmp_path / "c.mdl", callback, trainer)
    callback.on_fit_end(trainer, None)
    assert callback.receipt()["newly_dead"] == 2


def test_once_the_mark_is_read_from_the_file_where_a_callback_has_removed_it(tmp_path, masks, trainer, make):
    first = make(apply_every_step=False)
    start(first, trainer)
    step(first, trainer)
    tree = saved(tmp_path / "c.mdl", first, trainer)
    assert read_mark(str(tmp_path / "c.mdl")) == tree[MARK] == {"mode": "once", "sha256": first.digest}
    second = make(apply_every_step=False)
    second.on_before_load_checkpoint(trainer, str(tmp_path / "c.mdl"))
    alone = {"model": {name: value.clone() for name, value in tree["model"].items()}}
    second.preprocess_checkpoint(trainer, alone)
    for name, mask in masks.items():
        assert torch.equal(alone["model"][name], tree["model"][name])
        assert alone["model"][name][~mask].any(), "it had grown back"


def test_masks_that_the_file_lacks_and_the_checkpoint_has(tmp_path, masks, trainer, make):
    tree = saved(tmp_path / "c.mdl", make(), trainer)
    save_mask({NAMES[0]: masks[NAMES[0]]}, tmp_path / "masks.safetensors", overwrite=True)
    with pytest.raises(ProblemError, match=r"has no mask for model\.1\.weight, and the checkpoint has one"):
        make().preprocess_checkpoint(trainer, tree)


def test_a_mask_file_that_is_not_there(tmp_path, make):
    with pytest.raises(ProblemError, match="cannot be read"):
        make()


def test_masks_that_cszoo_would_refuse_are_refused_here_too(masks, trainer, make, tmp_path):
    path = tmp_path / "masks.safetensors"
    save_mask({**masks, NAMES[0]: torch.zeros_like(masks[NAMES[0]])}, path, overwrite=True)
    with pytest.raises(ProblemError, match="drops every weight of its layer"):
        make()
    trainer.model.register_module("tied", trainer.model.get_submodule(NAMES[0].removesuffix(".weight")))
    save_mask({**masks, "tied.weight": ~masks[NAMES[0]]}, path, overwrite=True)
    with pytest.raises(ProblemError, match=r"both are of one weight \(tied\)"):
        make()
