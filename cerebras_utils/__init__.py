"""The only package that imports Cerebras software, always inside functions."""

from importlib import import_module
from typing import Any

_NAMES = {
    "SparseMaskCallback": "cerebras_utils.sparse_callback",
    "create_sparse_config": "cerebras_utils.config_rewriter",
}


def __getattr__(name: str) -> Any:
    """Imported when they are asked for: ``import cerebras_utils`` takes no time."""
    if name not in _NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_NAMES[name]), name)
