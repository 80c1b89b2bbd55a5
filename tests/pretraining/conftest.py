"""A life of twenty seconds and a model that trains on it at hundreds of steps a second."""

import shutil
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
from accelerate.state import AcceleratorState

from singlelife.pretraining.arguments import parse_arguments
from singlelife.pretraining.pretrain import pretrain

MICRO_MODEL = """
image_size: 32
patch_size: 8
hidden_size: 32
num_hidden_layers: 2
num_attention_heads: 2
intermediate_size: 64
decoder_hidden_size: 32
decoder_num_hidden_layers: 1
decoder_num_attention_heads: 2
decoder_intermediate_size: 64
mask_ratio: 0.75
"""

Command = Callable[..., list[str]]


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


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("videos") / "pan.mp4")


@pytest.fixture(scope="session")
def micro_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "micro.yaml"
    path.write_text(MICRO_MODEL)
    return path


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def command(clip: Path, micro_model: Path, cache: Path) -> Command:
    """The command line of a small run into `output_dir`; `changes` are settings by field name."""

    def build(output_dir: Path, *flags: str, **changes: object) -> list[str]:
        settings: dict[str, object] = {
            "life": "my_pan",
            "video": clip,
            "cache_dir": cache,
            "output_dir": output_dir,
            "model": micro_model,
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
            "validation_fraction": 0.1,
            "color_jitter": 0.2,
            "dataloader_num_workers": 0,
            "cpu_threads": 1,
            "mixed_precision": "no",
            "attention": "sdpa",  # not what is faster here and now: runs are compared
        } | changes
        words = [f"--{name.replace('_', '-')}={value}" for name, value in settings.items() if value is not None]
        return words + list(flags)

    return build


@pytest.fixture(scope="session")
def _whole_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("whole") / "my_pan"


@pytest.fixture
def whole_run(_whole_run: Path, command: Command, tmp_path: Path) -> Path:
    """A copy of a run that was never stopped: 12 steps, with checkpoints of steps 8 and 12."""
    if not _whole_run.exists():
        assert pretrain(parse_arguments(command(_whole_run))) == 0
    return shutil.copytree(_whole_run, tmp_path / "whole" / "my_pan")


@pytest.fixture
def broken_off_run(whole_run: Path, tmp_path: Path) -> Path:
    """Another, as if it had been killed between steps 8 and 12."""
    copy = shutil.copytree(whole_run, tmp_path / "broken_off" / "my_pan")
    shutil.rmtree(copy / "checkpoint-12")
    for pattern in ("model.safetensors", "*config.json", "*_croco.py", "*.png"):
        for file in copy.glob(pattern):
            file.unlink()
    return copy


@pytest.fixture(autouse=True)
def fresh_accelerate():
    """Accelerate keeps its state for a whole process; each run of a test is to be like one of its own."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
