"""Functions that numba compiles: at the first call for each kind of argument, then from its cache."""

import os
import sys
import tempfile
from collections.abc import Callable
from typing import Any

import numba

_NO_CACHE = (
    "compiled kernels go to {}: neither the package nor a home directory can be written; "
    "set NUMBA_CACHE_DIR to keep them"
)


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """It releases the GIL: plain Python threads run it in parallel."""
    try:
        return numba.njit(function, nogil=True, cache=True)  # type: ignore[no-any-return]
    except RuntimeError:  # no directory to cache in: a read-only installation without a home
        os.environ["NUMBA_CACHE_DIR"] = numba.config.CACHE_DIR = tempfile.mkdtemp(prefix="wafersparse-")
        print(_NO_CACHE.format(numba.config.CACHE_DIR), file=sys.stderr)
        return numba.njit(function, nogil=True, cache=True)  # type: ignore[no-any-return]
