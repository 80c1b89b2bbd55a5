"""Where a model looks: from pairs of views to logits over source patches, by cross-attention or by feature cosines."""

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import torch
from torch.nn.functional import normalize
from transformers import PreTrainedModel

from singlelife.alignment.models.backbones import Backbone
from singlelife.errors import CheckpointError

_CHANNEL_GROUPS = 8  # groups of feature channels, for the score's interval


class AttentionMapProvider(Protocol):
    """A model that says where in the source it looks for each patch of the target.

    Views are uint8 (B, 3, S, S) of any size S, and are resized if the model takes another. Patches are in raster
    order. All results are on the CPU; results that are not finite raise a CheckpointError.

    Attributes:
        name: as the user named it.
        revision: identifies its weights: the commit on the Hub, or the SHA-256 of a folder's files; for an untrained
            model, a string made from its config and seed.
        method: `"cross-attention"`, `"feature correlation"` or `"decoder correlation"`.
        layers: the blocks that the maps come from, counted from 0: the backbone's for features, otherwise the
            decoder's.
        num_heads: the number of maps that `logits_by_head` gives for a pair.
        grid: rows and columns of patches of a view; N is their product.
        image_size: longer side of the views that it takes, in pixels.
    """

    name: str
    revision: str
    method: str
    layers: tuple[int, ...]
    grid: tuple[int, int]
    image_size: int

    @property
    def num_heads(self) -> int: ...

    def logits(self, target: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
        """The mean map over the layers and their heads, float32 (B, N, N): rows are target patches."""
        ...

    def logits_by_head(self, target: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
        """The map of each head of each layer, float32 (B, num_heads, N, N), layer by layer; their mean equals
        `logits`. The heads of features are groups of their channels."""
        ...

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """The patch tokens of single views, float32 (B, N, D): a CroCo's normed encoder output if the maps come from
        its decoder, otherwise the tokens after the last of the layers."""
        ...


class FeatureCorrelation:
    """The cosine of the patch tokens of the target and the source, averaged over the chosen layers.

    Args:
        name, revision: see [`AttentionMapProvider`].
        model, processor: the vision transformer and its image processor.
        device: where it runs.
        layers: blocks, from 0, or from -1 backwards; the last by default.

    Raises:
        CheckpointError: the model has no such layer, or does not give a token for each patch.
    """

    method = "feature correlation"
    _default_layers = slice(-1, None)

    def __init__(
        self,
        name: str,
        revision: str,
        model: PreTrainedModel,
        processor: Any,
        device: str = "cpu",
        layers: Sequence[int] | None = None,
    ):
        self.name, self.revision, self.processor = name, revision, processor
        self.model: Any = model  # of any class
        self._backbone = Backbone(name, model, processor, device)
        self.grid, self.image_size = self._backbone.grid, self._backbone.image_size
        depth = self._depth()
        chosen = range(depth)[self._default_layers] if layers is None else layers
        wrong = [layer for layer in chosen if not -depth <= layer < depth]
        if wrong or not chosen:
            raise CheckpointError(
                f"{name} has the layers 0 to {depth - 1} (or -{depth} to -1)"
                + (f", but no layer {wrong[0]}." if wrong else ", and none was chosen.")
            )
        self.layers = tuple(sorted({layer % depth for layer in chosen}))

    def logits(self, target: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
        pairs = zip(self._tokens(target, source), self._tokens(source, target), strict=True)
        maps = [normalize(of_target, dim=-1) @ normalize(of_source, dim=-1).mT for of_target, of_source in pairs]
        return self._finite("features", torch.stack(maps).mean(dim=0))

    @property
    def num_heads(self) -> int:
        return len(self.layers) * _CHANNEL_GROUPS

    def logits_by_head(self, target: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
        maps = []
        for pair in zip(self._tokens(target, source), self._tokens(source, target), strict=True):
            channels = [normalize(each, dim=-1) for each in pair]
            for group in range(_CHANNEL_GROUPS):
                of_target, of_source = (each[..., group::_CHANNEL_GROUPS] for each in channels)
                maps.append(_CHANNEL_GROUPS * of_target @ of_source.mT)
        return self._finite("features", torch.stack(maps, dim=1))

    def features(self, images: torch.Tensor) -> torch.Tensor:
        return self._finite("features", self._backbone.tokens(images, self.layers[-1:])[0])

    def _depth(self) -> int:
        return self._backbone.depth

    def _tokens(self, view: torch.Tensor, other: torch.Tensor) -> list[torch.Tensor]:
        """The tokens of a view after each chosen block, float32 (B, N, D); a decoder's depend on the other view."""
        return self._backbone.tokens(view, self.layers)

    def _finite(self, what: str, values: torch.Tensor) -> torch.Tensor:
        if not torch.isfinite(values).all():
            raise CheckpointError(f"{self.name} gives {what} that are not finite; its training may have diverged.")
        return values.cpu()


class DecoderCorrelation(FeatureCorrelation):
    """The cosine of a CroCo decoder's tokens of the target, given the source, and of the source, given the target.

    Averaged over the chosen decoder blocks; the tokens of the last block are taken after the final norm.
    """

    method = "decoder correlation"

    def features(self, images: torch.Tensor) -> torch.Tensor:
        return self._finite("features", self._backbone.tokens(images, [self._backbone.depth - 1])[0])

    def _depth(self) -> int:
        return self.model.config.decoder_num_hidden_layers

    @torch.inference_mode()
    def _tokens(self, view: torch.Tensor, other: torch.Tensor) -> list[torch.Tensor]:
        output = self.model(self._pixels(view), self._pixels(other), output_hidden_states=True)
        states = (*output.decoder_hidden_states[: self._depth()], output.decoder_last_hidden_state)
        return [states[layer + 1].float() for layer in self.layers]

    def _pixels(self, views: torch.Tensor) -> torch.Tensor:
        return self.processor(list(views), return_tensors="pt").pixel_values.to(self.model.device)


class CrossAttention(DecoderCorrelation):
    """A CroCo's cross-attention on unmasked views before the softmax, averaged over heads and decoder blocks."""

    method = "cross-attention"
    _default_layers = slice(None)

    @property
    def num_heads(self) -> int:
        return len(self.layers) * self.model.config.decoder_num_attention_heads

    @torch.inference_mode()
    def logits(self, target: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
        if len(self.layers) == self._depth():
            maps = self.model.cross_attention_logits(self._pixels(target), self._pixels(source))
        else:
            maps = torch.stack([block.sum(dim=1) for block in self._blocks(target, source)]).sum(dim=0)
            maps = maps / self.num_heads
        return self._finite("attention logits", maps)

    @torch.inference_mode()
    def logits_by_head(self, target: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
        maps = torch.cat([block.cpu() for block in self._blocks(target, source)], dim=1)
        return self._finite("attention logits", maps)

    def _blocks(self, target: torch.Tensor, source: torch.Tensor) -> Iterator[torch.Tensor]:
        """The maps of the chosen blocks, float32 (B, heads, N, N) each."""
        blocks = self.model.iter_cross_attention_logits(self._pixels(target), self._pixels(source))
        for layer, block in zip(range(self.layers[-1] + 1), blocks, strict=False):  # stop after the last chosen one
            if layer in self.layers:
                yield block
