"""What layers are made of: norms and the feed-forward network."""

import torch
from torch import Tensor, nn

from cerebras_utils.fallback.models.activations import GATED, PLAIN
from cerebras_utils.fallback.models.initializers import Initializer
from cerebras_utils.fallback.models.mup import Initializers
from cerebras_utils.fallback.models.options import Options


class RMSNorm(nn.Module):
    """In the order of operations of ModelZoo: torch's own ``rms_norm`` rounds differently."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        variance = x.float().pow(2).mean(-1, keepdim=True)
        return self.weight.to(x.dtype) * (x * torch.rsqrt(variance + self.eps)).to(x.dtype)


def norm(options: Options) -> nn.Module:
    """One norm over the hidden dimension. Its weights start as ones, its biases as zeros."""
    size, eps = options.hidden_size, options.layer_norm_epsilon
    match options.norm_type:
        case "layernorm":
            return nn.LayerNorm(size, eps)
        case "biasless-layernorm":
            return nn.LayerNorm(size, eps, bias=False)
        case "nonparametric-layernorm":
            return nn.LayerNorm(size, eps, elementwise_affine=False)
        case "rmsnorm":
            return RMSNorm(size, eps)
    assert options.norm_type is None, options.norm_type
    return nn.Identity()


def times(x: Tensor, factor: float) -> Tensor:
    """With the factor rounded to the type of ``x``, as ModelZoo rounds it; a factor of 1 costs nothing."""
    return x if factor == 1 else x * torch.tensor(factor, dtype=x.dtype)


def fill(linear: nn.Linear, weights: Initializer) -> None:
    weights(linear.weight.data)
    if linear.bias is not None:
        linear.bias.data.zero_()


class Dense(nn.Module):
    """A linear layer and its nonlinearity, which may take a second one as a gate."""

    def __init__(self, inputs: int, outputs: int, bias: bool, nonlinearity: str | None) -> None:
        super().__init__()
        self.linear_layer = nn.Linear(inputs, outputs, bias=bias)
        if nonlinearity in GATED:
            self.linear_layer_for_glu = nn.Linear(inputs, outputs, bias=bias)
        self.nonlinearity = nonlinearity

    def forward(self, x: Tensor) -> Tensor:
        value: Tensor = self.linear_layer(x)
        if self.nonlinearity in GATED:
            return GATED[self.nonlinearity](value, self.linear_layer_for_glu(x))
        return PLAIN[self.nonlinearity](value)

    def draw(self, weights: Initializer) -> None:
        fill(self.linear_layer, weights)
        if self.nonlinearity in GATED:
            fill(self.linear_layer_for_glu, weights)


class FeedForward(nn.Module):
    def __init__(self, options: Options, weights: Initializers) -> None:
        super().__init__()
        hidden, inner, bias = options.hidden_size, options.filter_size, options.use_ffn_bias
        self.ffn = nn.ModuleList(
            [Dense(hidden, inner, bias, options.nonlinearity), Dense(inner, hidden, bias, None)]
        )
        self.dropout = nn.Dropout(options.dropout_rate)
        self._weights = weights
        self.draw()

    def forward(self, x: Tensor) -> Tensor:
        for dense in self.ffn:
            x = dense(x)
        dropped: Tensor = self.dropout(x)
        return dropped

    def draw(self) -> None:
        for dense, weights in zip(self.ffn, (self._weights.ffn, self._weights.ffn_output), strict=True):
            assert isinstance(dense, Dense)
            dense.draw(weights)
