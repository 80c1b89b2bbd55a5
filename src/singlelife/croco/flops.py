"""Floating-point operations of CroCo, counted from its configuration."""

from .configuration_croco import CroCoConfig


def training_flops_per_pair(config: CroCoConfig) -> int:
    """Operations that one pair of views needs in a training step: the matrix products forward and backward.

    A product of an (m, k) and a (k, n) matrix is 2·m·k·n operations, and twice that in the backward pass, once for
    each factor's gradient; the patch embedding needs no gradient of its input, the pixels. Norms, activations,
    softmax and the optimiser are left out, and so is what an implementation computes beyond need. With N patches of
    P values, V of them visible in the target, width d, MLP width f, L blocks, and e, g, K the decoder's:

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
