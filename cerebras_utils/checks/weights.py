"""Names and shapes of a model's weights, from its ``model:`` section alone: nothing is allocated."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pruning.problems import ProblemError

if TYPE_CHECKING:
    from torch import nn

FAMILIES = ("gpt2", "gpt3", "llama", "mistral")
_FIRST = re.compile(r"(.*\.layers\.)0(\..*)")


def weights_of_section(model: Mapping[str, Any], where: str) -> dict[str, tuple[int, ...]] | None:
    """None for a model that is not one of ``FAMILIES``, and for a section that builds none."""
    if model.get("name") not in FAMILIES:
        return None
    from cerebras_utils.fallback.models.options import options

    try:
        layers = options(model, where).num_hidden_layers
        one = _shapes({**model, "num_hidden_layers": 1}, where)  # stands for all: they are alike
    except ProblemError:
        return None
    found: dict[str, tuple[int, ...]] = {}
    for name, shape in one.items():
        match = _FIRST.fullmatch(name)
        for layer in range(layers) if match else (0,):
            found[f"{match[1]}{layer}{match[2]}" if match else name] = shape
    return found


def _shapes(model: Mapping[str, Any], where: str) -> dict[str, tuple[int, ...]]:
    return {
        name: tuple(tensor.shape) for name, tensor in model_without_values(model, where).state_dict().items()
    }


def model_without_values(model: Mapping[str, Any], where: str) -> "nn.Module":
    """What a section of one of the ``FAMILIES`` builds, on the device meta."""
    from cerebras_utils.fallback.models.build import build_model

    with no_values():
        return build_model(model, where)


@contextmanager
def no_values() -> Iterator[None]:
    """Tensors that are made here have no memory, and functions that change tensors in place do nothing."""
    import torch
    from torch.overrides import TorchFunctionMode

    class NoValues(TorchFunctionMode):
        """Drawing into tensors without memory has no effect, and would import half of torch to have none."""

        def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            name = getattr(function, "__name__", "")
            if name.endswith("_") and not name.endswith("__"):
                return args[0] if args else kwargs["tensor"]
            return function(*args, **(kwargs or {}))

    with torch.device("meta"), NoValues():
        yield
