"""A checkpoint of any size with the tensors of a Llama, written in the memory of one tensor.

    python tests/benchmarks/big_checkpoint.py OUT.safetensors --gigabytes 8 --dtype bf16 --seed 0

A name that ends in .mdl is written in the layout of the Cerebras software (HDF5, LZ4). A file that
is already there with the right size is kept.

Values are N(0, 0.02), drawn once per shape and rolled by a different distance for every layer:
drawing billions of them would take longer than what is measured.
"""

import argparse
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

WIDE, NARROW, INNER = 4096, 1024, 14336
SHAPES = {
    "self_attn.q_proj": (WIDE, WIDE),
    "self_attn.k_proj": (NARROW, WIDE),
    "self_attn.v_proj": (NARROW, WIDE),
    "self_attn.o_proj": (WIDE, WIDE),
    "mlp.gate_proj": (INNER, WIDE),
    "mlp.up_proj": (INNER, WIDE),
    "mlp.down_proj": (WIDE, INNER),
}
DTYPES = {"bf16": ("BF16", 2), "fp16": ("F16", 2), "fp32": ("F32", 4)}
IN_MDL = {  # what the file says, the number it has for it, how it is stored
    "bf16": ("torch.bfloat16", 15, "<i2"),
    "fp16": ("torch.float16", 10, "<f2"),
    "fp32": ("torch.float32", 11, "<f4"),
}

Values = NDArray[np.generic]
Tensors = list[tuple[str, tuple[int, int]]]


def listing(gigabytes: float, itemsize: int) -> Iterator[tuple[str, tuple[int, int]]]:
    """Whole tensors in layer order until the size is reached; the last one is cut to fit."""
    left = round(gigabytes * 1e9) // itemsize
    if left < WIDE:
        raise ValueError(f"{gigabytes} GB is less than one row of {WIDE} weights")
    layer = 0
    while left > 0:
        for name, (rows, columns) in SHAPES.items():
            rows = min(rows, left // columns)
            if rows:
                yield f"model.layers.{layer}.{name}.weight", (rows, columns)
            left -= rows * columns
            if left < WIDE:
                return
        layer += 1


def draw(rng: np.random.Generator, count: int, dtype: str) -> Values:
    values = rng.standard_normal(count, dtype=np.float32)
    values *= 0.02
    if dtype == "bf16":
        bits = values.view(np.uint32)  # round to nearest even, as every framework does
        bits += 0x7FFF + ((bits >> 16) & 1)
        return (bits >> 16).astype(np.uint16)
    return values.astype(np.float16) if dtype == "fp16" else values


def drawn(tensors: Tensors, dtype: str, seed: int) -> Iterator[Values]:
    """The flat values of one tensor after the other."""
    rng = np.random.default_rng(seed)
    of_kind: dict[str, Values] = {}
    for number, (name, (rows, columns)) in enumerate(tensors):
        kind = name.split(".", 3)[3]
        if kind not in of_kind:
            of_kind[kind] = draw(rng, rows * columns, dtype)
        values = of_kind[kind]
        cut = number * 7919 % len(values)
        yield np.concatenate([values[cut:], values[:cut]])[: rows * columns]


def safetensors_header(tensors: Tensors, dtype: str) -> tuple[bytes, int]:
    """The bytes before the first tensor, and those of the whole file."""
    code, itemsize = DTYPES[dtype]
    header, at = {}, 0
    for name, (rows, columns) in tensors:
        size = rows * columns * itemsize
        header[name] = {"dtype": code, "shape": [rows, columns], "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    text = text.ljust(-(-len(text) // 8) * 8)
    start = len(text).to_bytes(8, "little") + text
    return start, len(start) + at


def write_safetensors(path: Path, tensors: Tensors, dtype: str, seed: int) -> None:
    start, _ = safetensors_header(tensors, dtype)
    with path.open("wb") as stream:
        stream.write(start)
        for values in drawn(tensors, dtype, seed):
            stream.write(values.data)


def write_mdl(path: Path, tensors: Tensors, dtype: str, seed: int) -> None:
    """A flat dataset per tensor, chunked as h5py likes and compressed; everything else in attributes."""
    import h5py
    import hdf5plugin

    torch_name, number, stored = IN_MDL[dtype]
    tree: dict[str, Any] = {}
    with h5py.File(path, "w") as file:
        for (name, shape), values in zip(tensors, drawn(tensors, dtype, seed), strict=True):
            key = f"model.model.{name}"
            tree[f"model.{name}"] = "*"
            data = values.view(stored).reshape(shape)
            file[key] = file.create_dataset(None, data=data, chunks=True, **hdf5plugin.LZ4())
            about = {"shapes": [list(shape)], "dtypes": [torch_name], "rtfx_dtypes": [number]}
            file[key].attrs.update(about)
            fields = {"__TYPE__": "TorchTensorSerializer", **about}
            file.attrs[f"{key}.__metadata__"] = json.dumps(
                {"__objects__": [key], f"{key}.__metadata__": fields}
            )
        file.attrs["__spec__"] = json.dumps([{"model": tree}, ""])
        file.attrs.update({"__version__": 0.5, "__SUCCESS__": True})


def write(path: Path, gigabytes: float, dtype: str, seed: int) -> bool:
    """Was it written? Under another name until it is whole, so that what is there may be kept."""
    tensors = list(listing(gigabytes, DTYPES[dtype][1]))
    mdl = path.suffix == ".mdl"
    if path.exists() and (mdl or path.stat().st_size == safetensors_header(tensors, dtype)[1]):
        return False
    path.unlink(missing_ok=True)  # its room may be needed
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        (write_mdl if mdl else write_safetensors)(part, tensors, dtype, seed)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return True


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--gigabytes", type=float, default=1)
    parser.add_argument("--dtype", choices=DTYPES, default="bf16")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    written = write(asked.out, asked.gigabytes, asked.dtype, asked.seed)
    print(f"{'wrote' if written else 'kept'}  {asked.out}")
