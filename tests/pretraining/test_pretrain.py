"""Whole runs of a micro-model: what they write, how they stop, how they go on."""

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import termios
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoImageProcessor, AutoModelForPreTraining

import singlelife
from singlelife.croco import CroCoConfig
from singlelife.errors import CheckpointError, LifeError, RunError
from singlelife.pretraining.arguments import parse_arguments
from singlelife.pretraining.networks import inputs_of, network_config, new_network
from singlelife.pretraining.pretrain import _starting_model, _train
from singlelife.pretraining.publishing import run_publications
from singlelife.pretraining.run_folder import RunFolder, read_metrics

from ..micro import MICRO
from .runs import ROOT, column, losses, run

pytestmark = pytest.mark.integration


def start(words: list[str], **environment: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "train.py", *words], cwd=ROOT, env=os.environ | environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def wait_for_step(process: subprocess.Popen, folder: Path, step: int) -> None:
    deadline = time.monotonic() + 240
    while not (folder / "metrics.jsonl").exists() or max(losses(folder), default=0) < step:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def same_weights(one: Path, other: Path) -> bool:
    before, after = (load_file(folder / "model.safetensors") for folder in (one, other))
    return before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)


def test_a_run_writes_all_it_promises(finished_run: Path):
    lines = read_metrics(finished_run / "metrics.jsonl")
    steps = [line for line in lines if "loss" in line]
    assert [line["step"] for line in steps] == list(range(1, 13))
    for line in steps:
        speed = {"pairs_per_second", "data_wait", "tflops", "mfu"}
        assert set(line) == {"step", "loss", "learning_rate", "grad_norm", *speed}
        assert line["pairs_per_second"] > 0 and 0 <= line["data_wait"] <= 1 and line["grad_norm"] > 0
        assert 0 < line["mfu"] <= 1
        assert line["tflops"] == pytest.approx(line["pairs_per_second"] * 4.61e-6, rel=0.01)  # of the micro-model
    assert list(column(finished_run, "val_loss")) == [6, 12]
    assert list(RunFolder(finished_run).checkpoints()) == [8, 12]  # the last two of 4, 8, 12
    for name, (rows, columns) in {"reconstruction.png": (4, 4), "cross_attention.png": (4, 6)}.items():
        picture = np.asarray(Image.open(finished_run / name).convert("RGB"))
        assert picture.shape[0] >= rows * 200 and picture.shape[1] >= columns * 200 and picture.std() > 20
    facts = json.loads((finished_run / "life.json").read_text())
    assert facts["name"] == "my_pan" and facts["frames"] == 200
    assert not list(finished_run.rglob("*.tmp"))
    assert not [p for p in finished_run.rglob("*") if p.suffix in {".pt", ".bin", ".pkl", ".pth"}]
    _, info = AutoModelForPreTraining.from_pretrained(finished_run, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert AutoImageProcessor.from_pretrained(finished_run).size == {"height": 32, "width": 32}
    assert same_weights(finished_run, finished_run / "checkpoint-12")


def test_python_trains_as_the_command_line_does(tmp_path: Path, finished_run: Path, command):
    flags = [word[2:].partition("=") for word in command(tmp_path / "run")]
    trained = singlelife.train(**{name.replace("-", "_"): value for name, _, value in flags}, flip=True)
    assert trained.folder == tmp_path / "run" and list(trained.pictures) == [
        "cross_attention.png",
        "reconstruction.png",
    ]
    assert trained.metrics.loss.to_dict() == losses(finished_run)
    head = load_file(finished_run / "model.safetensors")["prediction_head.weight"]
    assert torch.equal(trained.model.state_dict()["prediction_head.weight"], head)
    with pytest.raises(RunError):
        singlelife.train(life="sim_1", max_stesp=3)


def test_models_of_one_seed_have_first_weights_of_their_own_life(command):
    def weights(life: str, *flags: str) -> torch.Tensor:
        config = parse_arguments(command(Path("run"), *flags))
        return _starting_model(config, None, CroCoConfig(**MICRO), life).state_dict()["prediction_head.weight"]

    one = weights("wt_1")
    assert torch.equal(one, weights("wt_1"))
    for other in (weights("wt_2"), weights("wt_1", f"--seed={2**63 - 1}")):
        assert not torch.isclose(one, other).any()


def test_the_loss_falls(tmp_path: Path, command):
    assert run(command(tmp_path / "run", max_steps=150, logging_steps=10, eval_steps=75, save_steps=1000)) == 0
    training, validation = (list(column(tmp_path / "run", name).values()) for name in ("loss", "val_loss"))
    assert len(training) == 15
    assert training[-1] < 0.93 * training[0]
    assert validation[-1] < validation[0]


def test_pairs_of_one_place_train_and_are_part_of_what_a_resume_keeps(tmp_path: Path, command, sim_test, capsys):
    settings = {"life": sim_test.path, "video": None, "max_steps": 2, "save_steps": 1, "pairing": "union"}
    settings |= {"validation_fraction": 0.3}
    assert run(command(tmp_path / "run", **settings)) == 0
    assert len(losses(tmp_path / "run")) == 2
    started = capsys.readouterr().out
    assert "spatial, overlap 0.2 to 0.7" in started and "stretches have no" not in started
    state = json.loads((tmp_path / "run" / "checkpoint-2" / "training_state.json").read_text())
    assert len(state["sequence"]["pair_table"]) == 64
    for name, value in {"min_overlap": 0.3, "max_overlap": 0.6, "max_neighbours": 50, "spatial_weight": 0.2}.items():
        with pytest.raises(RunError, match=f"{name} was .*, now {value}"):
            run(command(tmp_path / "run", "--resume", **settings | {name: value}))
    assert run(command(tmp_path / "run", "--resume", **settings)) == 0


def test_a_killed_run_goes_on_as_if_it_had_not_been(tmp_path: Path, finished_run: Path, command):
    folder = tmp_path / "run"
    process = start(command(folder))
    wait_for_step(process, folder, 6)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert run(command(folder, "--resume", dataloader_num_workers=2, save_steps=5)) == 0
    assert losses(folder) == losses(finished_run)  # bit for bit
    assert same_weights(folder, finished_run)


def start_on_a_terminal(words: list[str]) -> tuple[subprocess.Popen, int]:
    """A run in a terminal of its own, and the file that closes it."""
    keyboard, screen = os.openpty()
    process = subprocess.Popen(
        [sys.executable, "train.py", *words], cwd=ROOT, stdin=screen, stdout=screen, stderr=screen,
        start_new_session=True, preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )  # fmt: skip
    os.close(screen)
    return process, keyboard


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, *(pytest.param(n, marks=pytest.mark.slow) for n in (signal.SIGUSR1, signal.SIGHUP))]
)
def test_a_stopped_run_saves(tmp_path: Path, command, number):
    """SIGHUP here comes from a terminal that is closed, as it does in life, and nothing can be written there."""
    folder = tmp_path / "run"
    words = command(folder, max_steps=3000, save_steps=1000, dataloader_num_workers=1)
    process, keyboard = start_on_a_terminal(words) if number == signal.SIGHUP else (start(words), -1)
    wait_for_step(process, folder, 5)
    if number == signal.SIGHUP:
        os.close(keyboard)
    else:
        process.send_signal(number)
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 128 + number
    (step,) = RunFolder(folder).checkpoints()
    assert step == max(losses(folder)) < 1000
    assert number == signal.SIGHUP or (f"checkpoint-{step}" in out and "--resume" in out)
    assert not (folder / "model.safetensors").exists()


