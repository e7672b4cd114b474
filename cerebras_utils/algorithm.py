"""Masks from a file as one of the vendor's sparsity algorithms.

On a CPU and a GPU that is masking before the forward pass and after the optimizer step; for the CS-3
it is what the compiler is told. Each weight, and each tensor of its optimizer state, carries a hint
that equals the sparsity of that weight's own mask, not one number for all of them.

    algorithm = FileMaskSparsity("masks.safetensors")
    model.apply(algorithm)
    optimizer.apply(algorithm)

Imports Cerebras software: import this module inside functions only.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from cerebras.pytorch.sparse import SparsityAlgorithm
from cerebras.pytorch.sparse.base import SparseParameter

from cerebras_utils.mask_matching import matched
from pruning.masks.file import MaskFile
from pruning.problems import Problem, ProblemError

if TYPE_CHECKING:
    from torch import Tensor, nn

HINTS = ("min_sparsity", "max_sparsity", "sparsity")


class FileMaskSparsity(SparsityAlgorithm):  # type: ignore[misc]  # untyped where Cerebras is not installed
    """Constant masks, each read when its weight needs it, with the backend already chosen.

    ``masks`` maps a parameter to the name of its mask in the file, ``levels`` to its hint: the mask's own
    sparsity.
    """

    def __init__(self, mask_path: str) -> None:
        super().__init__(sparsity=None)
        self.mask_path = str(mask_path)
        self.masks: dict[str, str] = {}
        self.levels: dict[str, float] = {}

    def sparsify_module(self, module: "nn.Module") -> None:
        """All masks must find their weights, or nothing is changed and every one that does not is told."""
        parameters = dict(module.named_parameters(remove_duplicate=False))
        with MaskFile(self.mask_path) as file:
            self.masks = matched(file, parameters)
            self.levels = {parameter: file.sparsity(mask) for parameter, mask in self.masks.items()}
        super().sparsify_module(module)
        reached = {id(parameters[name]) for name in self.sparse_params}
        if left := [mask for name, mask in self.masks.items() if id(parameters[name]) not in reached]:
            what = "is of a weight that the model marks as dense, or that another sparsity algorithm has"
            fix = "leave this mask out, and use one sparsity algorithm"
            raise ProblemError([Problem(f"{self.mask_path}: {mask}", what, fix) for mask in left])

    def sparsify_parameter(self, module: "nn.Module", name: str, param: "Tensor | None") -> None:
        if param is None or name not in self.masks or self.get_sparse_params(param):
            return
        if getattr(param, "requires_dense", False):
            return
        sparse = SparseParameter(module, name, lambda _, device=None: self.mask(name, device))
        param._sparse_param = sparse  # type: ignore[attr-defined]  # where the base class looks for it
        self.sparse_params[name] = sparse

    def sparsify_optimizer(self, optimizer: Any) -> None:
        """Nothing, where it trains none of the masked weights (LoRA freezes them all).

        The hooks of the base class take that for a model that was forgotten, and raise at the first step.
        """
        if any(True for _ in self.get_sparse_params(optimizer)):
            super().sparsify_optimizer(optimizer)

    def csx_annotate_sparsity(self, param: SparseParameter) -> None:
        for hint in HINTS:
            param.annotate(hint, self.levels[param.name])

    def update(self, optimizer: Any = None) -> None:
        """The masks stay; what is logged of them is told after every step."""
        for hook in (*self._target_sparsity_hooks.values(), *self._computed_sparsity_hooks.values()):
            for name in self.sparse_params:
                hook(self, name, self.levels[name])

    def mask(self, name: str, device: Any = None) -> "Tensor":
        """The mask of a parameter, read from the file; on the host if no device is named."""
        with MaskFile(self.mask_path) as file:
            mask = file.mask(self.masks[name])
        return mask if device is None else mask.to(device)

    def buffers(self, model: "nn.Module") -> Iterator[tuple[str, str]]:
        """(name in the state dict, parameter) of each mask that the model keeps as a buffer."""
        owned: dict[int, list[SparseParameter]] = {}
        for sparse in self.sparse_params.values():
            owned.setdefault(id(sparse.module), []).append(sparse)
        for path, module in model.named_modules(remove_duplicate=False):
            for sparse in owned.get(id(module), ()):
                yield f"{path}.{sparse.mask_name}".lstrip("."), sparse.name
