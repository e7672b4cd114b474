"""What the mask engine is compared with, each timed in a process of its own by ``bench.py``.

    python tests/benchmarks/contestants.py topk CHECKPOINT

The last line on stdout is JSON: the seconds of the call alone, with the weights already in memory
and a small call before it, so neither start-up nor reading counts; or what is missing here.
"""

import json
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

SPARSITY = 0.5
WARM_UP = 4096  # weights


def prune_global(torch: Any, tensors: list[Any]) -> Callable[[], object]:
    """Exact masks over all tensors, as ``torch.nn.utils.prune`` has it."""
    from torch.nn.utils.prune import L1Unstructured, global_unstructured

    modules = []
    for tensor in tensors:
        module = torch.nn.Module()
        module.weight = torch.nn.Parameter(tensor)
        modules.append((module, "weight"))
    return lambda: global_unstructured(modules, pruning_method=L1Unstructured, amount=SPARSITY)


def kthvalue(torch: Any, tensors: list[Any]) -> Callable[[], object]:
    """A threshold and a comparison: not exact, ties of the threshold fall on one side together."""

    def call() -> object:
        scores = [tensor.abs().flatten() for tensor in tensors]
        joined = torch.cat(scores)
        threshold = joined.kthvalue(int(SPARSITY * joined.numel())).values
        return [score > threshold for score in scores]

    return call


def topk(torch: Any, tensors: list[Any]) -> Callable[[], object]:
    """What the vendor's sparsity algorithms call on a CPU or GPU, given all weights as one tensor."""
    from cerebras.pytorch.sparse.utils import make_mask_topk_sparsity

    def call() -> object:
        joined = torch.cat([tensor.abs().flatten() for tensor in tensors])
        return make_mask_topk_sparsity(joined, torch.tensor(SPARSITY))

    return call


CALLS = {"prune": prune_global, "kthvalue": kthvalue, "topk": topk}


def read(torch: Any, path: Path) -> list[Any]:
    """The tensors of a safetensors file of one dtype; that package may not be installed here."""
    data = bytearray(path.read_bytes())
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    dtypes = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}
    tensors = []
    for entry in header.values():
        begin, end = entry["data_offsets"]
        dtype = dtypes[entry["dtype"]]
        count = (end - begin) // dtype.itemsize
        flat = torch.frombuffer(data, dtype=dtype, count=count, offset=start + begin)
        tensors.append(flat.clone().view(entry["shape"]))
    return tensors


def time_torch(name: str, path: Path) -> dict[str, object]:
    needed = ("torch", "cerebras-pytorch") if name == "topk" else ("torch",)
    try:
        import torch

        if name == "topk":
            import cerebras.pytorch  # noqa: F401
    except ModuleNotFoundError as error:
        if str(error.name).split(".")[0] not in ("torch", "cerebras"):
            raise  # installed, and broken
        return {"missing": error.name}
    tensors = read(torch, path)
    CALLS[name](torch, [tensor.flatten()[:WARM_UP].clone() for tensor in tensors])()
    call = CALLS[name](torch, tensors)
    begun = time.perf_counter()
    call()
    seconds = time.perf_counter() - begun
    return {
        "seconds": seconds,
        "weights": sum(tensor.numel() for tensor in tensors),
        "versions": {package: version(package) for package in needed},
    }


def time_h5py(path: Path) -> dict[str, object]:
    """Every dataset read once, decompressed: what ``cat`` is for the other formats."""
    import h5py
    import hdf5plugin  # noqa: F401  (registers the LZ4 filter)

    nbytes = 0
    begun = time.perf_counter()
    with h5py.File(path, "r") as file:
        for name in file:
            nbytes += file[name][...].nbytes
    return {"seconds": time.perf_counter() - begun, "bytes": nbytes}


if __name__ == "__main__":
    contestant, checkpoint = sys.argv[1], Path(sys.argv[2])
    result = time_h5py(checkpoint) if contestant == "h5py" else time_torch(contestant, checkpoint)
    print(json.dumps(result))