@pytest.mark.slow
def test_a_killed_worker_is_said_in_a_sentence(tmp_path: Path, command):
    folder = tmp_path / "run"
    process = start(command(folder, max_steps=3000, dataloader_num_workers=1))
    wait_for_step(process, folder, 5)
    (worker,) = [child for child in psutil.Process(process.pid).children() if "train.py" in " ".join(child.cmdline())]
    worker.kill()
    _, err = process.communicate(timeout=120)
    assert process.returncode == 2 and "Traceback" not in err, err
    assert all(fact in err for fact in ("has died", "--dataloader-num-workers", "--resume"))


def test_losses_since_the_last_line_survive_a_resume(tmp_path: Path, finished_run: Path, command):
    expected, folder = losses(finished_run), tmp_path / "run"
    assert run(command(folder, resume_from=finished_run / "checkpoint-8", logging_steps=12)) == 0
    assert list(losses(folder)) == [12]
    assert losses(folder)[12] == pytest.approx(np.mean([expected[step] for step in (9, 10, 11, 12)]), rel=1e-12)


def test_mixed_precision_keeps_fp32_weights(tmp_path: Path, finished_run: Path, command):
    assert run(command(tmp_path / "run", mixed_precision="bf16", max_steps=2)) == 0  # CPUs without bf16 are slow
    full, mixed = losses(finished_run)[1], losses(tmp_path / "run")[1]
    assert mixed != full and abs(mixed - full) < 0.05
    assert {tensor.dtype for tensor in load_file(tmp_path / "run" / "model.safetensors").values()} == {torch.float32}


