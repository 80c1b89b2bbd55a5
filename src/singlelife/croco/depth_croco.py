"""Depth from one view: a frozen CroCo encoder and a probe."""

from typing import ClassVar

import torch
from torch import nn
from transformers.modeling_outputs import DepthEstimatorOutput
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs
from transformers.utils.generic import can_return_tuple

from .configuration_croco import CroCoConfig
from .modeling_croco import CroCoModel, CroCoPreTrainedModel
from .probes_croco import CroCoAttentiveProbe, CroCoLinearProbe, init_probe_weights

SCALE_INVARIANCE = 0.5  # the λ of the loss


class CroCoForDepthEstimation(CroCoPreTrainedModel):
    """The CroCo encoder, frozen, and a probe that gives every pixel of each patch a depth; only the probe learns."""

    _auto_classes: ClassVar[dict[str, str]] = {"AutoModelForDepthEstimation": "depth_croco.CroCoForDepthEstimation"}
    _keys_to_ignore_on_load_unexpected = [r"^prediction_head\.", r"decoder\."]

    def __init__(self, config: CroCoConfig):
        super().__init__(config)
        self.croco = CroCoModel(config, add_decoder=False)
        self.probe = depth_probe(
            config.probe_type,
            config.hidden_size,
            config.grid_size,
            config.patch_size,
            config.probe_hidden_size,
            config.probe_num_attention_heads,
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
                True depth, 0 where it is not known; with it there is a `loss`, `scale_invariant_log_loss`.

        Returns:
            `predicted_depth` `(batch_size, height, width)`, within `config.min_depth` and `config.max_depth`.

        Raises:
            ValueError: shapes that do not fit.
        """
        with torch.no_grad():
            outputs = self.croco(pixel_values, return_dict=True, **kwargs)
        log_depth = log_depth_map(self.probe(outputs.last_hidden_state), self.config.grid_size, self.config.patch_size)
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
) -> CroCoAttentiveProbe | CroCoLinearProbe:
    """A probe that predicts the logarithm of depth at the `patch_size**2` pixels of each patch."""
    if probe_type == "linear":
        return CroCoLinearProbe(hidden_size, grid_size, patch_size**2)
    return CroCoAttentiveProbe(hidden_size, grid_size, patch_size**2, width, num_heads)


def log_depth_map(predicted: torch.Tensor, grid_size: tuple[int, int], patch_size: int) -> torch.Tensor:
    """A probe's output `(B, N, patch_size**2)`, pixels of a patch row by row, as maps `(B, height, width)`."""
    maps = predicted.unflatten(2, (patch_size, patch_size)).unflatten(1, grid_size)
    return maps.transpose(2, 3).flatten(3).flatten(1, 2)


def scale_invariant_log_loss(log_depth: torch.Tensor, depth: torch.Tensor) -> torch.Tensor:
    """The scale-invariant error in log space (Eigen et al., arXiv 1406.2283, equation 4), λ = 0.5, mean over views.

    With d = log predicted - log true depth over a view's known pixels: mean(d²) - λ mean(d)², in float32.

    Args:
        log_depth: predicted, `(B, H, W)`.
        depth: true, `(B, H, W)`, 0 where unknown.

    Raises:
        ValueError: the shapes differ, or no pixel of a view is known.
    """
    if log_depth.shape != depth.shape:
        raise ValueError(f"labels should be of shape {tuple(log_depth.shape)}, not {tuple(depth.shape)}.")
    known = depth > 0
    counts = known.sum(dim=(1, 2))
    if not counts.all():
        raise ValueError("A view of labels has no pixel of known depth (above 0).")
    error = torch.where(known, log_depth.float() - depth.float().clamp_min(1e-6).log(), 0.0)
    mean_square = error.square().sum(dim=(1, 2)) / counts
    mean = error.sum(dim=(1, 2)) / counts
    return (mean_square - SCALE_INVARIANCE * mean.square()).mean()


CroCoForDepthEstimation.register_for_auto_class("AutoModelForDepthEstimation")

__all__ = ["CroCoForDepthEstimation"]
