"""The maps of a CroCo: the cross-attention of its decoder, and the correlation of its decoder's features."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from singlelife.alignment.models.backbones import Backbone, checked_finite, chosen_layers
from singlelife.croco import CroCoModel


class CroCoMaps:
    """What the maps of a CroCo have in common, whichever way they are made: its encoder's features, and its pixels.

    Attributes:
        model, processor: what it was made of.
    """

    method: str

    def __init__(
        self,
        name: str,
        revision: str,
        model: CroCoModel,
        processor: Any,
        device: str = "cpu",
        layers: Sequence[int] | None = None,
    ):
        self.name, self.revision = name, revision
        self._encoder = Backbone(name, model, processor, device)
        self.grid, self.image_size = self._encoder.grid, self._encoder.image_size
        depth = model.config.decoder_num_hidden_layers
        self.layers = chosen_layers(name, self._default_layers(depth) if layers is None else layers, depth)
        self.model, self.processor, self._device = model, processor, torch.device(device)
        self.num_heads = self._num_heads()

    @staticmethod
    def _default_layers(depth: int) -> Sequence[int]:
        return range(depth)

    def _num_heads(self) -> int:
        return 1

    def features(self, images: torch.Tensor) -> torch.Tensor:
        last = self._encoder.depth - 1
        return checked_finite(self.name, "features", self._encoder.tokens(images, [last])[0].cpu())

    def _pixels(self, views: torch.Tensor) -> torch.Tensor:
        return self.processor(list(views), return_tensors="pt").pixel_values.to(self._device)


class CrossAttention(CroCoMaps):
    """Cross-attention before the softmax, averaged over heads and decoder blocks, of unmasked views.

    See [`singlelife.alignment.models.AttentionMapProvider`].
    """

    method = "cross-attention"

    def _num_heads(self) -> int:
        return len(self.layers) * self.model.config.decoder_num_attention_heads

    @torch.inference_mode()
    def logits(self, target: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
        if len(self.layers) == self.model.config.decoder_num_hidden_layers:
            maps = self.model.cross_attention_logits(self._pixels(target), self._pixels(source))
        else:
            maps = torch.stack([block.sum(dim=1) for block in self._blocks(target, source)]).sum(dim=0)
            maps = maps / self.num_heads
        return checked_finite(self.name, "attention logits", maps.cpu())

    @torch.inference_mode()
    def logits_by_head(self, target: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
        maps = torch.cat([block.cpu() for block in self._blocks(target, source)], dim=1)
        return checked_finite(self.name, "attention logits", maps)

    def _blocks(self, target: torch.Tensor, source: torch.Tensor) -> Iterator[torch.Tensor]:
        """The maps of the chosen blocks, float32 (B, heads, N, N) each."""
        blocks = self.model.iter_cross_attention_logits(self._pixels(target), self._pixels(source))
        for layer, block in zip(range(self.layers[-1] + 1), blocks, strict=False):  # none after the last chosen one
            if layer in self.layers:
                yield block


class DecoderCorrelation(CroCoMaps):
    """The cosine of the decoder's tokens of the target, given the source, and of the source, given the target.

    Averaged over the chosen decoder blocks; the tokens of the last one are those after the final norm. See
    [`singlelife.alignment.models.AttentionMapProvider`].
    """

    method = "decoder correlation"

    @staticmethod
    def _default_layers(depth: int) -> Sequence[int]:
        return (-1,)

    @torch.inference_mode()
    def logits(self, target: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
        pixels = self._pixels(target), self._pixels(source)
        pairs = zip(self._tokens(pixels[0], pixels[1]), self._tokens(pixels[1], pixels[0]), strict=True)
        maps = torch.stack([of_target @ of_source.mT for of_target, of_source in pairs]).mean(dim=0)
        return checked_finite(self.name, "features", maps.cpu())

    def logits_by_head(self, target: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
        return self.logits(target, source).unsqueeze(1)

    def _tokens(self, view: torch.Tensor, other: torch.Tensor) -> list[torch.Tensor]:
        """The decoder's tokens of a view after each of the chosen blocks, float32 (B, N, D), of length 1."""
        output = self.model(view, other, output_hidden_states=True)
        last = self.model.config.decoder_num_hidden_layers - 1
        tokens = [
            output.decoder_last_hidden_state if layer == last else output.decoder_hidden_states[layer + 1]
            for layer in self.layers
        ]
        return [torch.nn.functional.normalize(each.float(), dim=-1) for each in tokens]
