"""CroCo: cross-view completion (arXiv 2210.10716; with rotary positions, arXiv 2211.10408).

A siamese ViT encoder reads all patches of the source view and the visible patches of the target view. A decoder takes
the target's tokens, with mask tokens in the masked places, and in every block attends to itself and then to the
source's tokens. A linear head predicts the masked patches' pixels.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from torch import nn
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutput, BaseModelOutputWithCrossAttentions
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, PreTrainedModel
from transformers.processing_utils import Unpack
from transformers.utils import ModelOutput, TransformersKwargs
from transformers.utils.generic import can_return_tuple
from transformers.utils.output_capturing import OutputRecorder, capture_outputs

from .configuration_croco import CroCoConfig

_NORM_PIX_EPS = 1e-6

# Rotary tables, each (..., N, 1, head_dim): cosines, and sines with the sign of the rotated half folded in.
Rotations = tuple[torch.Tensor, torch.Tensor]

_SINCOS_BASE = 10000.0


def patch_positions(rows: int, columns: int, trained: tuple[int, int], device: torch.device) -> torch.Tensor:
    """Row and column of every patch in raster order, float32 `(rows * columns, 2)`, in units of the trained grid.

    A grid of another size is stretched over the trained one, so that a patch in the middle of the image keeps its
    position from training; the trained grid itself gives 0, 1, 2 ….
    """
    axes = [
        (torch.arange(count, device=device, dtype=torch.float32) + 0.5) * (usual / count) - 0.5
        for count, usual in zip((rows, columns), trained, strict=True)
    ]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).flatten(0, 1)


def sincos_embedding(positions: torch.Tensor, width: int) -> torch.Tensor:
    """Fixed embedding `(..., N, width)`, float32, of positions `(..., N, 2)`, as in MAE (arXiv 2111.06377).

    Sines and cosines of the column, then of the row, with frequencies from 1 down to 1/10000.
    """
    frequencies = _SINCOS_BASE ** -(torch.arange(width // 4, device=positions.device).float() / (width // 4))
    angles = positions.flip(-1).unsqueeze(-1) * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=-1).flatten(-2)


def rotations(positions: torch.Tensor, head_dim: int, theta: float, dtype: torch.dtype) -> Rotations:
    """Rotary tables (arXiv 2104.09864, over two axes) for positions `(..., N, 2)`.

    The first half of a head turns with the row and the second with the column; within a half, channel `c` is paired
    with channel `c + head_dim / 4`.
    """
    frequencies = theta ** -(torch.arange(head_dim // 4, device=positions.device).float() / (head_dim // 4))
    angles = positions.unsqueeze(-1) * frequencies
    cos = torch.stack([angles.cos()] * 2, dim=-2).flatten(-3)
    sin = torch.stack([-angles.sin(), angles.sin()], dim=-2).flatten(-3)
    return cos.to(dtype).unsqueeze(-2), sin.to(dtype).unsqueeze(-2)


def rotate(states: torch.Tensor, rotary: Rotations | None) -> torch.Tensor:
    """Rotate queries or keys `(B, N, heads, head_dim)` by their positions; None leaves them unchanged."""
    if rotary is None:
        return states
    cos, sin = rotary
    row, row_pair, column, column_pair = states.chunk(4, dim=-1)
    swapped = torch.cat([row_pair, row, column_pair, column], dim=-1)
    return torch.addcmul(states * cos, swapped, sin)


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
    """Attention written out, with the scaling in the first product, which saves a pass over the weights."""
    batch_size, num_heads, num_queries, _ = query.shape
    query, key, value = (states.flatten(0, 1) for states in (query, key, value))
    nothing = query.new_empty(()).expand(len(query), num_queries, key.shape[1])  # beta is 0, so it is never read
    weights = torch.baddbmm(nothing, query, key.mT, beta=0, alpha=scaling)
    weights = nn.functional.softmax(weights, dim=-1, dtype=torch.float32).to(value.dtype)
    output, weights = (states.unflatten(0, (batch_size, num_heads)) for states in (weights @ value, weights))
    return output.transpose(1, 2).contiguous(), weights


class CroCoAttention(nn.Module):
    """The base of self- and cross-attention. Subclasses project to queries, keys and values in one or two products."""

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

        Attention is written out if the caller asks for its weights, which fused attention never holds, and when a CPU
        trains: there the backward pass of PyTorch's fused attention is up to twice as slow on some machines, and
        hardly faster on any.
        """
        implementation = self.config._attn_implementation
        trains_on_cpu = self.training and implementation == "sdpa" and query.device.type == "cpu"
        if kwargs.get("output_attentions") or trains_on_cpu:
            implementation = "eager"
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


