"""One run, whatever it is spread over: processes, accumulated batches, shards of the model, recomputed activations."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoModel

from singlelife.croco import CroCoConfig, CroCoForPreTraining
from singlelife.errors import RunError
from singlelife.pretraining.pretrain import recompute

from ..micro import MICRO
from .runs import column, launch, launch_sharded, run

pytestmark = pytest.mark.integration

FIFTY = {"max_steps": 50, "train_batch_size": 32, "save_steps": 25, "eval_steps": 25, "warmup_steps": 10}


def assert_same_run(one: Path, other: Path) -> None:
    """Losses within 1e-4 at every step, and rates to the last bit."""
    for name, margin in {"loss": 1e-4, "val_loss": 1e-4, "grad_norm": 1e-3, "learning_rate": 0}.items():
        first, second = column(one, name), column(other, name)
        assert first.keys() == second.keys() and first
        assert max(abs(first[step] - second[step]) for step in first) <= margin, name


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("whole") / "run"


@pytest.fixture
def one_process(whole: Path, command) -> Path:
    """Fifty steps of one process, made once."""
    if not whole.exists():
        assert run(command(whole, **FIFTY)) == 0
    return whole


@pytest.mark.slow
def test_two_processes_make_the_steps_of_one(tmp_path: Path, one_process: Path, command):
    launch(command(tmp_path / "run", **FIFTY))
    assert_same_run(one_process, tmp_path / "run")


def test_two_batches_make_the_steps_of_one(tmp_path: Path, one_process: Path, command):
    assert run(command(tmp_path / "run", gradient_accumulation_steps=2, **FIFTY)) == 0
    assert_same_run(one_process, tmp_path / "run")


@pytest.mark.slow
def test_shards_make_the_steps_of_whole_models(tmp_path: Path, one_process: Path, command):
    """FSDP2 over two processes, with accumulated batches; its checkpoints are those of any run."""
    folder = tmp_path / "run"
    said = launch_sharded(command(folder, gradient_accumulation_steps=2, **FIFTY))
    assert "2 processes, model in shards (FSDP2)" in said
    assert_same_run(one_process, folder)
    expected, saved = (load_file(path / "checkpoint-50" / "model.safetensors") for path in (one_process, folder))
    assert {name: tensor.shape for name, tensor in saved.items()} == {
        name: tensor.shape for name, tensor in expected.items()
    }
    assert max((saved[name] - expected[name]).abs().max() for name in expected) < 1e-3
    config = json.loads((folder / "config.json").read_text())
    assert config["architectures"] == ["CroCoForPreTraining"]
    assert AutoModel.from_pretrained(folder).config.hidden_size == 32
    assert (folder / "reconstruction.png").exists() and (folder / "cross_attention.png").exists()


@pytest.mark.slow
def test_a_run_goes_on_in_shards_and_out_of_them(tmp_path: Path, one_process: Path, command):
    folder = tmp_path / "run"
    later = FIFTY | {"save_steps": 10}
    # Only the first process reads the weights, and hands out the shards.
    words = command(folder, resume_from=one_process / "checkpoint-25", **later)
    launch_sharded(words, FSDP_CPU_RAM_EFFICIENT_LOADING="true")
    there = column(folder, "loss")
    assert min(there) == 26
    expected = column(one_process, "loss")
    assert max(abs(there[step] - expected[step]) for step in there) < 1e-4

    back = tmp_path / "back"
    assert run(command(back, resume_from=folder / "checkpoint-40", **later)) == 0
    again = column(back, "loss")
    assert list(again) == list(range(41, 51))
    assert max(abs(again[step] - expected[step]) for step in again) < 1e-4


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"WORLD_SIZE": "2"}, r"2 processes were launched.*ACCELERATE_USE_CPU=true torchrun"),
        ({"ACCELERATE_USE_FSDP": "true"}, r"second version of FSDP.*--fsdp_version 2"),
    ],
)
def test_launches_that_cannot_work_are_refused(tmp_path: Path, command, monkeypatch, environment, message):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(RunError, match=message):
        run(command(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_the_rate_in_force_is_said_and_written_and_free_to_be_given_another_way(tmp_path: Path, command, capsys):
    folder = tmp_path / "run"
    scaled = {"learning_rate": None, "base_learning_rate": 0.064, "max_steps": 4, "save_steps": 2}
    assert run(command(folder, **scaled)) == 0
    assert " 0.002 (0.064 × 8 / 256) after 4 steps of warm-up\n" in capsys.readouterr().out
    written = (folder / "config.yaml").read_text()
    assert "# Learning rate at its peak: 0.002 (0.064 × 8 / 256)\n" in written
    assert yaml.safe_load(written)["base_learning_rate"] == 0.064
    assert max(column(folder, "learning_rate").values()) == 0.002
    assert run(command(folder, "--resume", max_steps=4, learning_rate=0.002)) == 0
    with pytest.raises(RunError, match=r"learning_rate was 0.002, now 0.004"):
        run(command(folder, "--resume", **scaled | {"base_learning_rate": 0.128}))


@pytest.mark.parametrize("blocks", ["decoder", "all"])
def test_recomputed_blocks_make_the_same_steps(tmp_path: Path, one_process: Path, command, blocks: str):
    assert run(command(tmp_path / "run", gradient_checkpointing=blocks, **FIFTY)) == 0
    assert column(tmp_path / "run", "loss") == column(one_process, "loss")  # the same operations: bit for bit


def test_recomputed_blocks_keep_less():
    config = CroCoConfig(**MICRO | {"num_hidden_layers": 4, "decoder_num_hidden_layers": 4, "image_size": 64})

    def kept(blocks: str) -> int:
        """Bytes that the forward pass keeps for the backward pass, parameters aside."""
        torch.manual_seed(0)
        model = CroCoForPreTraining(config)
        recompute(model, blocks)
        own = {parameter.data_ptr() for parameter in model.parameters()}
        storages: dict[int, int] = {}

        def note(tensor: torch.Tensor) -> torch.Tensor:
            if tensor.data_ptr() not in own:
                storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        views = torch.zeros(2, 4, 3, 64, 64)
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            loss = model.train()(views[0], views[1]).loss
        assert loss.requires_grad
        return sum(storages.values())

    assert kept("all") < 0.4 * kept("none")
    assert kept("all") < kept("encoder") < kept("none")