def test_training_from_a_checkpoint_starts_with_its_weights(tmp_path: Path, finished_run: Path, command):
    words = command(tmp_path / "run", model=finished_run, max_steps=1, learning_rate=1e-12, validation_fraction=0)
    assert run(words) == 0
    before, after = (load_file(f / "model.safetensors") for f in (finished_run, tmp_path / "run"))
    assert all(torch.allclose(before[name], after[name], atol=1e-6) for name in before)


def test_a_model_to_start_from_that_cannot_be_used_is_refused(tmp_path: Path, finished_run: Path, command):
    folder, weights = tmp_path / "model", load_file(finished_run / "model.safetensors")
    encoder = {name: tensor for name, tensor in weights.items() if "decoder" not in name}
    shutil.copytree(finished_run / "checkpoint-12", folder)
    data = bytearray((folder / "model.safetensors").read_bytes())
    data[-100] ^= 1
    for write, message in {
        lambda: (folder / "model.safetensors").write_bytes(data): r"model\.safetensors is damaged",
        lambda: (
            (folder / "digests.json").unlink() or (folder / "model.safetensors").unlink()
        ): "Cannot load the weights",
        lambda: save_file(encoder, folder / "model.safetensors", {"format": "pt"}): r"lacks [0-9]+ weights",
        lambda: (folder / "config.json").write_text('{"model_type": "vit"}'): "another architecture: 'vit'",
    }.items():
        write()
        with pytest.raises(CheckpointError, match=message):
            run(command(tmp_path / "run", model=folder))


def test_losses_that_are_not_finite_stop_the_run_and_keep_the_last_checkpoint(tmp_path: Path, command):
    folder = tmp_path / "run"
    diverging = {"learning_rate": 1e30, "warmup_steps": 0, "max_grad_norm": 0, "save_steps": 1, "max_skipped_steps": 3}
    facts = r"is (nan|inf) at step 4 \(pairs 32 to 39\).* in a row: 4\..*checkpoint-1\. .*--learning"
    with pytest.raises(RunError, match=facts):
        run(command(folder, **diverging))
    assert list(losses(folder)) == list(RunFolder(folder).checkpoints()) == [1]
    skipped = [line for line in read_metrics(folder / "metrics.jsonl") if "skipped" in line]
    assert [(line["step"], line["first_pair"], line["last_pair"]) for line in skipped] == [
        (2, 8, 15), (3, 16, 23), (4, 24, 31)
    ]  # fmt: skip
    weights = load_file(folder / "checkpoint-1" / "model.safetensors")
    assert all(tensor.isfinite().all() for tensor in weights.values())


@pytest.mark.parametrize(
    ("changes", "fact"),
    [
        ({"seed": 1}, "seed was 0, now 1"),
        ({"mask_ratio": 0.5}, "mask_ratio was"),
        ({"pairing": "random"}, "pairing was 'temporal', now 'random'"),
    ],
)
def test_pairs_that_change_are_not_the_same_run(whole_run: Path, command, changes, fact):
    with pytest.raises(RunError, match=f"{fact}.*--output-dir"):
        run(command(whole_run, "--resume", **changes))
    assert list(RunFolder(whole_run).checkpoints()) == [8, 12]
    assert len(losses(whole_run)) == 12


def test_a_run_goes_on_with_its_own_sizes_after_its_preset_has_changed(tmp_path: Path, micro_model: Path, command):
    preset, folder = tmp_path / "mine.yaml", tmp_path / "run"
    preset.write_text(micro_model.read_text())
    assert run(command(folder, model=preset, max_steps=4)) == 0
    preset.write_text(yaml.safe_dump(yaml.safe_load(micro_model.read_text()) | {"intermediate_size": 48}))
    assert run(command(tmp_path / "more", model=preset, max_steps=4, resume_from=folder / "checkpoint-4")) == 0
    assert same_weights(folder, tmp_path / "more")
    other = tmp_path / "other.yaml"
    other.write_text(preset.read_text())
    with pytest.raises(RunError, match="intermediate_size was 64, now 48"):
        run(command(tmp_path / "others", model=other, max_steps=4, resume_from=folder / "checkpoint-4"))


def test_a_mask_ratio_that_is_no_longer_given_is_another_run(tmp_path: Path, command):
    folder = tmp_path / "run"
    assert run(command(folder, mask_ratio=0.5, max_steps=4)) == 0
    with pytest.raises(RunError, match=r"mask_ratio was 0\.5"):
        run(command(folder, "--resume", max_steps=4))


