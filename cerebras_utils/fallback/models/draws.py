"""Random draws as ModelZoo's trainer makes them, so that a seed gives the weights that it gives there.

While a model is made, every function that draws gets a generator of its own, seeded by one draw
from torch's default generator. A weight then depends on how many draws came before it, those that
were overwritten included, and not on how many numbers they were.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

_DRAWING = frozenset({"uniform_", "normal_", "kaiming_uniform_"})  # all that initializers and layers call


class OwnGenerators(TorchFunctionMode):
    """``with OwnGenerators():`` around the making of a model."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        given = dict(kwargs or {})
        if getattr(func, "__name__", "") in _DRAWING and given.get("generator") is None:
            seed = torch.randint(sys.maxsize, (1,), generator=torch.default_generator)
            given["generator"] = torch.Generator().manual_seed(int(seed))
        return func(*args, **given)
