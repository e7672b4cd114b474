"""Names and shapes of a model's weights, from its ``model:`` section alone: nothing is allocated."""

import re
from collections.abc import Mapping
from typing import Any

from pruning.problems import ProblemError

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
    import torch
    from torch.overrides import TorchFunctionMode

    from cerebras_utils.fallback.models.build import build_model

    class NoValues(TorchFunctionMode):
        """Drawing into tensors without memory has no effect, and would import half of torch to have none."""

        def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            name = getattr(function, "__name__", "")
            if name.endswith("_") and not name.endswith("__"):
                return args[0] if args else kwargs["tensor"]
            return function(*args, **(kwargs or {}))

    with torch.device("meta"), NoValues():
        return {name: tuple(tensor.shape) for name, tensor in build_model(model, where).state_dict().items()}
