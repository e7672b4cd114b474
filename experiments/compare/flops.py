"""Operations of a training step against a dense one, from the config of a run: estimated, never measured."""

from experiments.runs.callbacks import LORA, SPARSE_LORA, callbacks_of, masks_apply_once
from experiments.runs.model_sizes import model_sizes
from experiments.runs.record import RunRecord


def flop_ratio(run: RunRecord) -> float | None:
    """None where the model's sizes or the sparsity are not known.

    Per token: 6 operations for each kept weight of the linear layers of the decoder (4 where LoRA freezes
    them), attention scores and the head dense in both.
    """
    init = run.params.get("init") or {}
    sizes = model_sizes(init.get("model") or {})
    sparsity = 0.0 if masks_apply_once(init) else run.sparsity.requested
    if sizes is None or sparsity is None:
        return None
    linear, rest = sizes
    frozen = bool({LORA, SPARSE_LORA} & callbacks_of(init).keys())
    masked = min(run.sparsity.masked, linear)
    kept = linear - masked * sparsity
    return ((4 if frozen else 6) * kept + rest) / (6 * linear + rest)
