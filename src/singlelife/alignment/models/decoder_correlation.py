"""The correlation of a CroCo's decoder features, to set beside its cross-attention."""

from collections.abc import Sequence
from typing import Any

import torch

from singlelife.alignment.models.backbones import checked_finite
from singlelife.alignment.models.cross_attention import CroCoMaps
from singlelife.croco import CroCoModel


class DecoderCorrelation(CroCoMaps):
    """The cosine of the decoder's tokens of the target, given the source, and of the source, given the target.

    Averaged over the chosen decoder blocks; the tokens of the last one are those after the final norm. See
    [`singlelife.alignment.attention.AttentionMapProvider`].
    """

    method = "decoder correlation"
    num_heads = 1

    def __init__(
        self,
        name: str,
        revision: str,
        model: CroCoModel,
        processor: Any,
        device: str = "cpu",
        layers: Sequence[int] | None = None,
    ):
        super().__init__(name, revision, model, processor, device, (-1,) if layers is None else layers)

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
