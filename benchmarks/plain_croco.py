"""CroCo written the plain way, as its papers describe it, to measure the package's model against.

The architecture and its parameters are those of `singlelife.croco`, and of the target, the encoder sees only the
visible patches. Attention is explicit: a product, a softmax and a product. Rotary positions are computed anew in each
attention, nothing is fused, and all patches of the target are predicted, not only those in the loss.
"""

import torch
from torch import nn
from torch.nn import functional

from singlelife.croco import CroCoConfig


class Attention(nn.Module):
    """Queries of the target attend to keys and values of the source: self-attention where both are the same.

    `places` are the numbers of the patches in raster order, int64 (B, N), of the target and of the source.
    """

    def __init__(self, width: int, heads: int, theta: float, columns: int, crosses: bool):
        super().__init__()
        self.heads, self.theta, self.columns, self.crosses = heads, theta, columns, crosses
        if crosses:
            self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        else:
            self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def rotated(self, states: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        """Queries or keys (B, heads, N, d), turned by the row and the column of their patch."""
        quarter = states.shape[-1] // 4
        frequencies = self.theta ** -(torch.arange(quarter, device=states.device) / quarter)
        turned = []
        axes = places // self.columns, places % self.columns
        for axis, half in zip(axes, states.chunk(2, dim=-1), strict=True):
            angles = axis[:, None, :, None] * frequencies
            first, second = half.chunk(2, dim=-1)
            turned.append(first * angles.cos() - second * angles.sin())
            turned.append(second * angles.cos() + first * angles.sin())
        return torch.cat(turned, dim=-1)

    def forward(
        self, target: torch.Tensor, source: torch.Tensor, places: torch.Tensor, source_places: torch.Tensor
    ) -> torch.Tensor:
        batch, width = target.shape[0], target.shape[-1]
        if self.crosses:
            projected = self.query(target), self.key(source), self.value(source)
        else:
            projected = self.qkv(target).chunk(3, dim=-1)
        query, key, value = (
            states.reshape(batch, -1, self.heads, width // self.heads).transpose(1, 2) for states in projected
        )
        query, key = self.rotated(query, places), self.rotated(key, source_places)
        weights = (query @ key.transpose(-2, -1) * (width // self.heads) ** -0.5).softmax(dim=-1)
        return self.out((weights @ value).transpose(1, 2).reshape(batch, -1, width))


class Block(nn.Module):
    """Self-attention, cross-attention where there is a source, and an MLP, each after a norm."""

    def __init__(self, width: int, heads: int, inner: int, config: CroCoConfig, crosses: bool):
        super().__init__()
        attention = (width, heads, config.rope_theta, config.grid_size[1])
        self.norm1, self.attention = nn.LayerNorm(width, config.layer_norm_eps), Attention(*attention, False)
        if crosses:
            self.norm2, self.norm_source = (nn.LayerNorm(width, config.layer_norm_eps) for _ in range(2))
            self.cross = Attention(*attention, True)
        self.norm3 = nn.LayerNorm(width, config.layer_norm_eps)
        self.mlp = nn.Sequential(nn.Linear(width, inner), nn.GELU(), nn.Linear(inner, width))

    def forward(
        self,
        states: torch.Tensor,
        places: torch.Tensor,
        source: torch.Tensor | None = None,
        source_places: torch.Tensor | None = None,
    ) -> torch.Tensor:
        normed = self.norm1(states)
        states = states + self.attention(normed, normed, places, places)
        if source is not None:
            states = states + self.cross(self.norm2(states), self.norm_source(source), places, source_places)
        return states + self.mlp(self.norm3(states))


class PlainCroCo(nn.Module):
    """From two views, float32 (B, C, H, W), to the loss over the masked patches of the first."""

    def __init__(self, config: CroCoConfig):
        super().__init__()
        self.config = config
        width, decoder_width = config.hidden_size, config.decoder_hidden_size
        values = config.num_channels * config.patch_size**2
        encoder = (width, config.num_attention_heads, config.intermediate_size, config, False)
        decoder = (decoder_width, config.decoder_num_attention_heads, config.decoder_intermediate_size, config, True)
        self.embed = nn.Linear(values, width)
        self.encoder = nn.ModuleList(Block(*encoder) for _ in range(config.num_hidden_layers))
        self.to_decoder = nn.Sequential(nn.LayerNorm(width, config.layer_norm_eps), nn.Linear(width, decoder_width))
        self.mask_token = nn.Parameter(torch.zeros(decoder_width))
        self.decoder = nn.ModuleList(Block(*decoder) for _ in range(config.decoder_num_hidden_layers))
        norm = nn.LayerNorm(decoder_width, config.layer_norm_eps)
        self.predict = nn.Sequential(norm, nn.Linear(decoder_width, values))

    def forward(self, target: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
        size = self.config.patch_size
        patches, source_patches = (
            functional.unfold(view, size, stride=size).transpose(1, 2) for view in (target, source)
        )
        batch, count = patches.shape[:2]
        order = torch.rand(batch, count, device=patches.device).argsort(dim=1)
        masked = order < round(self.config.mask_ratio * count)
        places = torch.arange(count, device=patches.device).expand(batch, count)
        visible = self.encode(
            patches[~masked].reshape(batch, -1, patches.shape[2]), places[~masked].reshape(batch, -1)
        )
        memory = self.encode(source_patches, places)
        states = self.mask_token.to(visible.dtype).repeat(batch, count, 1)
        states[~masked] = visible.flatten(0, 1)
        for block in self.decoder:
            states = block(states, places, memory, places)
        predicted = self.predict(states).float()
        wanted = (patches - patches.mean(-1, keepdim=True)) / (patches.var(-1, keepdim=True) + 1e-6).sqrt()
        error = (predicted - wanted).square().mean(dim=-1)
        return (error * masked).sum() / masked.sum()

    def encode(self, patches: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        """Patches at `places` as tokens of the decoder's width."""
        states = self.embed(patches)
        for block in self.encoder:
            states = block(states, places)
        return self.to_decoder(states)
