"""The device ``second``: what a GPU is to code that forgets one, on a machine that has none (device.cpp)."""

import hashlib
import os
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import torch

SOURCE = Path(__file__).with_name("device.cpp")
COMPILER = os.environ.get("CXX", "g++")
TORCH = (2, 13)  # which this is written against; its interface for other devices changes


def missing():
    """Why it cannot be made here; None where it can."""
    if tuple(map(int, torch.__version__.split(".")[:2])) < TORCH:
        return f"torch {torch.__version__} is older than {TORCH[0]}.{TORCH[1]}"
    return None if shutil.which(COMPILER) else f"there is no C++ compiler {COMPILER}"


def register(cache):
    """Make the device known to torch, for the rest of this process. Compiled once for each torch."""
    state = f"{torch.__version__} {torch.__file__} {SOURCE.read_text()}"
    library = Path(cache, f"second-{hashlib.sha256(state.encode()).hexdigest()[:16]}.so")
    if not library.exists():
        part, place = library.with_suffix(f".{os.getpid()}"), Path(torch.__file__).parent
        how = ["-std=c++20", "-O1", "-w", "-shared", "-fPIC", f"-isystem{place}/include"]
        needed = [f"-L{place}/lib", f"-Wl,-rpath,{place}/lib", "-lc10", "-ltorch_cpu", "-ltorch"]
        subprocess.run([COMPILER, *how, str(SOURCE), "-o", str(part), *needed], check=True)
        part.rename(library)
    torch.ops.load_library(library)
    torch.utils.rename_privateuse1_backend("second")
    # As of CUDA's tensors, ``to`` then changes parameters where they are: one that is tied stays tied.
    torch.__future__.set_swap_module_params_on_conversion(True)
    torch._register_device_module(
        "second",
        SimpleNamespace(
            is_available=lambda: True,
            device_count=lambda: 1,
            current_device=lambda: 0,
            manual_seed_all=lambda seed: None,
            get_amp_supported_dtype=lambda: [torch.bfloat16],
            _is_in_bad_fork=lambda: False,
        ),
    )
    return torch.device("second", 0)