@dataclass
class CroCoModelOutput(ModelOutput):
    r"""
    Outputs of [`CroCoModel`]. N, M and V are the numbers of target, source and visible target patches.

    Args:
        last_hidden_state (`torch.FloatTensor` of shape `(batch_size, V, hidden_size)`):
            Normed encoder features of the target's patches, in raster order; only the visible ones if some are masked.
        source_last_hidden_state (`torch.FloatTensor` of shape `(batch_size, M, hidden_size)`, with two views):
            Normed encoder features of the source's patches.
        decoder_last_hidden_state (`torch.FloatTensor` of shape `(batch_size, N, decoder_hidden_size)`, two views):
            Normed decoder features of all the target's patches.
        hidden_states, attentions (`tuple(torch.FloatTensor)`, when asked for):
            The encoder's, for the target view, as in any transformers ViT.
        decoder_hidden_states, decoder_attentions (`tuple(torch.FloatTensor)`, when asked for):
            The decoder blocks' outputs and self-attention.
        cross_attentions (`tuple(torch.FloatTensor)`, with `output_attentions=True`):
            One `(batch_size, heads, N, M)` per decoder block, after the softmax; rows are target patches.
    """

    last_hidden_state: torch.Tensor | None = None
    source_last_hidden_state: torch.Tensor | None = None
    decoder_last_hidden_state: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None
    decoder_hidden_states: tuple[torch.Tensor, ...] | None = None
    decoder_attentions: tuple[torch.Tensor, ...] | None = None
    cross_attentions: tuple[torch.Tensor, ...] | None = None


