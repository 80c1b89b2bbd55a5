"""CroCo: exact against golden numbers of the reference, and what its users rely on."""

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from singlelife.croco import CroCoConfig, CroCoForPreTraining, CroCoModel, training_flops_per_pair
from singlelife.croco.convert import convert_croco

from ..micro import MICRO
from .shared import close, golden


def micro_config(**overrides) -> CroCoConfig:
    return CroCoConfig(**MICRO | {"decoder_hidden_size": 16, "decoder_num_hidden_layers": 2} | overrides)


def views(seed: int = 0, batch_size: int = 2, height: int = 32, width: int = 32) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(2, batch_size, 3, height, width, generator=generator))


@pytest.fixture(params=["sincos", "rope"])
def model(request) -> CroCoForPreTraining:
    torch.manual_seed(0)
    return CroCoForPreTraining(micro_config(position_embedding_type=request.param)).eval()


@pytest.fixture(name="golden", params=["cosine", "rope100"])
def golden_numbers(request):
    return golden(request.param)


@torch.no_grad()
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_every_output_is_that_of_the_reference(golden, attention):
    tensors, state, kwargs = golden
    config, weights = convert_croco(state, kwargs)
    model = CroCoForPreTraining._from_config(config, attn_implementation=attention).eval()
    model.load_state_dict(weights)
    target, source, mask = tensors["target"], tensors["source"], tensors["mask"]

    masked = model(target, source, bool_masked_pos=mask)
    close(masked.logits, tensors["prediction"])
    close(masked.loss, tensors["loss_norm"].squeeze())
    config.norm_pix_loss = False
    close(model(target, source, bool_masked_pos=mask).loss, tensors["loss_pixels"].squeeze())

    whole = model.croco(target, source)
    close(whole.last_hidden_state, tensors["encoder_target"])
    close(whole.source_last_hidden_state, tensors["encoder_source"])
    close(whole.decoder_last_hidden_state, tensors["decoder_unmasked"])
    close(model.prediction_head(whole.decoder_last_hidden_state), tensors["prediction_unmasked"])
    close(model.croco(source).last_hidden_state, tensors["encoder_source"])
    close(model.croco.patchify(target), tensors["patchified_target"])

    logits = tensors["cross_attention_logits"]
    close(torch.stack(list(model.croco.iter_cross_attention_logits(target, source)), dim=1), logits)
    close(model.croco.cross_attention_logits(target, source), logits.mean(dim=(1, 2)))
    attentions = model.croco(target, source, output_attentions=True).cross_attentions
    close(torch.stack(attentions, dim=1), logits.softmax(-1))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"image_size": 30}, "image_size 30 cannot be cut"),
        ({"hidden_size": 33}, "hidden_size 33 is not a multiple of num_attention_heads 2"),
        ({"hidden_size": 12}, "divisible by 4"),
        ({"position_embedding_type": "learned"}, "position_embedding_type"),
        ({"mask_ratio": 0.0}, "strictly between 0 and 1"),
        ({"mask_ratio": 0.99}, "masks all or none"),
        ({"num_hidden_layers": 0}, "num_hidden_layers should be at least 1"),
        ({"image_size": [32, 32, 32]}, "each side should be a positive multiple"),
        ({"rope_theta": 0}, "rope_theta should be positive"),
        ({"hidden_size": "32"}, "'hidden_size' expected int, got str"),
    ],
)
def test_a_configuration_that_makes_no_model_is_refused(overrides, message):
    with pytest.raises(StrictDataclassError, match=message):
        micro_config(**overrides)


@torch.no_grad()
def test_any_size_and_shape_with_interpolation(model):
    target, source = views(height=48, width=64)
    with pytest.raises(ValueError, match="48x64 px does not have the model's image_size"):
        model.croco(target, source)
    outputs = model.croco(target, source[..., :32], interpolate_pos_encoding=True)
    assert outputs.last_hidden_state.shape == (2, 6 * 8, 32)
    assert outputs.decoder_last_hidden_state.shape == (2, 6 * 8, 16)
    assert model.croco.cross_attention_logits(target, source[..., :32], True).shape == (2, 48, 24)
    usual = views()
    close(
        model.croco(*usual, interpolate_pos_encoding=True).decoder_last_hidden_state,
        model.croco(*usual).decoder_last_hidden_state,
    )


