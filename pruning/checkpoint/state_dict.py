"""What torch calls a state dict: where the weights are in it, and which of them can be read."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pruning.problems import Problem, fail

if TYPE_CHECKING:
    from torch import Tensor

DTYPES = {
    "torch.float64": "F64",
    "torch.float32": "F32",
    "torch.float16": "F16",
    "torch.bfloat16": "BF16",
    "torch.int64": "I64",
    "torch.int32": "I32",
    "torch.int16": "I16",
    "torch.int8": "I8",
    "torch.uint64": "U64",
    "torch.uint32": "U32",
    "torch.uint16": "U16",
    "torch.uint8": "U8",
    "torch.bool": "BOOL",
    "torch.float8_e4m3fn": "F8_E4M3",
    "torch.float8_e5m2": "F8_E5M2",
}
NESTED = ("model", "state_dict")  # where training loops put the state dict of the model


def weights_in(loaded: Any, where: str) -> Mapping[str, Any]:
    """The state dict of the model: ``loaded`` itself, or what is under one of ``NESTED``.

    Entries that are no tensors are left in: whether they are an error is for the caller to say.
    """
    if not isinstance(loaded, Mapping):
        raise fail(
            where,
            f"holds a {type(loaded).__name__}, not a dict of tensors",
            "save model.state_dict()",
        )
    nested = [key for key in NESTED if _has_tensors(loaded.get(key))]
    if len(nested) > 1:
        raise fail(where, f"holds weights under each of {nested}", f"keep one: del state[{nested[1]!r}]")
    found = loaded[nested[0]] if nested else loaded
    if not _has_tensors(found):
        keys = ", ".join(repr(key) for key in list(loaded)[:20]) or "none"
        raise fail(
            where,
            f"no tensor at the top level or under {' or '.join(map(repr, NESTED))}; the keys are {keys}",
            "save the state dict itself, or put it under 'model'",
        )
    strange = [key for key in found if not isinstance(key, str)]
    if strange:
        raise fail(where, f"the key {strange[0]!r} is not a string", "save model.state_dict()")
    return dict(found)


def unreadable(where: str, name: str, tensor: "Tensor") -> Problem | None:
    """Why this tensor has no plain elements in memory, or None."""
    import torch
    from torch.nn.parameter import is_lazy

    def problem(what: str, fix: str) -> Problem:
        return Problem(f"{where}: {name}", what, fix)

    if is_lazy(tensor):
        return problem("is a lazy parameter without a shape", "run one forward pass first")
    if tensor.is_quantized:
        return problem("is a quantised tensor", "dequantize() it, or use the unquantised checkpoint")
    if tensor.layout != torch.strided or tensor.is_nested:
        return problem(f"is a sparse or nested tensor ({tensor.layout})", "save it with .to_dense()")
    if tensor.is_meta:
        return problem("is on the meta device: it has a shape and no values", "load the weights first")
    if str(tensor.dtype) not in DTYPES:
        return problem(f"has the dtype {tensor.dtype}", f"convert it to one of {', '.join(DTYPES)}")
    return None


def _has_tensors(value: Any) -> bool:
    from torch import Tensor

    return isinstance(value, Mapping) and any(isinstance(item, Tensor) for item in value.values())