@dataclass
class CroCoForPreTrainingOutput(ModelOutput):
    r"""
    Outputs of [`CroCoForPreTraining`]; those not listed here are as in [`CroCoModelOutput`].

    Args:
        loss (`torch.FloatTensor` of shape `()`, float32):
            Mean squared error over the masked patches' pixels.
        logits (`torch.FloatTensor` of shape `(batch_size, N, patch_size**2 * num_channels)`):
            Predicted pixels of every target patch, ordered row, column, channel; normalised within the patch if
            `config.norm_pix_loss`.
        mask (`torch.BoolTensor` of shape `(batch_size, N)`):
            True where the target patch was masked.
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    mask: torch.Tensor | None = None
    last_hidden_state: torch.Tensor | None = None
    source_last_hidden_state: torch.Tensor | None = None
    decoder_last_hidden_state: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None
    decoder_hidden_states: tuple[torch.Tensor, ...] | None = None
    decoder_attentions: tuple[torch.Tensor, ...] | None = None
    cross_attentions: tuple[torch.Tensor, ...] | None = None


class CroCoPreTrainedModel(PreTrainedModel):
    config: CroCoConfig
    config_class = CroCoConfig
    base_model_prefix = "croco"
    main_input_name = "pixel_values"
    input_modalities = ["image"]
    supports_gradient_checkpointing = True
    _no_split_modules = ["CroCoEncoderLayer", "CroCoDecoderLayer"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    # The Auto classes that can load a checkpoint of this class, and where their code is.
    _auto_classes: ClassVar[dict[str, str]] = {
        "AutoModel": "modeling_croco.CroCoModel",
        "AutoModelForPreTraining": "modeling_croco.CroCoForPreTraining",
    }

    def __init__(self, config: CroCoConfig):
        config.validate()  # values may have changed since it was made
        super().__init__(config)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            init.xavier_uniform_(module.weight)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm):
            init.ones_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, CroCoDecoder):
            init.normal_(module.mask_token, std=self.config.initializer_range)

    def save_pretrained(self, save_directory: str | os.PathLike, *args: Any, **kwargs: Any) -> Any:
        """As in transformers; also saves the model code, for every Auto class that can load the checkpoint."""
        self.config.auto_map = dict(self._auto_classes)
        return super().save_pretrained(save_directory, *args, **kwargs)


class CroCoEncoder(CroCoPreTrainedModel):
    """Patch embedding and ViT blocks, for one view."""

    _can_record_outputs = {"hidden_states": CroCoEncoderLayer, "attentions": CroCoSelfAttention}

    def __init__(self, config: CroCoConfig):
        super().__init__(config)
        self.patch_embedding = nn.Linear(config.patch_size**2 * config.num_channels, config.hidden_size)
        self.layers = nn.ModuleList(CroCoEncoderLayer(config) for _ in range(config.num_hidden_layers))
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.post_init()

    @capture_outputs(tie_last_hidden_states=False)
    def forward(
        self, patches: torch.Tensor, positions: torch.Tensor, **kwargs: Unpack[TransformersKwargs]
    ) -> BaseModelOutput:
        """Features of `patches` `(B, V, patch_size**2 * C)` at `positions` `(V, 2)` or `(B, V, 2)`."""
        config = self.config
        embedded = self.patch_embedding(patches.to(self.patch_embedding.weight.dtype))
        # Autocast lowers the precision of products, but not of the sums that run through all blocks.
        hidden_states, rotary = embedded.to(self.patch_embedding.weight.dtype), None
        if config.position_embedding_type == "rope":
            head_dim = config.hidden_size // config.num_attention_heads
            rotary = rotations(positions, head_dim, config.rope_theta, embedded.dtype)
        else:
            hidden_states = hidden_states + sincos_embedding(positions, config.hidden_size).to(hidden_states.dtype)
        for layer in self.layers:
            hidden_states = layer(hidden_states, rotary, **kwargs)
        return BaseModelOutput(last_hidden_state=self.norm(hidden_states))


class CroCoDecoder(CroCoPreTrainedModel):
    """Cross-attention blocks over the target's tokens, with the source's encoder features as memory."""

    _can_record_outputs = {
        "hidden_states": CroCoDecoderLayer,
        "attentions": CroCoSelfAttention,
        "cross_attentions": OutputRecorder(CroCoCrossAttention, index=1),
    }

    def __init__(self, config: CroCoConfig):
        super().__init__(config)
        self.embedding = nn.Linear(config.hidden_size, config.decoder_hidden_size)
        self.mask_token = nn.Parameter(torch.zeros(config.decoder_hidden_size))
        self.layers = nn.ModuleList(CroCoDecoderLayer(config) for _ in range(config.decoder_num_hidden_layers))
        self.norm = nn.LayerNorm(config.decoder_hidden_size, eps=config.layer_norm_eps)
        self.post_init()

    def embed(
        self,
        target: torch.Tensor,
        source: torch.Tensor,
        positions: torch.Tensor,
        source_positions: torch.Tensor,
        visible: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor, Rotations | None, Rotations | None]:
        """The decoder's tokens for all target patches, its memory of the source, and their rotary tables.

        `visible` (B, V) has the indices of the target patches in `target` (B, V, hidden_size); None means all.
        """
        config = self.config
        projected, source = self.embedding(target), self.embedding(source)
        hidden_states = projected.to(self.mask_token.dtype)  # as in the encoder, sums keep the parameters' precision
        if visible is not None:
            batch_size, width = hidden_states.shape[0], hidden_states.shape[-1]
            masked = self.mask_token.expand(batch_size, positions.shape[0], width)
            hidden_states = masked.scatter(1, visible.unsqueeze(-1).expand(-1, -1, width), hidden_states)
        if config.position_embedding_type == "rope":
            head_dim = config.decoder_hidden_size // config.decoder_num_attention_heads
            rotary, source_rotary = (
                rotations(where, head_dim, config.rope_theta, projected.dtype)
                for where in (positions, source_positions)
            )
            return hidden_states, source, rotary, source_rotary
        width = config.decoder_hidden_size
        hidden_states = hidden_states + sincos_embedding(positions, width).to(hidden_states.dtype)
        source = source + sincos_embedding(source_positions, width).to(source.dtype)
        return hidden_states, source, None, None

    @capture_outputs(tie_last_hidden_states=False)
    def forward(
        self,
        target: torch.Tensor,
        source: torch.Tensor,
        positions: torch.Tensor,
        source_positions: torch.Tensor,
        visible: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> BaseModelOutputWithCrossAttentions:
        embedded = self.embed(target, source, positions, source_positions, visible)
        hidden_states, source, rotary, source_rotary = embedded
        for layer in self.layers:
            hidden_states = layer(hidden_states, source, rotary, source_rotary, **kwargs)
        return BaseModelOutputWithCrossAttentions(last_hidden_state=self.norm(hidden_states))


class CroCoModel(CroCoPreTrainedModel):
    """Encoder features of one view, or encoder and decoder features of a pair of views.

    Args:
        config: the model's configuration.
        add_decoder: False for the encoder alone, which takes one view.
    """

    _keys_to_ignore_on_load_unexpected = [r"^prediction_head\."]

    def __init__(self, config: CroCoConfig, add_decoder: bool = True):
        super().__init__(config)
        self.encoder = CroCoEncoder(config)
        # None only in a model that is never given two views.
        self.decoder = cast(CroCoDecoder, CroCoDecoder(config) if add_decoder else None)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.encoder.patch_embedding

    def patchify(self, pixel_values: torch.Tensor, interpolate_pos_encoding: bool = False) -> torch.Tensor:
        """Cut views `(B, C, H, W)` into patches `(B, N, patch_size**2 * C)`.

        Patches are in raster order, the pixels of each ordered row, column, channel.

        Raises:
            ValueError: the views do not have the configured channels and size. With `interpolate_pos_encoding`, sides
                may be any multiple of the patch size.
        """
        config, size = self.config, self.config.patch_size
        if pixel_values.ndim != 4 or pixel_values.shape[1] != config.num_channels:
            raise ValueError(
                f"A batch of views should have shape (batch_size, {config.num_channels}, height, width), "
                f"not {tuple(pixel_values.shape)}."
            )
        rows, columns = pixel_values.shape[2] // size, pixel_values.shape[3] // size
        if (rows * size, columns * size) != tuple(pixel_values.shape[2:]):
            raise ValueError(
                f"A view of {pixel_values.shape[2]}x{pixel_values.shape[3]} px cannot be cut into patches "
                f"of {size} px."
            )
        if not interpolate_pos_encoding and (rows, columns) != config.grid_size:
            raise ValueError(
                f"A view of {pixel_values.shape[2]}x{pixel_values.shape[3]} px does not have the model's image_size "
                f"({config.image_size}); resize it, or pass interpolate_pos_encoding=True."
            )
        patches = pixel_values.unflatten(3, (columns, size)).unflatten(2, (rows, size))
        return patches.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)

    def patch_positions(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """The patches' positions in views `(B, C, H, W)`, `(N, 2)`, in units of the grid of `config.image_size`."""
        rows, columns = (side // self.config.patch_size for side in pixel_values.shape[2:])
        return patch_positions(rows, columns, self.config.grid_size, pixel_values.device)

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.Tensor,
        source_pixel_values: torch.Tensor | None = None,
        bool_masked_pos: torch.Tensor | None = None,
        interpolate_pos_encoding: bool = False,
        **kwargs: Unpack[TransformersKwargs],
    ) -> CroCoModelOutput:
        r"""
        Args:
            pixel_values (`torch.FloatTensor` of shape `(batch_size, num_channels, height, width)`):
                The target view, or the only one, normalised as by [`CroCoImageProcessor`].
            source_pixel_values (`torch.FloatTensor` of shape `(batch_size, num_channels, height, width)`, *optional*):
                The source view; if it is given, the decoder runs too.
            bool_masked_pos (`torch.BoolTensor` of shape `(batch_size, N)`, *optional*):
                True for the target patches to mask, the same number in every row. The encoder sees only the others.
            interpolate_pos_encoding (`bool`):
                Accept views of any size that is a multiple of the patch size.

        Raises:
            ValueError: shapes do not fit.
        """
        patches = self.patchify(pixel_values, interpolate_pos_encoding)
        positions = visible_positions = self.patch_positions(pixel_values)
        visible = None
        if bool_masked_pos is not None:
            visible = visible_patches(bool_masked_pos, patches.shape[:2])
            patches = patches.gather(1, visible.unsqueeze(-1).expand(-1, -1, patches.shape[-1]))
            visible_positions = positions[visible]
        target = self.encoder(patches, visible_positions, **kwargs)
        if source_pixel_values is None:
            return CroCoModelOutput(
                last_hidden_state=target.last_hidden_state,
                hidden_states=target.hidden_states,
                attentions=target.attentions,
            )

        if self.decoder is None:
            raise ValueError("This model has no decoder, so it takes one view, without source_pixel_values.")
        source_patches = self.patchify(source_pixel_values, interpolate_pos_encoding)
        source_positions = self.patch_positions(source_pixel_values)
        if source_patches.shape[0] != patches.shape[0]:  # not len, which torch.export makes a constant
            raise ValueError(f"There are {patches.shape[0]} target views but {source_patches.shape[0]} source views.")
        source = self.encoder(source_patches, source_positions)
        decoded = self.decoder(
            target.last_hidden_state, source.last_hidden_state, positions, source_positions, visible, **kwargs
        )
        return CroCoModelOutput(
            last_hidden_state=target.last_hidden_state,
            source_last_hidden_state=source.last_hidden_state,
            decoder_last_hidden_state=decoded.last_hidden_state,
            hidden_states=target.hidden_states,
            attentions=target.attentions,
            decoder_hidden_states=decoded.hidden_states,
            decoder_attentions=decoded.attentions,
            cross_attentions=decoded.cross_attentions,
        )

    @torch.no_grad()
    def iter_cross_attention_logits(
        self,
        pixel_values: torch.Tensor,
        source_pixel_values: torch.Tensor,
        interpolate_pos_encoding: bool = False,
    ) -> Iterator[torch.Tensor]:
        """Each decoder block's cross-attention before the softmax, q·k/√d, for unmasked views, one block at a time.

        Yields:
            float32 `(batch_size, heads, N, M)`: rows are target patches, columns source patches, both in raster order.
        """
        for query, key in self._cross_queries_and_keys(pixel_values, source_pixel_values, interpolate_pos_encoding):
            yield torch.einsum("bnhd,bmhd->bhnm", query, key)

    @torch.no_grad()
    def cross_attention_logits(
        self,
        pixel_values: torch.Tensor,
        source_pixel_values: torch.Tensor,
        interpolate_pos_encoding: bool = False,
    ) -> torch.Tensor:
        """The map that the Correspondence Alignment Score compares: `iter_cross_attention_logits`, averaged over
        heads and blocks, float32 `(batch_size, N, M)`.

        A sum over heads of products over channels is one product over all channels. So no head's own map is made, and
        the memory is the result's, whatever the number of heads and blocks.
        """
        total = torch.zeros(())
        for query, key in self._cross_queries_and_keys(pixel_values, source_pixel_values, interpolate_pos_encoding):
            total = total.to(query.device) + query.flatten(2) @ key.flatten(2).mT
        return total / (self.config.decoder_num_hidden_layers * self.config.decoder_num_attention_heads)

    def _cross_queries_and_keys(
        self, pixel_values: torch.Tensor, source_pixel_values: torch.Tensor, interpolate_pos_encoding: bool
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Scaled queries and keys of each decoder block's cross-attention, float32 `(B, N or M, heads, head_dim)`."""
        if self.decoder is None:
            raise ValueError("This model has no decoder, and so no cross-attention.")
        positions, source_positions = self.patch_positions(pixel_values), self.patch_positions(source_pixel_values)
        target, source = (
            self.encoder(self.patchify(view, interpolate_pos_encoding), where).last_hidden_state
            for view, where in ((pixel_values, positions), (source_pixel_values, source_positions))
        )
        hidden_states, source, rotary, source_rotary = self.decoder.embed(
            target, source, positions, source_positions, None
        )
        for layer in cast(Iterable[CroCoDecoderLayer], self.decoder.layers):
            hidden_states = layer.attend_to_self(hidden_states, rotary)
            attention, normed_source = layer.cross_attention, layer.norm_source(source)
            query, key, _ = attention.project(layer.norm2(hidden_states), normed_source, rotary, source_rotary)
            yield query.float() * attention.scaling, key.float()
            hidden_states = layer.attend_to_source(hidden_states, source, rotary, source_rotary)


class CroCoForPreTraining(CroCoPreTrainedModel):
    """CroCo with the pixel prediction head and the masked reconstruction loss."""

    def __init__(self, config: CroCoConfig):
        super().__init__(config)
        self.croco = CroCoModel(config)
        self.prediction_head = nn.Linear(config.decoder_hidden_size, config.patch_size**2 * config.num_channels)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.Tensor,
        source_pixel_values: torch.Tensor,
        bool_masked_pos: torch.Tensor | None = None,
        generator: torch.Generator | None = None,
        interpolate_pos_encoding: bool = False,
        **kwargs: Unpack[TransformersKwargs],
    ) -> CroCoForPreTrainingOutput:
        r"""
        Args:
            pixel_values, source_pixel_values, bool_masked_pos, interpolate_pos_encoding:
                As in [`CroCoModel`]. Without `bool_masked_pos`, `round(config.mask_ratio * N)` patches of each target
                are masked at random.
            generator (`torch.Generator`, *optional*):
                Draws this mask; the global generator by default.

        Raises:
            ValueError: shapes do not fit, or the mask hides nothing.
        """
        patches = self.croco.patchify(pixel_values, interpolate_pos_encoding)
        if bool_masked_pos is None:
            batch_size, num_patches = patches.shape[:2]
            ratio = self.config.mask_ratio
            bool_masked_pos = random_mask(batch_size, num_patches, ratio, patches.device, generator)
        outputs = self.croco(
            pixel_values, source_pixel_values, bool_masked_pos, interpolate_pos_encoding, return_dict=True, **kwargs
        )
        logits = self.prediction_head(outputs.decoder_last_hidden_state)
        loss = self.loss(logits, patches, bool_masked_pos)
        return CroCoForPreTrainingOutput(loss=loss, logits=logits, mask=bool_masked_pos, **outputs)

    def loss(self, logits: torch.Tensor, patches: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Mean squared error of predictions and patches `(B, N, P)` where `mask` `(B, N)` is True, in float32.

        With `config.norm_pix_loss`, each patch is first normalised by its own mean and unbiased variance (arXiv
        2111.06377, section 4.1), with 1e-6 added to the variance.
        """
        wanted = patches[mask].float()
        if not len(wanted):
            raise ValueError("bool_masked_pos masks no patch, so there is nothing to predict.")
        if self.config.norm_pix_loss:
            mean, variance = wanted.mean(-1, keepdim=True), wanted.var(-1, keepdim=True)
            wanted = (wanted - mean) * (variance + _NORM_PIX_EPS).rsqrt()
        return nn.functional.mse_loss(logits[mask].float(), wanted)

    @torch.no_grad()
    def reconstruct(self, pixel_values: torch.Tensor, outputs: CroCoForPreTrainingOutput) -> torch.Tensor:
        """The target as the model completes it: true visible patches, predicted masked patches.

        Predictions of a model with `norm_pix_loss` have no brightness or contrast; they get the true patch's, as is
        usual for such pictures.

        Returns:
            float32 with the shape of `pixel_values`, in its normalised units.
        """
        patches = self.croco.patchify(pixel_values, interpolate_pos_encoding=True).float()
        assert outputs.logits is not None and outputs.mask is not None
        predicted = outputs.logits.float()
        if self.config.norm_pix_loss:
            mean, variance = patches.mean(-1, keepdim=True), patches.var(-1, keepdim=True)
            predicted = predicted * (variance + _NORM_PIX_EPS).sqrt() + mean
        completed = torch.where(outputs.mask.unsqueeze(-1), predicted, patches)
        return self.unpatchify(completed, (pixel_values.shape[2], pixel_values.shape[3]))

    def unpatchify(self, patches: torch.Tensor, size: tuple[int, int] | None = None) -> torch.Tensor:
        """The views `(B, C, H, W)` that patches `(B, N, patch_size**2 * C)` were cut from.

        Args:
            patches: in the form of [`CroCoModel.patchify`].
            size: height and width of the views in pixels; `config.image_size` by default.

        Raises:
            ValueError: the number of patches or their length does not fit this size.
        """
        side, channels = self.config.patch_size, self.config.num_channels
        rows, columns = self.config.grid_size if size is None else (length // side for length in size)
        if patches.shape[1:] != (rows * columns, side**2 * channels):
            raise ValueError(
                f"Patches of a view of {rows * side}x{columns * side} px should have shape "
                f"(batch_size, {rows * columns}, {side**2 * channels}), not {tuple(patches.shape)}."
            )
        views = patches.unflatten(2, (side, side, channels)).unflatten(1, (rows, columns))
        return views.permute(0, 5, 1, 3, 2, 4).flatten(4).flatten(2, 3)


def random_mask(
    batch_size: int,
    num_patches: int,
    mask_ratio: float,
    device: torch.device,
    generator: torch.Generator | None = None,
) -> torch.Tensor:
    """A bool mask `(batch_size, num_patches)` with `round(mask_ratio * num_patches)` True at random in each row."""
    where = device if generator is None else generator.device
    noise = torch.rand(batch_size, num_patches, device=where, generator=generator).to(device)
    masked = noise.argsort(dim=1)[:, : round(mask_ratio * num_patches)]
    return torch.zeros(batch_size, num_patches, dtype=torch.bool, device=device).scatter(1, masked, True)


def visible_patches(bool_masked_pos: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """Indices of the unmasked patches, int64 `(B, V)`, in raster order.

    Raises:
        ValueError: the mask does not have `shape` (B, N), or its rows mask different numbers of patches.
    """
    if bool_masked_pos.shape != shape or bool_masked_pos.dtype != torch.bool:
        raise ValueError(
            f"bool_masked_pos should be bool with shape {tuple(shape)} (batch_size, number of patches), "
            f"not {bool_masked_pos.dtype} with {tuple(bool_masked_pos.shape)}."
        )
    visible = (~bool_masked_pos).nonzero()
    num_visible, remainder = divmod(len(visible), len(bool_masked_pos))
    expected = torch.arange(len(bool_masked_pos), device=visible.device).repeat_interleave(num_visible)
    if remainder or num_visible == 0 or not torch.equal(visible[:, 0], expected):
        raise ValueError("bool_masked_pos should leave the same number of patches visible in every row, at least one.")
    return visible[:, 1].view(-1, num_visible)


CroCoModel.register_for_auto_class("AutoModel")
CroCoForPreTraining.register_for_auto_class("AutoModelForPreTraining")

__all__ = ["CroCoForPreTraining", "CroCoModel", "CroCoPreTrainedModel"]
