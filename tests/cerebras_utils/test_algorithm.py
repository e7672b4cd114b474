"""The vendor's sparsity API with masks from a file, on its CPU backend, against a loop that multiplies."""

import gc

import pytest
import torch
from torch import nn

from pruning.mask_ops import save_mask
from pruning.problems import ProblemError

cstorch = pytest.importorskip("cerebras.pytorch", reason="cerebras.pytorch is not installed")
from cerebras_utils.algorithm import FileMaskSparsity  # noqa: E402

pytestmark = [
    pytest.mark.cerebras,
    pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning"),  # cstorch reads lazily
]


@pytest.fixture(autouse=True)
def _close_files():
    yield
    gc.collect()


@pytest.fixture(scope="module")
def backend():
    """One for the process, they say: other tests may have made it."""
    return cstorch.current_backend(raise_exception=False, raise_warning=False) or cstorch.backend("CPU")


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.one, self.two = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x):
        return x + self.two(torch.nn.functional.gelu(self.one(x)))


class Small(nn.Module):
    """Two blocks between an embedding and a head that share one weight."""

    def __init__(self, width=8, words=11):
        super().__init__()
        self.words = nn.Embedding(words, width)
        self.blocks = nn.ModuleList([Block(width), Block(width)])
        self.head = nn.Linear(width, words, bias=False)
        self.head.weight = self.words.weight

    def forward(self, tokens):
        x = self.words(tokens)
        for block in self.blocks:
            x = block(x)
        return nn.functional.cross_entropy(self.head(x[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())


def small():
    torch.manual_seed(0)
    return Small()


def random_masks(model, start=0.3):
    generator = torch.Generator().manual_seed(1)
    names = [n for n, p in model.named_parameters() if p.ndim == 2 and "blocks" in n]
    return {
        name: torch.rand(model.get_parameter(name).shape, generator=generator) >= start + 0.1 * index
        for index, name in enumerate(names)
    }


class Tokens(torch.utils.data.Dataset):
    def __len__(self):
        return 40

    def __getitem__(self, index):
        return torch.randint(0, 11, (6,), generator=torch.Generator().manual_seed(index))


def make_loader(batch_size):
    return torch.utils.data.DataLoader(Tokens(), batch_size=batch_size)


def trained(backend, model, path, steps=6, freeze=(), after_step=lambda optimizer: None):
    """Losses of a run on the vendor's backend, and its optimizer."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad = not any(part in name for part in freeze)
    compiled = cstorch.compile(model, backend)
    optimizer = cstorch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.01)
    algorithm = FileMaskSparsity(path)
    model.apply(algorithm)
    optimizer.apply(algorithm)

    @cstorch.trace
    def step(batch):
        loss = compiled(batch)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss

    losses = []
    executor = cstorch.utils.data.DataExecutor(cstorch.utils.data.DataLoader(make_loader, 4), num_steps=steps)
    for batch in executor:
        losses.append(step(batch).item())
        after_step(optimizer)
    return losses, optimizer, algorithm


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the vendor's backend writes where it is
    return tmp_path


def test_it_is_a_loop_that_multiplies_by_the_masks(backend, here):
    """Weights before the forward pass; gradients; state and weights after the step. To the bit."""
    model = small()
    masks = random_masks(model)
    save_mask(masks, "masks.safetensors")
    losses, _, algorithm = trained(backend, model, "masks.safetensors")
    assert len(set(algorithm.levels.values())) == len(masks) == 4
    for name, mask in masks.items():
        assert algorithm.levels[name] == 1 - mask.sum().item() / mask.numel()

    plain = small()
    optimizer = cstorch.optim.AdamW(plain.parameters(), lr=0.01)
    weights = {name: plain.get_parameter(name) for name in masks}
    expected = []
    batches = iter(make_loader(4))
    for _ in range(6):
        with torch.no_grad():
            for name, weight in weights.items():
                weight *= masks[name]
        loss = plain(next(batches))
        loss.backward()
        for name, weight in weights.items():
            weight.grad *= masks[name]
        optimizer.step()
        with torch.no_grad():
            for name, weight in weights.items():
                weight *= masks[name]
                for value in optimizer.state[weight].values():
                    if value.shape == weight.shape:
                        value *= masks[name]
        optimizer.zero_grad()
        expected.append(loss.item())
    assert losses == expected
    for name, weight in plain.named_parameters():
        assert torch.equal(weight, model.get_parameter(name)), name


def test_weights_and_state_are_zero_after_every_step(backend, here):
    model = small()
    masks = random_masks(model)
    save_mask(masks, "masks.safetensors")

    def check(optimizer):
        for name, mask in masks.items():
            weight = model.get_parameter(name)
            state = [v for v in optimizer.state[weight].values() if v.shape == weight.shape]
            assert len(state) == 2
            assert not any(value[~mask].any() for value in [weight, *state])

    trained(backend, model, "masks.safetensors", after_step=check)


@pytest.mark.parametrize("freeze", [("blocks",), ("one",)], ids=["all masked weights", "half of them"])
def test_frozen_weights_stay_masked(backend, here, freeze):
    """LoRA freezes them: the vendor's own algorithms raise at the first step then."""
    model = small()
    masks = random_masks(model)
    save_mask(masks, "masks.safetensors")
    before = {name: model.get_parameter(name).detach().clone() for name in masks}
    trained(backend, model, "masks.safetensors", steps=2, freeze=freeze)
    for name, mask in masks.items():
        weight = model.get_parameter(name)
        assert not weight[~mask].any()
        if any(part in name for part in freeze):
            assert torch.equal(weight, before[name] * mask)
        else:
            assert not torch.equal(weight, before[name] * mask)


def test_a_checkpoint_of_the_model_holds_the_masks_under_the_names_that_are_told(backend, here):
    model = small()
    masks = random_masks(model)
    save_mask(masks, "masks.safetensors")
    _, _, algorithm = trained(backend, model, "masks.safetensors", steps=1)
    state = model.state_dict()
    buffers = dict(algorithm.buffers(model))
    assert set(buffers) == {name for name in state if name.endswith("_mask")}
    for buffer, parameter in buffers.items():
        assert torch.equal(state[buffer], masks[parameter])


def test_all_that_does_not_fit_is_told_at_once_and_nothing_is_changed(backend, here):
    model = small()
    masks = random_masks(model)
    names = list(masks)
    wrong = {
        "blocks.0.onne.weight": masks[names[0]],
        names[1]: torch.ones(3, 3, dtype=torch.bool),
        names[2]: torch.zeros_like(masks[names[2]]),
    }
    save_mask(wrong, "wrong.safetensors")
    with pytest.raises(ProblemError, match=r"Did you mean 'blocks\.0\.one\.weight'"):
        FileMaskSparsity("wrong.safetensors").apply(model)
    del wrong["blocks.0.onne.weight"]
    save_mask(wrong, "wrong.safetensors", overwrite=True)
    with pytest.raises(ProblemError) as told:
        FileMaskSparsity("wrong.safetensors").apply(model)
    assert "is of shape (3, 3), the weight" in str(told.value)
    assert "drops every weight of its layer" in str(told.value)
    assert not [name for name in model.state_dict() if name.endswith("_mask")]


def test_one_mask_for_a_tied_weight_or_two_that_are_equal(backend, here):
    model = small()
    mask = torch.rand(model.words.weight.shape) >= 0.5
    save_mask({"words.weight": mask, "head.weight": mask}, "same.safetensors")
    algorithm = FileMaskSparsity("same.safetensors")
    algorithm.apply(model)
    assert list(algorithm.sparse_params) == ["words.weight"]
    save_mask({"words.weight": mask, "head.weight": mask.flip(0)}, "two.safetensors")
    with pytest.raises(ProblemError, match="both are of one weight"):
        FileMaskSparsity("two.safetensors").apply(small())


def test_a_weight_that_another_algorithm_has(backend, here):
    model = small()
    save_mask(random_masks(model), "masks.safetensors")
    FileMaskSparsity("masks.safetensors").apply(model)
    with (
        pytest.raises(ProblemError, match="another sparsity algorithm has"),
        pytest.warns(UserWarning, match="sparsified"),
    ):
        FileMaskSparsity("masks.safetensors").apply(model)