def test_a_finer_grid_is_stretched_over_the_trained_one(model):
    """Four patches of a view of twice the size stand around where one patch did."""
    where = model.croco.patch_positions
    coarse, fine = where(torch.zeros(1, 3, 32, 32)).view(4, 4, 2), where(torch.zeros(1, 3, 64, 64)).view(8, 8, 2)
    assert torch.equal(coarse, torch.stack(torch.meshgrid(*[torch.arange(4.0)] * 2, indexing="ij"), dim=-1))
    close(fine.view(4, 2, 4, 2, 2).mean(dim=(1, 3)), coarse)


@torch.no_grad()
def test_masked_pixels_are_not_seen(model):
    target, source = views()
    outputs = model(target, source, generator=torch.Generator().manual_seed(1))
    hidden = outputs.mask.view(2, 1, 4, 1, 4, 1).expand(2, 3, 4, 8, 4, 8).reshape(target.shape)
    changed = model(torch.where(hidden, 100.0, target), source, bool_masked_pos=outputs.mask)
    torch.testing.assert_close(changed.logits, outputs.logits, rtol=0, atol=0)
    assert not torch.equal(model(target, source + 1, bool_masked_pos=outputs.mask).logits, outputs.logits)


@torch.no_grad()
def test_masking_the_target_keeps_its_visible_features_in_place(model):
    """Patches at positions far from each other, alone, are what they are when all patches can be seen."""
    model.croco.encoder.layers = model.croco.encoder.layers[:0]  # without attention, patches do not mix
    target, _ = views()
    mask = torch.ones(2, 16, dtype=torch.bool)
    mask[0, [3, 9]] = mask[1, [0, 15]] = False
    visible = model.croco(target, bool_masked_pos=mask).last_hidden_state
    whole = model.croco(target).last_hidden_state
    close(visible, torch.stack([whole[0, [3, 9]], whole[1, [0, 15]]]))


@settings(deadline=None, max_examples=25)
@given(st.floats(0.05, 0.95), st.integers(0, 1000))
def test_masks_hide_the_share_asked_for_and_come_from_the_generator(mask_ratio, seed):
    model = CroCoForPreTraining(micro_config(mask_ratio=mask_ratio, num_hidden_layers=1, decoder_num_hidden_layers=1))
    masks = [model(*views(), generator=torch.Generator().manual_seed(seed)).mask for _ in range(2)]
    assert masks[0].sum(1).tolist() == [round(mask_ratio * 16)] * 2
    assert torch.equal(*masks)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (torch.zeros(2, 9, dtype=torch.bool), r"shape \(2, 16\)"),
        (torch.zeros(2, 16), "should be bool"),
        (torch.ones(2, 16, dtype=torch.bool), "at least one"),
        (torch.arange(32).view(2, 16) < 5, "same number of patches visible in every row"),
        (torch.zeros(2, 16, dtype=torch.bool), "masks no patch"),
    ],
)
def test_masks_that_cannot_work_are_refused(model, mask, message):
    with pytest.raises(ValueError, match=message):
        model(*views(), bool_masked_pos=mask)


def test_views_that_cannot_work_are_refused(model):
    target, source = views()
    with pytest.raises(ValueError, match=r"shape \(batch_size, 3, height, width\), not \(2, 1, 32, 32\)"):
        model.croco(target[:, :1])
    with pytest.raises(ValueError, match="2 target views but 1 source"):
        model(target, source[:1])
    with pytest.raises(ValueError, match="cannot be cut into patches"):
        model.croco(target[..., :30], interpolate_pos_encoding=True)


def test_the_loss_is_float32_under_mixed_precision(model):
    mask = model(*views()).mask
    with torch.autocast("cpu", torch.bfloat16):
        low = model(*views(), bool_masked_pos=mask)
    assert low.loss.dtype == torch.float32
    torch.testing.assert_close(low.loss, model(*views(), bool_masked_pos=mask).loss, rtol=0.02, atol=0)
    low.loss.backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


@torch.no_grad()
def test_mixed_precision_lowers_products_and_not_residuals(model):
    with torch.autocast("cpu", torch.bfloat16):
        outputs = model(*views(), output_hidden_states=True)
    assert outputs.logits.dtype == torch.bfloat16
    assert {state.dtype for state in outputs.hidden_states + outputs.decoder_hidden_states} == {torch.float32}
    low = model.to(torch.bfloat16)(*(view.bfloat16() for view in views()))
    assert (low.loss.dtype, low.decoder_last_hidden_state.dtype) == (torch.float32, torch.bfloat16)


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 5), st.integers(1, 5), st.integers(1, 3))
def test_unpatchify_undoes_patchify(rows, columns, batch_size):
    model = CroCoForPreTraining(micro_config(num_hidden_layers=1, decoder_num_hidden_layers=1))
    view, _ = views(batch_size=batch_size, height=8 * rows, width=8 * columns)
    patches = model.croco.patchify(view, interpolate_pos_encoding=True)
    assert torch.equal(patches[0, 0], view[0, :, :8, :8].permute(1, 2, 0).flatten())  # row, column, channel
    assert torch.equal(model.unpatchify(patches, (8 * rows, 8 * columns)), view)


