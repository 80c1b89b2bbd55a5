"""Configuration of CroCo, with and without a depth probe, and the operations that a training step takes."""

from typing import Any

from huggingface_hub.dataclasses import strict
from transformers.configuration_utils import PreTrainedConfig

POSITION_EMBEDDING_TYPES = ("rope", "sincos")
PROBE_TYPES = ("attentive", "linear")


@strict
class CroCoConfig(PreTrainedConfig):
    r"""Configuration of CroCo: a siamese ViT encoder and a cross-attention decoder (arXiv 2210.10716, 2211.10408).

    The defaults are the paper's "ViT-B/16 with the small decoder" at 224 px.

    Args:
        hidden_size (`int`): Width of the encoder.
        num_hidden_layers (`int`): Blocks of the encoder.
        num_attention_heads (`int`): Heads of the encoder's attention.
        intermediate_size (`int`): Width of the encoder's MLPs.
        decoder_hidden_size (`int`): Width of the decoder.
        decoder_num_hidden_layers (`int`): Blocks of the decoder.
        decoder_num_attention_heads (`int`): Heads of the decoder's self- and cross-attention.
        decoder_intermediate_size (`int`): Width of the decoder's MLPs.
        image_size (`int` or `tuple[int, int]`): Side, or height and width, of a view in pixels.
        patch_size (`int`): Side of a patch in pixels; divides both sides of the image.
        num_channels (`int`): Channels of a view.
        hidden_act (`str`): Activation of the MLPs.
        layer_norm_eps (`float`): Epsilon of the layer norms.
        initializer_range (`float`): Standard deviation of the mask token's initial values.
        qkv_bias (`bool`): Whether the query, key and value projections have a bias.
        position_embedding_type (`str`): `"rope"` (rotary, in every attention) or `"sincos"` (fixed, added to the
            tokens of encoder and decoder).
        rope_theta (`float`): Base of the rotary frequencies.
        mask_ratio (`float`): Share of the target's patches to mask in pretraining, strictly between 0 and 1.
        norm_pix_loss (`bool`): Whether the targets of the loss are normalised within each patch.
    Raises:
        huggingface_hub.errors.StrictDataclassError: a value has the wrong type, or the values do not fit together; the
            message names the fields and their values. As in every transformers config, values set later are checked
            when a model is built from them, or when they are saved.

    Example:

    ```python
    >>> from singlelife.croco import CroCoConfig, CroCoModel

    >>> model = CroCoModel(CroCoConfig())
    >>> model.config.num_patches
    196
    ```"""

    model_type = "croco"

    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    decoder_hidden_size: int = 512
    decoder_num_hidden_layers: int = 8
    decoder_num_attention_heads: int = 16
    decoder_intermediate_size: int = 2048
    image_size: int | list[int] | tuple[int, int] = 224
    patch_size: int = 16
    num_channels: int = 3
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-6
    initializer_range: float = 0.02
    qkv_bias: bool = True
    position_embedding_type: str = "rope"
    rope_theta: float | int = 100.0
    mask_ratio: float | int = 0.9
    norm_pix_loss: bool = True

    @property
    def grid_size(self) -> tuple[int, int]:
        """Rows and columns of patches in an image of `image_size`."""
        size = self.image_size
        height, width = (size, size) if isinstance(size, int) else size
        return height // self.patch_size, width // self.patch_size

    @property
    def num_patches(self) -> int:
        """Number of patches in an image of `image_size`."""
        rows, columns = self.grid_size
        return rows * columns

    def validate_architecture(self):
        """Called by `@strict`: refuses values that do not fit together."""
        super().validate_architecture()
        counts = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
        for name in (*counts, *(f"decoder_{count}" for count in counts), "patch_size", "num_channels"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} should be at least 1, not {getattr(self, name)}.")
        for name in ("layer_norm_eps", "rope_theta"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} should be positive, not {getattr(self, name)}.")
        sides = (self.image_size,) * 2 if isinstance(self.image_size, int) else tuple(self.image_size)
        if len(sides) != 2 or any(side < 1 or side % self.patch_size for side in sides):
            raise ValueError(
                f"image_size {self.image_size} cannot be cut into patches: each side should be a positive multiple "
                f"of patch_size {self.patch_size}."
            )
        if self.position_embedding_type not in POSITION_EMBEDDING_TYPES:
            raise ValueError(
                f"position_embedding_type should be one of {POSITION_EMBEDDING_TYPES}, "
                f"not {self.position_embedding_type!r}."
            )
        for prefix in ("", "decoder_"):
            width, heads = getattr(self, f"{prefix}hidden_size"), getattr(self, f"{prefix}num_attention_heads")
            if width % heads:
                raise ValueError(
                    f"{prefix}hidden_size {width} is not a multiple of {prefix}num_attention_heads {heads}."
                )
            rope = self.position_embedding_type == "rope"
            if (width // heads if rope else width) % 4:
                raise ValueError(
                    f"Positions need a width divisible by 4 (two axes, in pairs): each head's for rope, the whole for "
                    f"sincos. {prefix}hidden_size is {width}, {prefix}num_attention_heads {heads}."
                )
        if not 0 < self.mask_ratio < 1:
            raise ValueError(f"mask_ratio should lie strictly between 0 and 1, not {self.mask_ratio}.")
        if not 0 < round(self.mask_ratio * self.num_patches) < self.num_patches:
            raise ValueError(
                f"mask_ratio {self.mask_ratio} of {self.num_patches} patches (image_size {self.image_size}, "
                f"patch_size {self.patch_size}) masks all or none; at least one must be masked and one visible."
            )


@strict
class CroCoDepthConfig(CroCoConfig):
    r"""Configuration of [`CroCoForDepthEstimation`]: its encoder's, and its probe's.

    Args:
        probe_type (`str`): The probe on the encoder: `"attentive"` (learned queries and one cross-attention block) or
            `"linear"` (one linear layer on each patch's token).
        probe_hidden_size (`int`, *optional*): Width of the attentive probe; by default half of `hidden_size`.
        probe_num_attention_heads (`int`, *optional*): Heads of the attentive probe; by default one for about
            every 32 channels of its width.
        probe_patch_size (`int`, *optional*): Side in pixels of the square that a query of the attentive probe
            predicts, a divisor of both sides of the view; by default `patch_size`.
        probe_mlp_ratio (`int`): Width of the attentive probe's MLP, in widths of the probe.
        min_depth, max_depth (`float`): Range of the predicted depth, in the unit that the probe was trained in,
            usually metres.

    Raises:
        huggingface_hub.errors.StrictDataclassError: as [`CroCoConfig`].
    """

    model_type = "croco_depth"

    probe_type: str = "attentive"
    probe_hidden_size: int | None = None
    probe_num_attention_heads: int | None = None
    probe_patch_size: int | None = None
    probe_mlp_ratio: int = 2
    min_depth: float | int = 1e-3
    max_depth: float | int = 10.0

    @classmethod
    def of(cls, config: CroCoConfig, **probe: Any) -> "CroCoDepthConfig":
        """The configuration of an encoder with a probe; `probe` has the probe's fields.

        Old depth checkpoints have a [`CroCoConfig`] with the probe's fields; those are kept.
        """
        fields = config.to_dict() | probe
        return cls(**{name: value for name, value in fields.items() if name not in ("auto_map", "model_type")})

    def validate_architecture(self):
        """Called by `@strict`: as in [`CroCoConfig`], and for the probe's values."""
        super().validate_architecture()
        if self.probe_type not in PROBE_TYPES:
            raise ValueError(f"probe_type should be one of {PROBE_TYPES}, not {self.probe_type!r}.")
        for name in ("probe_hidden_size", "probe_num_attention_heads", "probe_mlp_ratio"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"{name} should be at least 1, not {getattr(self, name)}.")
        size = self.probe_patch_size
        if size is not None and (size < 1 or any(count * self.patch_size % size for count in self.grid_size)):
            raise ValueError(f"probe_patch_size {size} should divide both sides of the view.")
        if size not in (None, self.patch_size) and self.probe_type == "linear":
            raise ValueError("A linear probe predicts the pixels of each patch; leave out probe_patch_size.")
        if not 0 < self.min_depth < self.max_depth:
            raise ValueError(
                f"min_depth {self.min_depth} and max_depth {self.max_depth} should be positive, in order."
            )


def training_flops_per_pair(config: CroCoConfig) -> int:
    """Operations that a training step needs for one pair of views: the matrix products forward and backward.

    A product of an (m, k) and a (k, n) matrix is 2·m·k·n operations, and twice that in the backward pass, once for
    each factor's gradient; the patch embedding needs no gradient of its input, the pixels. Norms, activations,
    softmax, the optimiser and any unnecessary work of an implementation do not count. With N patches of P values, V of
    them visible in the target, width d, MLP width f, L blocks, and e, g, K the decoder's:

        embed   = 2·(V + N)·P·d
        encode  = L·Σ_{n = V, N} (8·n·d² + 4·n·d·f + 4·n²·d)         self-attention, MLP, attention products
        widths  = 2·(V + N)·d·e
        decode  = K·(8·N·e² + 4·N²·e + 8·N·e² + 4·N²·e + 4·N·e·g)    self-attention, cross-attention, MLP
        predict = 2·(N − V)·e·P                                      only the masked patches are in the loss
        total   = 3·(encode + widths + decode + predict) + 2·embed
    """
    num_patches, patch_values = config.num_patches, config.patch_size**2 * config.num_channels
    num_visible = num_patches - round(config.mask_ratio * num_patches)
    width, decoder_width = config.hidden_size, config.decoder_hidden_size

    embed = 2 * (num_visible + num_patches) * patch_values * width
    encode = config.num_hidden_layers * sum(
        8 * n * width**2 + 4 * n * width * config.intermediate_size + 4 * n**2 * width
        for n in (num_visible, num_patches)
    )
    widths = 2 * (num_visible + num_patches) * width * decoder_width
    decode = config.decoder_num_hidden_layers * (
        16 * num_patches * decoder_width**2
        + 8 * num_patches**2 * decoder_width
        + 4 * num_patches * decoder_width * config.decoder_intermediate_size
    )
    predict = 2 * (num_patches - num_visible) * decoder_width * patch_values
    return 3 * (encode + widths + decode + predict) + 2 * embed


CroCoConfig.register_for_auto_class()
CroCoDepthConfig.register_for_auto_class()

__all__ = ["CroCoConfig", "CroCoDepthConfig"]
