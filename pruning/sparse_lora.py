"""LoRA on sparse weights: train beside frozen zeros, merge without losing one, and say what it cost.

config = SparseLoRAConfig(r=16, alpha=32, sparsity_mode="sparse_to_sparse")
model = apply_sparse_lora(model, masks, config)
...  # train
model = merge_all_lora_weights(model)
assert validate_sparsity_preserved(model, masks)[0]
"""

from pruning.lora.apply import apply_sparse_lora
from pruning.lora.config import SparseLoRAConfig
from pruning.lora.merge_model import merge_all_lora_weights, validate_sparsity_preserved

__all__ = [
    "SparseLoRAConfig",
    "apply_sparse_lora",
    "merge_all_lora_weights",
    "validate_sparsity_preserved",
]
