import pytest
import torch

from pruning.checkpoint.open import open_checkpoint
from pruning.problems import ProblemError


def raw(tensor):
    """The elements as bytes, by torch: the oracle of every reader."""
    return tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes()


@pytest.fixture(name="raw")
def raw_fixture():
    return raw


@pytest.fixture
def same():
    """Assert that a source lists and delivers exactly these tensors."""

    def check(source, tensors):
        assert list(source.infos) == sorted(tensors)
        for name, tensor in tensors.items():
            info = source.infos[name]
            assert (info.shape, info.nbytes) == (tuple(tensor.shape), len(raw(tensor))), name
            assert source.array(name).tobytes() == raw(tensor), name

    return check


@pytest.fixture
def refused():
    """Assert that opening is refused with these words, and with something to do about it."""

    def check(what, *words, call=open_checkpoint):
        with pytest.raises(ProblemError) as caught:
            call(what)
        message = str(caught.value)
        assert all(problem.fix for problem in caught.value.problems)
        for word in words:
            assert str(word) in message, message
        return caught.value.problems

    return check


@pytest.fixture
def tensors():
    """One tensor of every dtype, and the shapes that are easy to get wrong."""
    generator = torch.Generator().manual_seed(0)
    floats = torch.randn(5, 7, 3, generator=generator)
    return {
        "f64": floats.double(),
        "f32": floats,
        "f16": floats.half(),
        "bf16": floats.bfloat16(),
        "f8": floats.to(torch.float8_e4m3fn),
        "i64": torch.arange(-3, 9),
        "i32": torch.arange(6, dtype=torch.int32).view(2, 3),
        "i16": torch.arange(-3, 3, dtype=torch.int16),
        "i8": torch.arange(-3, 3, dtype=torch.int8),
        "u8": torch.arange(9, dtype=torch.uint8),
        "bool": torch.tensor([True, False, True]),
        "scalar": torch.tensor(2.5),
        "empty": torch.empty(0, 4),
    }
