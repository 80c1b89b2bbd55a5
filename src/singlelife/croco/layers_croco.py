"""The blocks of CroCo: pre-norm self-attention and MLP, and in the decoder cross-attention between them."""

from collections.abc import Callable

import torch
from torch import nn
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs

from .configuration_croco import CroCoConfig
from .positions_croco import Rotations, rotate


def eager_attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs: Unpack[TransformersKwargs],
) -> tuple[torch.Tensor, torch.Tensor]:
    weights = torch.matmul(query, key.transpose(2, 3)) * scaling
    weights = nn.functional.softmax(weights, dim=-1, dtype=torch.float32).to(query.dtype)
    return torch.matmul(weights, value).transpose(1, 2).contiguous(), weights


class CroCoAttention(nn.Module):
    """What self- and cross-attention share. Subclasses project to queries, keys and values in one or two products."""

    def __init__(self, config: CroCoConfig, width: int, num_heads: int):
        super().__init__()
        self.config = config
        self.num_heads = num_heads
        self.head_dim = width // num_heads
        self.scaling = self.head_dim**-0.5
        self.is_causal = False
        self.o_proj = nn.Linear(width, width)

    def attend(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, **kwargs: Unpack[TransformersKwargs]
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Attention of `(B, N, heads, head_dim)` states, projected back to the width.

        Fused implementations never hold the weights, so eager attention runs where they are asked for.
        """
        implementation = "eager" if kwargs.get("output_attentions") else self.config._attn_implementation
        attention: Callable = ALL_ATTENTION_FUNCTIONS.get_interface(implementation, eager_attention_forward)
        output, weights = attention(
            self,
            query.transpose(1, 2),
            key.transpose(1, 2),
            value.transpose(1, 2),
            None,
            dropout=0.0,
            scaling=self.scaling,
            **kwargs,
        )
        return self.o_proj(output.flatten(2)), weights


class CroCoSelfAttention(CroCoAttention):
    def __init__(self, config: CroCoConfig, width: int, num_heads: int):
        super().__init__(config, width, num_heads)
        self.qkv_proj = nn.Linear(width, 3 * width, bias=config.qkv_bias)

    def forward(
        self, hidden_states: torch.Tensor, rotary: Rotations | None, **kwargs: Unpack[TransformersKwargs]
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        query, key, value = self.qkv_proj(hidden_states).unflatten(-1, (3, self.num_heads, self.head_dim)).unbind(2)
        return self.attend(rotate(query, rotary), rotate(key, rotary), value, **kwargs)


class CroCoCrossAttention(CroCoAttention):
    """Target tokens (queries) attend to the source's (keys and values)."""

    def __init__(self, config: CroCoConfig, width: int, num_heads: int):
        super().__init__(config, width, num_heads)
        self.q_proj = nn.Linear(width, width, bias=config.qkv_bias)
        self.kv_proj = nn.Linear(width, 2 * width, bias=config.qkv_bias)

    def project(
        self,
        hidden_states: torch.Tensor,
        source: torch.Tensor,
        rotary: Rotations | None,
        source_rotary: Rotations | None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Queries `(B, N, heads, head_dim)` of the target, keys and values `(B, M, heads, head_dim)` of the source."""
        query = self.q_proj(hidden_states).unflatten(-1, (self.num_heads, self.head_dim))
        key, value = self.kv_proj(source).unflatten(-1, (2, self.num_heads, self.head_dim)).unbind(2)
        return rotate(query, rotary), rotate(key, source_rotary), value

    def forward(
        self,
        hidden_states: torch.Tensor,
        source: torch.Tensor,
        rotary: Rotations | None,
        source_rotary: Rotations | None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        return self.attend(*self.project(hidden_states, source, rotary, source_rotary), **kwargs)


class CroCoMLP(nn.Module):
    def __init__(self, config: CroCoConfig, width: int, intermediate_size: int):
        super().__init__()
        self.fc1 = nn.Linear(width, intermediate_size)
        self.activation = ACT2FN[config.hidden_act]
        self.fc2 = nn.Linear(intermediate_size, width)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.fc2(self.activation(self.fc1(hidden_states)))


class CroCoEncoderLayer(GradientCheckpointingLayer):
    def __init__(self, config: CroCoConfig):
        super().__init__()
        width = config.hidden_size
        self.norm1 = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.attention = CroCoSelfAttention(config, width, config.num_attention_heads)
        self.norm2 = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.mlp = CroCoMLP(config, width, config.intermediate_size)

    def forward(
        self, hidden_states: torch.Tensor, rotary: Rotations | None, **kwargs: Unpack[TransformersKwargs]
    ) -> torch.Tensor:
        hidden_states = hidden_states + self.attention(self.norm1(hidden_states), rotary, **kwargs)[0]
        return hidden_states + self.mlp(self.norm2(hidden_states))


class CroCoDecoderLayer(GradientCheckpointingLayer):
    def __init__(self, config: CroCoConfig):
        super().__init__()
        width, heads = config.decoder_hidden_size, config.decoder_num_attention_heads
        self.norm1 = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.attention = CroCoSelfAttention(config, width, heads)
        self.norm2 = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.norm_source = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.cross_attention = CroCoCrossAttention(config, width, heads)
        self.norm3 = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.mlp = CroCoMLP(config, width, config.decoder_intermediate_size)

    def attend_to_self(
        self, hidden_states: torch.Tensor, rotary: Rotations | None, **kwargs: Unpack[TransformersKwargs]
    ) -> torch.Tensor:
        return hidden_states + self.attention(self.norm1(hidden_states), rotary, **kwargs)[0]

    def attend_to_source(
        self,
        hidden_states: torch.Tensor,
        source: torch.Tensor,
        rotary: Rotations | None,
        source_rotary: Rotations | None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> torch.Tensor:
        attended, _ = self.cross_attention(
            self.norm2(hidden_states), self.norm_source(source), rotary, source_rotary, **kwargs
        )
        hidden_states = hidden_states + attended
        return hidden_states + self.mlp(self.norm3(hidden_states))

    def cross_queries_and_keys(
        self,
        hidden_states: torch.Tensor,
        source: torch.Tensor,
        rotary: Rotations | None,
        source_rotary: Rotations | None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """What `attend_to_source` compares: float32 queries, already scaled, and keys, `(B, N, heads, head_dim)`."""
        query, key, _ = self.cross_attention.project(
            self.norm2(hidden_states), self.norm_source(source), rotary, source_rotary
        )
        return query.float() * self.cross_attention.scaling, key.float()

    def forward(
        self,
        hidden_states: torch.Tensor,
        source: torch.Tensor,
        rotary: Rotations | None,
        source_rotary: Rotations | None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> torch.Tensor:
        hidden_states = self.attend_to_self(hidden_states, rotary, **kwargs)
        return self.attend_to_source(hidden_states, source, rotary, source_rotary, **kwargs)
