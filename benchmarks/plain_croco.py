"""CroCo written the plain way, for the package's to be measured by: nothing is fused and no work is left out.

The architecture and its parameters are those of `singlelife.croco`. Here the encoder sees all patches of the target,
and all of them are predicted; what is not needed is thrown away afterwards. Attention is two products and a float32
softmax between them, and rotary positions are computed anew in each attention.
"""

import torch
from torch import nn
from torch.nn import functional

from singlelife.croco import CroCoConfig


class Attention(nn.Module):
    """Queries of one sequence attend to the keys and values of another, or of the same."""

    def __init__(self, width: int, heads: int, theta: float, columns: int):
        super().__init__()
        self.heads, self.theta, self.columns = heads, theta, columns
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))

    def rotated(self, states: torch.Tensor) -> torch.Tensor:
        """Queries or keys (B, heads, N, d), turned by the row and the column of their patch."""
        quarter = states.shape[-1] // 4
        place = torch.arange(states.shape[2], device=states.device)
        frequencies = self.theta ** -(torch.arange(quarter, device=states.device) / quarter)
        turned = []
        for axis, half in zip((place // self.columns, place % self.columns), states.chunk(2, dim=-1), strict=True):
            angles = axis[:, None] * frequencies
            first, second = half.chunk(2, dim=-1)
            turned.append(first * angles.cos() - second * angles.sin())
            turned.append(second * angles.cos() + first * angles.sin())
        return torch.cat(turned, dim=-1)

    def forward(self, target: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
        batch, width = target.shape[0], target.shape[-1]

        def split(states: torch.Tensor) -> torch.Tensor:
            return states.reshape(batch, -1, self.heads, width // self.heads).transpose(1, 2)

        query, key = self.rotated(split(self.query(target))), self.rotated(split(self.key(source)))
        weights = (query @ key.transpose(-2, -1) * (width // self.heads) ** -0.5).float().softmax(dim=-1)
        attended = weights.to(query.dtype) @ split(self.value(source))
        return self.out(attended.transpose(1, 2).reshape(batch, -1, width))


class Block(nn.Module):
    """Self-attention, cross-attention where there is a source, and an MLP, each after a norm."""

    def __init__(self, width: int, heads: int, inner: int, config: CroCoConfig, crosses: bool):
        super().__init__()
        attention = (width, heads, config.rope_theta, config.grid_size[1])
        self.norm1, self.attention = nn.LayerNorm(width, config.layer_norm_eps), Attention(*attention)
        if crosses:
            self.norm2, self.norm_source = (nn.LayerNorm(width, config.layer_norm_eps) for _ in range(2))
            self.cross = Attention(*attention)
        self.norm3 = nn.LayerNorm(width, config.layer_norm_eps)
        self.mlp = nn.Sequential(nn.Linear(width, inner), nn.GELU(), nn.Linear(inner, width))

    def forward(self, states: torch.Tensor, source: torch.Tensor | None = None) -> torch.Tensor:
        normed = self.norm1(states)
        states = states + self.attention(normed, normed)
        if source is not None:
            states = states + self.cross(self.norm2(states), self.norm_source(source))
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
        blocks = [Block(*encoder) for _ in range(config.num_hidden_layers)]
        norm = nn.LayerNorm(width, config.layer_norm_eps)
        self.encode = nn.Sequential(nn.Linear(values, width), *blocks, norm, nn.Linear(width, decoder_width))
        self.mask_token = nn.Parameter(torch.zeros(decoder_width))
        self.decoder = nn.ModuleList(Block(*decoder) for _ in range(config.decoder_num_hidden_layers))
        norm = nn.LayerNorm(decoder_width, config.layer_norm_eps)
        self.predict = nn.Sequential(norm, nn.Linear(decoder_width, values))

    def forward(self, target: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
        size = self.config.patch_size
        patches, source_patches = (
            functional.unfold(view, size, stride=size).transpose(1, 2) for view in (target, source)
        )
        order = torch.rand(patches.shape[:2], device=patches.device).argsort(dim=1)
        masked = order < round(self.config.mask_ratio * patches.shape[1])
        states, memory = self.encode(patches), self.encode(source_patches)
        states = torch.where(masked.unsqueeze(-1), self.mask_token, states)
        for block in self.decoder:
            states = block(states, memory)
        predicted = self.predict(states).float()
        wanted = (patches - patches.mean(-1, keepdim=True)) / (patches.var(-1, keepdim=True) + 1e-6).sqrt()
        error = (predicted - wanted).square().mean(dim=-1)
        return (error * masked).sum() / masked.sum()
