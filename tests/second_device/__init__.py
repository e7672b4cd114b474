"""The device ``second``: what a GPU is to code that forgets one, on a machine that has none (device.cpp)."""

import hashlib
import os
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import torch

SOURCE = Path(__file__).with_name("device.cpp")


def missing():
    """Why it cannot be made here; None where it can."""
    compiler = os.environ.get("CXX", "g++")
    return None if shutil.which(compiler) else f"there is no C++ compiler: {compiler}"


def register(cache):
    """Make the device known to torch, for the rest of this process. Compiled once for each torch."""
    from torch.utils import cpp_extension

    state = f"{torch.__version__} {torch.utils.__file__} {SOURCE.read_text()}"
    library = Path(cache, f"second-{hashlib.sha256(state.encode()).hexdigest()[:16]}.so")
    if not library.exists():
        part = library.with_suffix(f".{os.getpid()}")
        torch_libraries = Path(torch.__file__).parent / "lib"
        subprocess.run(
            [os.environ.get("CXX", "g++"), "-std=c++17" if torch.__version__ < "2.9" else "-std=c++20"]
            + ["-shared", "-fPIC", "-O1", "-w", str(SOURCE), "-o", str(part)]
            + [f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}"]
            + [f"-isystem{place}" for place in cpp_extension.include_paths()]
            + [f"-L{torch_libraries}", f"-Wl,-rpath,{torch_libraries}", "-lc10", "-ltorch_cpu", "-ltorch"],
            check=True,
        )
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
