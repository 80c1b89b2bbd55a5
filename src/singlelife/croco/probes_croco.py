"""Probes: small heads that read what a frozen encoder's tokens hold. They work on the tokens of any encoder."""

import math

import torch
from torch import nn
from transformers import initialization as init

from .positions_croco import patch_positions, sincos_embedding

_CHANNELS_PER_HEAD = 32
_MLP_RATIO = 2
_TOKEN_STD = 0.02


class CroCoAttentiveProbe(nn.Module):
    """Learned queries that attend to the tokens once, an MLP, and a linear layer.

    Positions are added to the tokens, since those of an encoder with rotary positions need not hold their own, and to
    the queries where there is one for every patch.

    Args:
        hidden_size: width of the tokens.
        grid_size: rows and columns of tokens.
        out_features: numbers to predict from each query.
        width: of the probe, divisible by 4; half of `hidden_size` by default, and at least 32.
        num_heads: divides the width; one for every 32 channels by default.
        dense: whether there is a query for every patch; otherwise there is one for the whole image.

    Raises:
        ValueError: the width does not go with positions or heads.
    """

    def __init__(
        self,
        hidden_size: int,
        grid_size: tuple[int, int],
        out_features: int,
        width: int | None = None,
        num_heads: int | None = None,
        dense: bool = True,
    ):
        super().__init__()
        width = width or max(32, hidden_size // 8 * 4)
        self.num_heads = num_heads or math.gcd(width, max(1, width // _CHANNELS_PER_HEAD))
        if width % 4 or width % self.num_heads:
            raise ValueError(
                f"The width of an attentive probe, {width}, should be divisible by 4 and by its {self.num_heads} "
                "heads."
            )
        self.grid_size = grid_size
        self.dense = dense
        self.query_tokens = nn.Parameter(torch.empty(grid_size[0] * grid_size[1] if dense else 1, width))
        self.norm_tokens = nn.LayerNorm(hidden_size)
        self.embedding = nn.Linear(hidden_size, width)
        self.q_proj = nn.Linear(width, width)
        self.kv_proj = nn.Linear(width, 2 * width)
        self.o_proj = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, _MLP_RATIO * width)
        self.fc2 = nn.Linear(_MLP_RATIO * width, width)
        self.norm_out = nn.LayerNorm(width)
        self.head = nn.Linear(width, out_features)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """`(B, N, out_features)` of tokens `(B, N, hidden_size)` in raster order; N is 1 in the result if not dense."""
        rows, columns = self.grid_size
        positions = patch_positions(rows, columns, self.grid_size, tokens.device)
        where = sincos_embedding(positions, self.query_tokens.shape[1]).to(tokens.dtype)
        queries = self.query_tokens + where if self.dense else self.query_tokens
        memory = self.embedding(self.norm_tokens(tokens)) + where
        query = self._heads(self.q_proj(queries)).expand(len(tokens), -1, -1, -1)
        key, value = (self._heads(part) for part in self.kv_proj(memory).chunk(2, dim=-1))
        attended = nn.functional.scaled_dot_product_attention(query, key, value)
        states = queries + self.o_proj(attended.transpose(1, 2).flatten(2))
        states = states + self.fc2(nn.functional.gelu(self.fc1(self.norm(states))))
        return self.head(self.norm_out(states))

    def _heads(self, states: torch.Tensor) -> torch.Tensor:
        """`(..., N, width)` as `(..., heads, N, width / heads)`."""
        return states.unflatten(-1, (self.num_heads, -1)).transpose(-2, -3)


class CroCoLinearProbe(nn.Module):
    """A linear layer on each token, or on the mean of all; the tokens are layer-normed first.

    Args:
        hidden_size, out_features, dense: as in [`CroCoAttentiveProbe`].
    """

    def __init__(self, hidden_size: int, out_features: int, dense: bool = True):
        super().__init__()
        self.dense = dense
        self.norm = nn.LayerNorm(hidden_size, elementwise_affine=False)  # the linear layer has the gains
        self.head = nn.Linear(hidden_size, out_features)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """As [`CroCoAttentiveProbe`] does."""
        normed = self.norm(tokens)
        return self.head(normed if self.dense else normed.mean(dim=1, keepdim=True))


@torch.no_grad()
def init_probe_weights(module: nn.Module) -> None:
    """First values of a module of a probe. Weights that were loaded are left alone, as everywhere in transformers."""
    if isinstance(module, nn.Linear):
        init.xavier_uniform_(module.weight)
        init.zeros_(module.bias)
    elif isinstance(module, nn.LayerNorm) and module.elementwise_affine:
        init.ones_(module.weight)
        init.zeros_(module.bias)
    elif isinstance(module, CroCoAttentiveProbe | CroCoLinearProbe):
        init.zeros_(module.head.weight)  # whatever the tokens, it says the same at first: what its bias says
        if isinstance(module, CroCoAttentiveProbe):
            init.normal_(module.query_tokens, std=_TOKEN_STD)


__all__ = ["CroCoAttentiveProbe", "CroCoLinearProbe", "init_probe_weights"]
