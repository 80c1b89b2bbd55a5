"""Maps of vision transformers without cross-attention: exactly the cosine of their patch tokens, in their place."""

from pathlib import Path

import pytest
import torch
import transformers as hf
from safetensors.torch import load_file, save_file
from transformers import AutoModel, ViTForImageClassification

from singlelife.alignment.models import load_model
from singlelife.alignment.models.backbones import ARCHITECTURES
from singlelife.croco import CroCoForPreTraining, CroCoImageProcessor, CroCoModel
from singlelife.croco.convert import convert_croco
from singlelife.errors import CheckpointError

from ..croco.shared import golden as golden_numbers
from ..micro import save_micro_model

TINY = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 64}
DINO = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "patch_size": 8}
PATCHES = {"image_size": 32, "patch_size": 8}
SIZE = {"height": 32, "width": 32}
TEXT = {**TINY, "vocab_size": 20}
MAE = {
    "decoder_hidden_size": 32,
    "decoder_num_hidden_layers": 1,
    "decoder_num_attention_heads": 2,
    "decoder_intermediate_size": 32,
}
# The config, the processor, and how many tokens come before those of the patches.
MODELS = {
    "beit": (hf.BeitConfig(**TINY, **PATCHES), hf.BeitImageProcessor(size=SIZE), 1),
    "clip": (hf.CLIPConfig(vision_config={**TINY, **PATCHES}, text_config=TEXT), hf.CLIPImageProcessor(size=SIZE), 1),
    "data2vec": (hf.Data2VecVisionConfig(**TINY, **PATCHES), hf.BeitImageProcessor(size=SIZE), 1),
    "deit": (hf.DeiTConfig(**TINY, **PATCHES), hf.DeiTImageProcessor(size=SIZE), 2),
    "dinov2": (hf.Dinov2Config(**DINO, image_size=48), hf.BitImageProcessor(crop_size=SIZE), 1),
    "dinov2_with_registers": (
        hf.Dinov2WithRegistersConfig(**DINO, image_size=48, num_register_tokens=4),
        hf.BitImageProcessor(crop_size=SIZE),
        5,
    ),
    "dinov3": (hf.DINOv3ViTConfig(**TINY, **PATCHES, num_register_tokens=4), hf.DINOv3ViTImageProcessor(size=SIZE), 5),
    "ijepa": (hf.IJepaConfig(**TINY, **PATCHES), hf.ViTImageProcessor(size=SIZE), 0),
    "siglip": (
        hf.SiglipConfig(vision_config={**TINY, **PATCHES}, text_config=TEXT),
        hf.SiglipImageProcessor(size=SIZE),
        0,
    ),
    "vit": (hf.ViTConfig(**TINY, **PATCHES), hf.ViTImageProcessor(size=SIZE), 1),
    "vit_mae": (hf.ViTMAEConfig(**TINY, **PATCHES, **MAE), hf.ViTImageProcessor(size=SIZE), 1),
    "vit_msn": (hf.ViTMSNConfig(**TINY, **PATCHES), hf.ViTImageProcessor(size=SIZE), 1),
}


def saved(folder: Path, config, processor, kind=AutoModel) -> Path:
    torch.manual_seed(3)
    model = kind.from_config(config) if kind is AutoModel else kind(config)
    for name, weight in model.named_parameters():  # else biases and positions are zero, and would not be missed
        if "embed" in name or "bias" in name or "token" in name:
            torch.nn.init.normal_(weight, std=0.5)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def views(seed: int, size: int = 32) -> torch.Tensor:
    return torch.randint(256, (3, 3, size, size), generator=torch.Generator().manual_seed(seed)).to(torch.uint8)


