"""``LogSparsity``: for each masked weight, the sparsity that was asked for and the one that it has."""

from typing import Any

from cerebras_utils.fallback.shards import count
from cerebras_utils.hooks import Hooks
from cerebras_utils.sparse_callback import SparseMaskCallback


class LogSparsity(Hooks):
    """``target`` is the mask's, ``actual`` the fraction of zeros in the weight after the step."""

    def on_after_optimizer_step(self, trainer: Any, model: Any, optimizer: Any) -> None:
        if not trainer.will_log:
            return
        for callback in trainer.callbacks.values():
            if isinstance(callback, SparseMaskCallback) and callback.apply_every_step:
                for name, weight, mask in callback.masked():
                    trainer.log_metrics(
                        **{
                            f"sparsity/{name}/target": 1 - count(mask) / mask.numel(),
                            f"sparsity/{name}/actual": count(weight == 0) / weight.numel(),
                        }
                    )
