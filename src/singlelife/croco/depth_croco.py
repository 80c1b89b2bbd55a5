"""Probes that read a frozen encoder's tokens, and a model for depth from one view: a frozen encoder with a probe."""

import math
from typing import ClassVar

import torch
from torch import nn
from transformers import initialization as init
from transformers.modeling_outputs import DepthEstimatorOutput
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs
from transformers.utils.generic import can_return_tuple

from .configuration_croco import CroCoConfig, CroCoDepthConfig
from .modeling_croco import CroCoModel, CroCoPreTrainedModel, patch_positions

SCALE_INVARIANCE = 0.5  # the λ of the loss

_CHANNELS_PER_HEAD = 32
_TOKEN_STD = 0.02
_POSITION_GAIN, _KEY_STD = 3.0, 0.02  # initial values, with which a query looks mostly at its own patch
_HIGHEST, _LOWEST_SHARE = 2.0, 1 / 32  # highest frequency, in radians per patch; the lowest, as a share of it


class CroCoAttentiveProbe(nn.Module):
    """Learned queries that attend to the tokens once, an MLP, and a linear layer.

    Every key and every query carries its position: at first a query looks at the patches around it, and it can learn
    to look elsewhere. Without positions, training would take many thousands of steps instead of a few hundred, since
    an encoder's tokens need not contain their position.

    Args:
        hidden_size: width of the tokens.
        grid_size: rows and columns of tokens.
        out_features: numbers to predict from each query.
        width: width of the probe, divisible by 4; half of `hidden_size` by default, and at least 32.
        num_heads: number of heads, a divisor of a quarter of the width; by default one per about 32 channels.
        query_grid: rows and columns of queries, spread over the image; the tokens' by default.
        mlp_ratio: width of the MLP, in widths of the probe.

    Raises:
        ValueError: the width does not fit positions or heads.
    """

    def __init__(
        self,
        hidden_size: int,
        grid_size: tuple[int, int],
        out_features: int,
        width: int | None = None,
        num_heads: int | None = None,
        query_grid: tuple[int, int] | None = None,
        mlp_ratio: int = 2,
    ):
        super().__init__()
        width = width or max(32, hidden_size // 8 * 4)
        self.num_heads = num_heads or math.gcd(width // 4, max(1, width // _CHANNELS_PER_HEAD))
        if width % 4 or width // 4 % self.num_heads:
            raise ValueError(
                f"The width of an attentive probe, {width}, should be divisible by 4, and a quarter of it by its "
                f"{self.num_heads} heads."
            )
        self.grid_size = grid_size
        self.query_grid = query_grid or grid_size
        self.query_tokens = nn.Parameter(torch.empty(math.prod(self.query_grid), width))
        self.position_gain = nn.Parameter(torch.empty(()))
        self.norm_tokens = nn.LayerNorm(hidden_size)
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(hidden_size, width)
        self.v_proj = nn.Linear(hidden_size, width)
        self.o_proj = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, mlp_ratio * width)
        self.fc2 = nn.Linear(mlp_ratio * width, width)
        self.norm_out = nn.LayerNorm(width)
        self.head = nn.Linear(width, out_features)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Predictions `(B, queries, out_features)` from tokens `(B, N, hidden_size)`, both in raster order."""
        normed = self.norm_tokens(tokens)
        query = self.q_proj(self.query_tokens) + self._places(self.query_grid, tokens)
        key, value = self.k_proj(normed) + self._places(self.grid_size, tokens), self.v_proj(normed)
        attended = nn.functional.scaled_dot_product_attention(
            self._heads(query).expand(len(tokens), -1, -1, -1), self._heads(key), self._heads(value)
        )
        states = self.query_tokens + self.o_proj(attended.transpose(1, 2).flatten(2))
        states = states + self.fc2(nn.functional.gelu(self.fc1(self.norm(states))))
        return self.head(self.norm_out(states))

    def _places(self, grid: tuple[int, int], tokens: torch.Tensor) -> torch.Tensor:
        positions = patch_positions(*grid, self.grid_size, tokens.device)
        return self.position_gain * _waves(positions, self.query_tokens.shape[1]).to(tokens.dtype)

    def _heads(self, states: torch.Tensor) -> torch.Tensor:
        """`(..., N, width)` as `(..., heads, N, width / heads)`: each head gets waves of all lengths and both axes."""
        return states.unflatten(-1, (-1, self.num_heads)).movedim(-1, -3)


def _waves(positions: torch.Tensor, width: int) -> torch.Tensor:
    """Sines and cosines `(N, width)` of positions `(N, 2)` in patches, with wavelengths from 3 to 100 patches.

    The dot product of two positions falls off within a few patches. With `sincos_embedding`, whose waves are up to
    60,000 patches long, it hardly would on a grid.
    """
    count = width // 4
    frequencies = _HIGHEST * _LOWEST_SHARE ** (torch.arange(count, device=positions.device) / max(1, count - 1))
    angles = positions.unsqueeze(-1) * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=-1).flatten(-2)


class CroCoLinearProbe(nn.Module):
    """A linear layer on each token, with a bias for each position. Tokens are layer-normed first.

    Args:
        hidden_size, grid_size, out_features: as in [`CroCoAttentiveProbe`].
    """

    def __init__(self, hidden_size: int, grid_size: tuple[int, int], out_features: int):
        super().__init__()
        self.position_bias = nn.Parameter(torch.empty(grid_size[0] * grid_size[1], out_features))
        self.norm = nn.LayerNorm(hidden_size, elementwise_affine=False)  # the linear layer has the gains
        self.head = nn.Linear(hidden_size, out_features)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """As in [`CroCoAttentiveProbe`]."""
        return self.head(self.norm(tokens)) + self.position_bias


@torch.no_grad()
def init_probe_weights(module: nn.Module) -> None:
    """Initialise a module of a probe. Loaded weights are left alone, as everywhere in transformers."""
    if isinstance(module, nn.Linear):
        init.xavier_uniform_(module.weight)
        init.zeros_(module.bias)
    elif isinstance(module, nn.LayerNorm) and module.elementwise_affine:
        init.ones_(module.weight)
        init.zeros_(module.bias)
    elif isinstance(module, CroCoAttentiveProbe | CroCoLinearProbe):
        init.zeros_(module.head.weight)  # at first the prediction is the bias, whatever the tokens
        if isinstance(module, CroCoLinearProbe):
            init.zeros_(module.position_bias)
        if isinstance(module, CroCoAttentiveProbe):
            init.normal_(module.query_tokens, std=_TOKEN_STD)
            init.constant_(module.position_gain, _POSITION_GAIN)
            init.normal_(module.k_proj.weight, std=_KEY_STD)


class CroCoForDepthEstimation(CroCoPreTrainedModel):
    """A frozen CroCo encoder and a probe that predicts the depth of every pixel; only the probe learns."""

    config: CroCoDepthConfig
    config_class = CroCoDepthConfig
    _auto_classes: ClassVar[dict[str, str]] = {"AutoModelForDepthEstimation": "depth_croco.CroCoForDepthEstimation"}
    _keys_to_ignore_on_load_unexpected = [r"^prediction_head\.", r"decoder\."]

    def __init__(self, config: CroCoConfig):
        if not isinstance(config, CroCoDepthConfig):  # from a pretraining checkpoint or an old depth checkpoint
            attention = config._attn_implementation
            config = CroCoDepthConfig.of(config)
            config._attn_implementation = attention
        super().__init__(config)
        self.croco = CroCoModel(config, add_decoder=False)
        self._query_size = config.probe_patch_size or config.patch_size
        height, width = (count * config.patch_size for count in config.grid_size)
        self._query_grid = (height // self._query_size, width // self._query_size)
        self.probe = depth_probe(
            config.probe_type,
            config.hidden_size,
            config.grid_size,
            self._query_size,
            config.probe_hidden_size,
            config.probe_num_attention_heads,
            self._query_grid,
            config.probe_mlp_ratio,
        )
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if module in set(self.probe.modules()):
            init_probe_weights(module)
        else:
            super()._init_weights(module)

    @can_return_tuple
    def forward(
        self, pixel_values: torch.Tensor, labels: torch.Tensor | None = None, **kwargs: Unpack[TransformersKwargs]
    ) -> DepthEstimatorOutput:
        r"""
        Args:
            pixel_values (`torch.FloatTensor` of shape `(batch_size, num_channels, height, width)`):
                Views of `config.image_size`, normalised as by [`CroCoImageProcessor`].
            labels (`torch.FloatTensor` of shape `(batch_size, height, width)`, *optional*):
                True depth, 0 where unknown; if given, there is a `loss`, `scale_invariant_log_loss`.

        Returns:
            `predicted_depth` `(batch_size, height, width)`, within `config.min_depth` and `config.max_depth`.

        Raises:
            ValueError: shapes do not fit, or the probe has not been trained.
        """
        if not (self.training or labels is not None or torch.compiler.is_compiling() or self.probe.head.weight.any()):
            raise ValueError(
                "This model has no trained depth probe, so every pixel would get the same depth. Train one with "
                "singlelife evaluate depth MODEL --train LIFE --test LIFE --save FOLDER, and load FOLDER."
            )
        with torch.no_grad():
            outputs = self.croco(pixel_values, return_dict=True, **kwargs)
        log_depth = log_depth_map(self.probe(outputs.last_hidden_state), self._query_grid, self._query_size)
        return DepthEstimatorOutput(
            loss=None if labels is None else scale_invariant_log_loss(log_depth, labels),
            predicted_depth=log_depth.exp().clamp(self.config.min_depth, self.config.max_depth),
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )


def depth_probe(
    probe_type: str,
    hidden_size: int,
    grid_size: tuple[int, int],
    patch_size: int,
    width: int | None = None,
    num_heads: int | None = None,
    query_grid: tuple[int, int] | None = None,
    mlp_ratio: int = 2,
) -> CroCoAttentiveProbe | CroCoLinearProbe:
    """A probe that predicts log depth at the `patch_size**2` pixels of each token's or query's patch."""
    if probe_type == "linear":
        return CroCoLinearProbe(hidden_size, grid_size, patch_size**2)
    shape = hidden_size, grid_size, patch_size**2, width, num_heads
    return CroCoAttentiveProbe(*shape, query_grid=query_grid, mlp_ratio=mlp_ratio)


def log_depth_map(predicted: torch.Tensor, grid_size: tuple[int, int], patch_size: int) -> torch.Tensor:
    """A probe's output `(B, N, patch_size**2)`, with each patch's pixels row by row, as maps `(B, height, width)`."""
    maps = predicted.unflatten(2, (patch_size, patch_size)).unflatten(1, grid_size)
    return maps.transpose(2, 3).flatten(3).flatten(1, 2)


def scale_invariant_log_loss(log_depth: torch.Tensor, depth: torch.Tensor) -> torch.Tensor:
    """The scale-invariant error in log space (Eigen et al., arXiv 1406.2283, equation 4), λ = 0.5, mean over views.

    With d = log predicted - log true depth over a view's known pixels: mean(d²) - λ mean(d)², in float32.

    Args:
        log_depth: predicted log depth, `(B, H, W)`.
        depth: true depth, `(B, H, W)`, 0 where unknown.

    Raises:
        ValueError: the shapes differ, or a view has no pixel with known depth.
    """
    if log_depth.shape != depth.shape:
        raise ValueError(f"labels should have shape {tuple(log_depth.shape)}, not {tuple(depth.shape)}.")
    known = depth > 0
    counts = known.sum(dim=(1, 2))
    if not counts.all():
        raise ValueError("A view in labels has no pixel with known depth (above 0).")
    error = torch.where(known, log_depth.float() - depth.float().clamp_min(1e-6).log(), 0.0)
    mean_square = error.square().sum(dim=(1, 2)) / counts
    mean = error.sum(dim=(1, 2)) / counts
    return (mean_square - SCALE_INVARIANCE * mean.square()).mean()


CroCoForDepthEstimation.register_for_auto_class("AutoModelForDepthEstimation")

__all__ = ["CroCoAttentiveProbe", "CroCoForDepthEstimation", "CroCoLinearProbe"]