def expected_tokens(name: str, folder: Path, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """The hidden states that transformers gives, by its own processor and model: embeddings, blocks; then the last."""
    _, processor, prefix = MODELS[name]
    towers = {"clip": hf.CLIPVisionModel, "siglip": hf.SiglipVisionModel}
    model = towers.get(name, AutoModel).from_pretrained(folder).eval()
    inputs = processor(list(images), return_tensors="pt", do_resize=False, do_center_crop=False) | {}
    if name == "vit_mae":
        model.config.mask_ratio = 0.0
        inputs["noise"] = torch.linspace(0, 1, 16).expand(len(images), -1)
    with torch.no_grad():
        output = model(**inputs, output_hidden_states=True)
    return tuple(states[:, prefix:] for states in (*output.hidden_states, output.last_hidden_state))


def cosine(target: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
    """By the formula, patch by patch."""
    products = (target.unsqueeze(2) * source.unsqueeze(1)).sum(-1)
    return products / (target.norm(dim=-1).unsqueeze(2) * source.norm(dim=-1).unsqueeze(1))


@pytest.mark.parametrize("name", MODELS)
def test_maps_are_the_cosine_of_the_models_own_patch_tokens(name, tmp_path):
    config, processor, _ = MODELS[name]
    folder = saved(tmp_path / name, config, processor)
    provider = load_model(str(folder))
    assert (provider.name, provider.method) == (str(folder), "feature correlation")
    assert provider.grid == (4, 4) and provider.image_size == 32 and provider.layers == (2,)
    target, source = (expected_tokens(name, folder, views(seed)) for seed in (0, 1))
    assert target[-1].shape == (3, 16, 32)
    expected = cosine(target[-1], source[-1])
    assert expected.std() > 0.01  # or a wrong order of the patches would not show
    torch.testing.assert_close(provider.logits(views(0), views(1)), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(provider.features(views(0)), target[-1], atol=1e-4, rtol=1e-4)
    by_channels = provider.logits_by_head(views(0), views(1))
    assert by_channels.shape[1] == provider.num_heads == 8
    torch.testing.assert_close(by_channels.mean(dim=1), expected, atol=1e-5, rtol=1e-5)

    early = load_model(str(folder), layers=[0, -2])
    assert early.layers == (0, 1)
    expected = (cosine(target[1], source[1]) + cosine(target[2], source[2])) / 2
    torch.testing.assert_close(early.logits(views(0), views(1)), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(early.features(views(0)), target[2], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("head", [True, False])
def test_a_checkpoint_with_a_head_or_without_a_pooler_is_taken(head, tmp_path):
    """Many checkpoints were saved from a classifier, which has no pooler: no patch's token passes through it."""
    config, processor, _ = MODELS["vit"]
    folder = saved(tmp_path / "vit", config, processor, ViTForImageClassification if head else AutoModel)
    if not head:
        weights = {
            name: tensor
            for name, tensor in load_file(folder / "model.safetensors").items()
            if not name.startswith("pooler")
        }
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert load_model(str(folder)).logits(views(0), views(1)).shape == (3, 16, 16)


# Sizes.


def test_views_of_two_sizes_are_resized_to_what_the_model_takes(tmp_path):
    config, processor, _ = MODELS["dinov2"]
    provider = load_model(str(saved(tmp_path / "dinov2", config, processor)))
    small, large = views(0, 16), views(1, 80)
    logits = provider.logits(small, large)
    assert logits.shape == (3, 16, 16)
    resized = [
        torch.nn.functional.interpolate(image.float(), (32, 32), mode="bicubic", antialias=True).round().clamp(0, 255)
        for image in (small, large)
    ]
    same = provider.logits(*(image.to(torch.uint8) for image in resized))
    torch.testing.assert_close(logits, same, atol=0.02, rtol=0)  # but for the rounding


@pytest.mark.parametrize(
    ("size", "grid"),
    [
        ({"crop_size": {"height": 48, "width": 48}, "size": {"shortest_edge": 64}}, (6, 6)),
        ({"crop_size": {"height": 45, "width": 30}, "size": {"shortest_edge": 64}}, (5, 3)),  # cut to whole patches
        ({"do_center_crop": False, "size": {"height": 24, "width": 40}}, (3, 5)),
        ({"do_center_crop": False, "size": {"shortest_edge": 24}}, (3, 3)),
    ],
)
def test_a_model_of_any_size_takes_that_of_its_processor_in_whole_patches(size, grid, tmp_path):
    provider = load_model(str(saved(tmp_path / "dinov2", MODELS["dinov2"][0], hf.BitImageProcessor(**size))))
    assert provider.grid == grid and provider.image_size == 8 * max(grid)
    count = grid[0] * grid[1]
    assert provider.logits(views(0, 50), views(1, 50)).shape == (3, count, count)


def test_a_model_of_one_size_takes_no_other_whatever_its_processor_says(tmp_path):
    config = hf.ViTConfig(**TINY, image_size=[16, 40], patch_size=8)
    provider = load_model(str(saved(tmp_path / "vit", config, hf.ViTImageProcessor(size={"height": 64, "width": 64}))))
    assert provider.grid == (2, 5) and provider.image_size == 40
    assert provider.logits(views(0), views(1)).shape == (3, 10, 10)


# What is refused.


def test_an_architecture_that_is_not_known_is_answered_with_those_that_are(tmp_path):
    config = hf.SwinConfig(image_size=32, patch_size=4, embed_dim=16, depths=[1, 1], num_heads=[2, 2], window_size=2)
    folder = saved(tmp_path / "swin", config, hf.ViTImageProcessor(size=SIZE))
    with pytest.raises(CheckpointError, match=r"'swin', which is not known.*Supported are beit, clip,.*vit_msn"):
        load_model(str(folder))
    with pytest.raises(CheckpointError, match=r"swin.*gives 16 tokens for an image; its config promises 64 for 8 x 8"):
        load_model(str(folder), method="feature-correlation")


def test_an_architecture_that_is_not_known_can_be_tried(tmp_path):
    """Registers that the config does not tell of: whatever comes before the patches is dropped."""
    config = hf.DINOv3ViTConfig(**TINY, **PATCHES, num_register_tokens=3)
    folder = saved(tmp_path / "dinov3", config, hf.DINOv3ViTImageProcessor(size=SIZE))
    expected = load_model(str(folder)).logits(views(0), views(1))
    line = ARCHITECTURES.pop("dinov3_vit")
    try:
        tried = load_model(str(folder), method="feature-correlation")
    finally:
        ARCHITECTURES["dinov3_vit"] = line
    torch.testing.assert_close(tried.logits(views(0), views(1)), expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "cross-attention"}, "'vit', which has no cross-attention between two views"),
        ({"method": "attention"}, "cross-attention, feature-correlation, decoder-correlation, not 'attention'"),
        ({"layers": [3]}, r"has the layers 0 to 2 \(or -3 to -1\), but no layer 3"),
        ({"layers": []}, "and none was chosen"),
    ],
)
def test_what_a_model_does_not_have_is_said(options, message, tmp_path):
    config, processor, _ = MODELS["vit"]
    with pytest.raises(CheckpointError, match=message):
        load_model(str(saved(tmp_path / "vit", config, processor)), **options)


def test_features_that_overflow_are_named_not_scored(tmp_path):
    config, processor, _ = MODELS["vit"]
    folder = saved(tmp_path / "vit", config, processor)
    weights = load_file(folder / "model.safetensors")
    weights["layernorm.weight"].fill_(3e38)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"vit gives features that are not finite"):
        load_model(str(folder)).logits(views(0), views(1))


# CroCo.


@pytest.fixture(scope="module")
def croco(tmp_path_factory) -> Path:
    sizes = {"decoder_num_hidden_layers": 3, "decoder_num_attention_heads": 4}
    return save_micro_model(tmp_path_factory.mktemp("croco"), **sizes)


def test_heads_and_layers_of_cross_attention(croco):
    provider = load_model(str(croco))
    assert provider.method == "cross-attention" and provider.layers == (0, 1, 2) and provider.num_heads == 12
    heads = provider.logits_by_head(views(0), views(1))
    assert heads.shape == (3, 12, 16, 16)
    torch.testing.assert_close(heads.mean(dim=1), provider.logits(views(0), views(1)), atol=1e-5, rtol=1e-4)

    chosen = load_model(str(croco), layers=[-1, 0])
    assert chosen.layers == (0, 2) and chosen.num_heads == 8
    torch.testing.assert_close(chosen.logits_by_head(views(0), views(1)), heads[:, [0, 1, 2, 3, 8, 9, 10, 11]])
    expected = heads[:, [0, 1, 2, 3, 8, 9, 10, 11]].mean(dim=1)
    torch.testing.assert_close(chosen.logits(views(0), views(1)), expected, atol=1e-5, rtol=1e-4)
    assert chosen.revision == provider.revision


def test_features_of_a_croco_are_its_encoders_output(croco):
    model = CroCoModel.from_pretrained(croco).eval()
    pixels = CroCoImageProcessor(size=SIZE)(list(views(0)), return_tensors="pt").pixel_values
    with torch.no_grad():
        expected = model(pixels).last_hidden_state
    torch.testing.assert_close(load_model(str(croco)).features(views(0)), expected, atol=1e-5, rtol=1e-4)
    by_features = load_model(str(croco), method="feature-correlation")
    assert by_features.method == "feature correlation" and by_features.layers == (1,)
    torch.testing.assert_close(by_features.features(views(0)), expected, atol=1e-5, rtol=1e-4)
    logits = by_features.logits(views(0), views(0))
    torch.testing.assert_close(logits, cosine(expected, expected), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["cosine", "rope100"])
def test_a_converted_reference_checkpoint_gives_the_references_maps(name, tmp_path):
    """The golden views are floats, so the processor lets them through."""
    golden, state, kwargs = golden_numbers(name)
    config, weights = convert_croco(state, kwargs)
    model = CroCoForPreTraining(config)
    model.load_state_dict(weights)
    model.save_pretrained(tmp_path)
    CroCoImageProcessor(do_resize=False, do_rescale=False, do_normalize=False).save_pretrained(tmp_path)
    provider = load_model(str(tmp_path))
    logits = golden["cross_attention_logits"]  # pairs, blocks, heads, N, N
    for found, expected in (
        (provider.logits(golden["target"], golden["source"]), logits.mean(dim=(1, 2))),
        (provider.logits_by_head(golden["target"], golden["source"]), logits.flatten(1, 2)),
        (load_model(str(tmp_path), layers=[-1]).logits(golden["target"], golden["source"]), logits[:, -1].mean(dim=1)),
    ):
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
