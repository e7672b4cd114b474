"""``--compile``: ``torch.compile`` of the model, in its place, so that every name stays what it is.

The first step and the first validation take longer by the compilation. Fused operations round otherwise:
losses agree to about 1e-6 in fp32, and dropout draws other numbers.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from pruning.problems import ProblemError, fail

_WHERE = "--compile"


def compile_model(model: nn.Module, device: torch.device) -> None:
    """Before DDP wraps it, and after FSDP has shared it out."""
    compiler = os.environ.get("CXX", "g++")
    if device.type == "cpu" and shutil.which(compiler) is None:
        what = f"torch.compile needs a C++ compiler on a CPU, and there is no {compiler}"
        raise fail(_WHERE, what, "install g++, name a compiler in the variable CXX, or leave --compile out")
    model.compile()


@contextmanager
def compile_errors() -> Iterator[None]:
    """What the compiler says in the first step, as a problem of ``--compile``."""
    try:
        yield
    except ProblemError:
        raise
    except RuntimeError as error:
        if not type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
            raise
        said = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise fail(_WHERE, f"this model cannot be compiled here: {said}", "leave --compile out") from error