@torch.no_grad()
def test_reconstruction_keeps_the_visible_and_fills_the_masked(model):
    target, source = views()
    outputs = model(target, source)
    outputs.logits = (target_patches := model.croco.patchify(target)).clone()
    if model.config.norm_pix_loss:
        mean, variance = target_patches.mean(-1, keepdim=True), target_patches.var(-1, keepdim=True)
        outputs.logits = (target_patches - mean) / (variance + 1e-6).sqrt()
    close(model.reconstruct(target, outputs), target)
    assert model.loss(outputs.logits, target_patches, outputs.mask) < 1e-6


def test_outputs_asked_for_are_those_of_the_target(model):
    outputs = model.croco(*views(), output_hidden_states=True, output_attentions=True)
    assert [tuple(state.shape) for state in outputs.hidden_states] == [(2, 16, 32)] * 3
    assert [tuple(state.shape) for state in outputs.attentions] == [(2, 2, 16, 16)] * 2
    assert [tuple(state.shape) for state in outputs.decoder_hidden_states] == [(2, 16, 16)] * 3
    assert len(outputs.decoder_attentions) == len(outputs.cross_attentions) == 2
    alone = model.croco(views()[0], output_hidden_states=True)
    close(alone.hidden_states[-1], outputs.hidden_states[-1])
    model.set_attn_implementation("eager")
    close(outputs.last_hidden_state, model.croco(*views()).last_hidden_state)


def test_base_model_and_pretraining_model_share_a_checkpoint(model, tmp_path):
    model.save_pretrained(tmp_path)
    assert not list(tmp_path.glob("*.bin"))
    base, info = CroCoModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"]
    for name, tensor in base.state_dict().items():
        torch.testing.assert_close(tensor, model.croco.state_dict()[name], rtol=0, atol=0)
    base.save_pretrained(tmp_path / "base")
    _, info = CroCoForPreTraining.from_pretrained(tmp_path / "base", output_loading_info=True)
    assert info["missing_keys"] == {"prediction_head.weight", "prediction_head.bias"}


@torch.no_grad()
@pytest.mark.parametrize(
    "how", ["export", *(pytest.param(backend, marks=pytest.mark.slow) for backend in ("eager", "aot_eager"))]
)
def test_a_pair_of_any_batch_size_is_exported_and_compiled_whole(how):
    model = CroCoModel(micro_config()).eval()
    if how == "export":
        batch = torch.export.Dim("batch", min=1, max=64)
        dynamic = {"pixel_values": {0: batch}, "source_pixel_values": {0: batch}}
        run = torch.export.export(model, views(), dynamic_shapes=dynamic, strict=False).module()
    else:
        run = torch.compile(model, fullgraph=True, backend=how, dynamic=True)
    for batch_size in (2, 5):
        pair = views(batch_size=batch_size)
        close(run(*pair).decoder_last_hidden_state, model(*pair).decoder_last_hidden_state)


@pytest.mark.parametrize("position_embedding_type", ["rope", "sincos"])
@pytest.mark.parametrize(("image_size", "mask_ratio"), [(32, 0.75), ((24, 40), 0.5)])
def test_the_formula_counts_every_product_of_a_training_step(position_embedding_type, image_size, mask_ratio):
    config = micro_config(
        image_size=image_size,
        hidden_size=48,
        num_hidden_layers=3,
        intermediate_size=80,
        decoder_hidden_size=32,
        decoder_num_attention_heads=4,
        decoder_intermediate_size=72,
        position_embedding_type=position_embedding_type,
        mask_ratio=mask_ratio,
    )
    rows, columns = config.grid_size
    # Eager, because torch does not count the fused attention of CPUs.
    model = CroCoForPreTraining._from_config(config, attn_implementation="eager")
    target, source = torch.randn(2, 1, 3, 8 * rows, 8 * columns)
    with FlopCounterMode(display=False) as counter:
        output = model(target, source)
        output.loss.backward()
    visible = int((~output.mask).sum())
    predictions_of_visible = 3 * 2 * visible * config.decoder_hidden_size * 192  # made, but not needed for the loss
    assert training_flops_per_pair(config) == counter.get_total_flops() - predictions_of_visible