def test_a_job_that_always_resumes_starts_from_the_beginning(tmp_path: Path, command):
    assert run(command(tmp_path / "run", "--resume", max_steps=1)) == 0
    assert list(losses(tmp_path / "run")) == [1]


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"video": "absent.mp4"}, LifeError, "absent.mp4"),
        ({"image_size": 30}, RunError, "image_size 30 cannot be cut .* patch_size 8"),
        ({"mask_ratio": 0.001}, RunError, "mask_ratio 0.001 of 16 patches .* masks all or none"),
        ({"max_gap": 0.4, "min_gap": 0.4, "validation_fraction": 0.01}, LifeError, "held-out.*--validation-fraction"),
        ({"train_batch_size": 8, "gradient_accumulation_steps": 3}, RunError, "multiple of 3"),
        ({"resume_from": "nowhere/checkpoint-3"}, RunError, "nowhere/checkpoint-3"),
        ({"report_to": "tensorbored"}, RunError, "tensorbored.*Installed are"),
        ({"mixed_precision": "fp16"}, RunError, "fp16 needs a GPU"),
        ({"model_type": "vit_mae", "gradient_checkpointing": "decoder"}, RunError, "decoder"),
        ({"hours": 0.5}, LifeError, r"--hours 0\.5 .*20 s"),
    ],
)
def test_what_cannot_work_is_said_before_anything_is_written(tmp_path: Path, command, changes, error, message):
    folder = tmp_path / "run"
    with pytest.raises(error, match=message):
        run(command(folder, **changes))
    assert not folder.exists()


def test_too_little_memory_names_the_flags_that_help(monkeypatch):
    def out_of_memory(_loader):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    facts = r"2\.00 GiB.*--gradient-accumulation-steps.*--gradient-checkpointing all"
    with pytest.raises(RunError, match=facts):
        _train(SimpleNamespace(train=out_of_memory), None)


def test_vit_mae_trains_resumes_exactly_and_is_scored_against_croco(
    tmp_path: Path, finished_run: Path, command, sim_test
):
    folder, resumed = tmp_path / "mae", tmp_path / "resumed"
    assert run(command(folder, model_type="vit_mae")) == 0
    assert run(command(resumed, model_type="vit_mae", resume_from=folder / "checkpoint-8")) == 0
    expected = losses(folder)
    assert losses(resumed) == {step: expected[step] for step in (9, 10, 11, 12)}  # bit for bit
    assert same_weights(folder, resumed) and not list(folder.glob("*.png"))
    assert len({*expected.values(), *losses(finished_run).values()}) == 24
    with pytest.raises(RunError, match="model_type was 'vit_mae', now 'croco'"):
        run(command(tmp_path / "other", resume_from=folder / "checkpoint-8"))
    # It knows where its patches are: the positions are those of MAE, and stay as they were drawn.
    for name, (tensor, expected_rank) in {
        "vit.embeddings.position_embeddings": (load_file(folder / "model.safetensors"), 16),
        "decoder.decoder_pos_embed": (load_file(folder / "checkpoint-8" / "model.safetensors"), 16),
    }.items():
        positions = tensor[name][0]
        assert not positions[0].any() and len(positions[1:].unique(dim=0)) == expected_rank
    result = singlelife.cas(str(folder), str(finished_run), pairs=str(sim_test.path), num_pairs=16, progress=False)
    assert result.methods == ("feature correlation", "cross-attention")
    assert np.isfinite(result.raw.cas) and np.isfinite(result.centred.cas)
    with pytest.raises(RunError, match="vit_mae"):
        run_publications(folder, "org/mae")
    with pytest.raises(RunError, match="--push-to-hub"):
        run(command(tmp_path / "pushed", "--push-to-hub", model_type="vit_mae"))


def test_vit_mae_masks_the_patches_of_the_pair():
    sizes = CroCoConfig(**MICRO | {"mask_ratio": 0.6})  # 10 of 16 patches
    network = network_config(sizes, "vit_mae")
    to_model = inputs_of(network)(torch.device("cpu"), (0.5,) * 3, (0.25,) * 3)
    masks = torch.stack([torch.randperm(16, generator=torch.Generator().manual_seed(seed)) < 10 for seed in range(4)])
    views = torch.zeros(4, 3, 32, 32, dtype=torch.uint8)
    output = new_network(network)(**to_model({"target": views, "source": views, "bool_masked_pos": masks}))
    assert torch.equal(output.mask.bool(), masks)


def test_a_run_without_matplotlib_makes_no_pictures(tmp_path: Path, command, monkeypatch, capsys):
    monkeypatch.setattr("singlelife.pretraining.pictures.find_spec", lambda _: None)
    assert run(command(tmp_path / "run", max_steps=2, picture_steps=1)) == 0
    assert "matplotlib" in capsys.readouterr().out
    assert (tmp_path / "run" / "model.safetensors").exists() and not list((tmp_path / "run").rglob("*.png"))
