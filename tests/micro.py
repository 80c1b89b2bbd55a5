"""The smallest model and life that everything works with: hundreds of steps a second."""

from pathlib import Path

import av
import numpy as np

MICRO = {
    "image_size": 32,
    "patch_size": 8,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "decoder_hidden_size": 32,
    "decoder_num_hidden_layers": 1,
    "decoder_num_attention_heads": 2,
    "decoder_intermediate_size": 64,
    "mask_ratio": 0.75,
}


def save_micro_model(folder: Path, seed: int = 0, **changes: object) -> Path:
    """A checkpoint of an untrained micro-model with its processor, as `from_pretrained` takes it."""
    import torch

    from singlelife.croco import CroCoConfig, CroCoForPreTraining, CroCoImageProcessor

    torch.manual_seed(seed)
    config = CroCoConfig(**MICRO | changes)
    CroCoForPreTraining(config).save_pretrained(folder)
    side = config.image_size if isinstance(config.image_size, int) else config.image_size[0]
    CroCoImageProcessor(size={"height": side, "width": side}).save_pretrained(folder)
    return folder


def write_clip(path: Path, seconds: float = 20, frame_rate: int = 10) -> Path:
    """A camera that pans over a fixed texture."""
    noise = np.random.default_rng(0).integers(0, 256, (16, 64, 3), dtype=np.uint8)
    world = np.kron(noise, np.ones((4, 4, 1), dtype=np.uint8))  # 64 px high, 256 px wide
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=frame_rate)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = 64, 48, "yuv420p", 2_000_000
        for index in range(round(seconds * frame_rate)):
            left, top = round(96 + 90 * np.sin(index / 15)), round(8 + 7 * np.sin(index / 7))
            image = np.ascontiguousarray(world[top : top + 48, left : left + 64])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    return path


def words_of_a_run(output_dir: Path, clip: Path, model: Path, cache: Path, /, **changes: object) -> list[str]:
    """The command line of a run of twelve steps on a clip, whose numbers are the same on every machine.

    Args:
        output_dir: the run folder.
        clip: see `write_clip`.
        model: the YAML file of the micro-model.
        cache: where the prepared life is kept.
        changes: settings by name, instead of these; None leaves one out.
    """
    settings: dict[str, object] = {
        "life": "my_pan",
        "video": clip,
        "cache_dir": cache,
        "output_dir": output_dir,
        "model": model,
        "min_gap": 0.1,
        "max_gap": 0.4,
        "max_steps": 12,
        "train_batch_size": 8,
        "learning_rate": 2e-3,
        "warmup_steps": 4,
        "logging_steps": 1,
        "eval_steps": 6,
        "eval_pairs": 12,
        "save_steps": 4,
        "picture_steps": 0,  # those at the end are drawn all the same
        "validation_fraction": 0.1,
        "dataloader_num_workers": 0,
        "cpu_threads": 1,
        "mixed_precision": "no",
        "attention": "sdpa",  # not what is faster here and now: runs are compared
    } | changes
    return [f"--{name.replace('_', '-')}={value}" for name, value in settings.items() if value is not None]
