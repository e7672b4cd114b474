"""Self-attention with as many, fewer or one head for keys and values.

Plain products and a softmax, not torch's fused attention: that one sums in another order, and twenty Adam
steps turn its last bits into differences that can be seen. What ModelZoo computes and then multiplies by 1
is left out.
"""

import torch
from torch import Tensor, nn

from cerebras_utils.fallback.models.layers import fill, times
from cerebras_utils.fallback.models.mup import Initializers, keys_are_scaled
from cerebras_utils.fallback.models.options import Options
from cerebras_utils.fallback.models.rotary import Rotation


class Attention(nn.Module):
    def __init__(self, options: Options, weights: Initializers) -> None:
        super().__init__()
        hidden, inner = options.hidden_size, options.inner_size
        bias = options.use_projection_bias_in_attention
        self.heads, self.head_size, self.groups = options.num_heads, options.head_size, options.num_kv_groups
        self._shared = options.attention_module == "multiquery_attention"
        self._weights = weights

        self.proj_q_dense_layer = nn.Linear(hidden, inner, bias=bias)
        self.proj_k_dense_layer = nn.Linear(hidden, inner, bias=bias)
        self.proj_v_dense_layer = nn.Linear(hidden, inner, bias=bias)
        rate = options.attention_dropout_rate
        self.dropout_layer = nn.Dropout(options.dropout_rate if rate is None else rate)
        self.proj_output_dense_layer = nn.Linear(inner, hidden, bias=options.use_ffn_bias_in_attention)
        self._draw_all()
        if self._shared:  # after the full ones, which ModelZoo makes, draws and replaces
            self.proj_k_dense_layer = nn.Linear(hidden, self.groups * self.head_size, bias=bias)
            self.proj_v_dense_layer = nn.Linear(hidden, self.groups * self.head_size, bias=bias)
            self._draw_keys_and_values()

        root = self.head_size**-0.5
        self._key_factor = root if keys_are_scaled(options) else 1.0
        self._query_factor = root if options.attention_type == "scaled_dot_product" else 1.0
        self._by_layer = options.scale_qk_dot_by_layer_idx
        self._logit_factor = options.attention_logits_alpha
        self._cap = options.attention_logit_softcapping
        self._exact_softmax = options.attention_softmax_fp32

    def draw(self) -> None:
        self._draw_all()
        if self._shared:
            self._draw_keys_and_values()

    def forward(self, x: Tensor, bias: Tensor, rotation: Rotation | None, layer: int) -> Tensor:
        """``bias`` is added to the logits: 0 or -inf for the mask, and what positions add to it."""
        batch, length, _ = x.shape
        q: Tensor = self.proj_q_dense_layer(x).view(batch, length, self.heads, self.head_size)
        k: Tensor = self.proj_k_dense_layer(x).view(batch, length, self.groups, self.head_size)
        v: Tensor = self.proj_v_dense_layer(x).view(batch, length, self.groups, self.head_size)
        k = times(k, self._key_factor)
        if rotation is not None:
            q, k = rotation.turn(q), rotation.turn(k)
        q = times(q.transpose(1, 2), self._query_factor)
        if self._by_layer:
            q = times(q, 1 / (layer + 1))
        logits = torch.matmul(q, self._for_all_heads(k.transpose(1, 2)).transpose(-1, -2))
        if self._logit_factor != 1:
            logits = self._logit_factor * logits
        if self._cap is not None:
            logits = torch.tanh(logits / self._cap) * self._cap
        logits += bias.to(logits.dtype)
        mixed = torch.matmul(self._probabilities(logits), self._for_all_heads(v.transpose(1, 2)))
        output: Tensor = self.proj_output_dense_layer(mixed.transpose(1, 2).reshape(batch, length, -1))
        return output

    def _probabilities(self, logits: Tensor) -> Tensor:
        if self._exact_softmax and logits.dtype != torch.float32:
            kept: Tensor = self.dropout_layer(logits.float().softmax(dim=-1).type_as(logits))
        else:
            kept = self.dropout_layer(logits.softmax(dim=-1))
        return kept

    def _for_all_heads(self, x: Tensor) -> Tensor:
        """(batch, groups, length, size) → the same for every head; a single group is left to broadcasting."""
        if self.groups in (1, self.heads):
            return x
        batch, groups, length, size = x.shape
        wide = x.unsqueeze(2).expand(batch, groups, self.heads // groups, length, size)
        return wide.reshape(batch, self.heads, length, size)

    def _draw_all(self) -> None:
        for linear in (self.proj_q_dense_layer, self.proj_k_dense_layer, self.proj_v_dense_layer):
            fill(linear, self._weights.projection)
        fill(self.proj_output_dense_layer, self._weights.attention_output)

    def _draw_keys_and_values(self) -> None:
        fill(self.proj_k_dense_layer, self._weights.projection)
        fill(self.proj_v_dense_layer, self._weights.projection)
