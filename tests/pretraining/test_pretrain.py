"""Whole runs of a micro-model: what they write, how they stop, how they go on."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoImageProcessor, AutoModel, AutoModelForPreTraining

from singlelife.commands import train
from singlelife.errors import CheckpointError, LifeError, RunError
from singlelife.pretraining.run_folder import RunFolder, read_metrics

from .runs import ROOT, column, losses, run

pytestmark = pytest.mark.integration


def start(words: list[str], **environment: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "train.py", *words], cwd=ROOT, env=os.environ | environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def wait_for_step(process: subprocess.Popen, folder: Path, step: int) -> None:
    deadline = time.monotonic() + 90
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
        assert set(line) == {"step", "loss", "learning_rate", "grad_norm", "pairs_per_second", "data_wait", "tflops"}
        assert line["pairs_per_second"] > 0 and 0 <= line["data_wait"] <= 1 and line["grad_norm"] > 0
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


def test_the_run_folder_is_a_model(finished_run: Path):
    processor = AutoImageProcessor.from_pretrained(finished_run)
    image = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    inputs = processor(image, return_tensors="pt")
    assert inputs["pixel_values"].shape == (1, 3, 32, 32)
    assert AutoModel.from_pretrained(finished_run)(**inputs).last_hidden_state.shape == (1, 16, 32)
    _, info = AutoModelForPreTraining.from_pretrained(finished_run, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert same_weights(finished_run, finished_run / "checkpoint-12")


def test_the_loss_falls(tmp_path: Path, command):
    assert run(command(tmp_path / "run", max_steps=150, logging_steps=10, eval_steps=75, save_steps=1000)) == 0
    training, validation = (list(column(tmp_path / "run", name).values()) for name in ("loss", "val_loss"))
    assert len(training) == 15
    assert training[-1] < 0.93 * training[0]
    assert validation[-1] < validation[0]


def test_pairs_of_one_place_train_and_are_part_of_what_a_resume_keeps(tmp_path: Path, command, short_sim_test, capsys):
    settings = {"life": short_sim_test, "video": None, "max_steps": 2, "save_steps": 1, "pairing": "union"}
    settings |= {"validation_fraction": 0.3}
    assert run(command(tmp_path / "run", **settings)) == 0
    assert len(losses(tmp_path / "run")) == 2
    started = capsys.readouterr().out
    assert "spatial, overlap 0.2 to 0.7" in started and "hold no" not in started
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


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_stopped_run_saves_and_says_how_to_go_on(tmp_path: Path, command, number):
    folder = tmp_path / "run"
    process = start(command(folder, max_steps=3000, save_steps=1000, dataloader_num_workers=1))
    wait_for_step(process, folder, 5)
    process.send_signal(number)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    (step,) = RunFolder(folder).checkpoints()
    assert step == max(losses(folder)) < 1000
    assert f"checkpoint-{step}" in out and "--resume" in out
    assert not (folder / "model.safetensors").exists()


def test_losses_since_the_last_line_survive_a_resume(tmp_path: Path, finished_run: Path, command):
    expected, folder = losses(finished_run), tmp_path / "run"
    assert run(command(folder, resume_from=finished_run / "checkpoint-8", logging_steps=12)) == 0
    assert list(losses(folder)) == [12]
    assert losses(folder)[12] == pytest.approx(np.mean([expected[step] for step in (9, 10, 11, 12)]), rel=1e-12)


def test_mixed_precision_keeps_fp32_weights(tmp_path: Path, finished_run: Path, command):
    assert run(command(tmp_path / "run", mixed_precision="bf16")) == 0
    full, mixed = losses(finished_run), losses(tmp_path / "run")
    assert mixed != full
    assert max(abs(mixed[step] - full[step]) for step in full) < 0.05
    assert {tensor.dtype for tensor in load_file(tmp_path / "run" / "model.safetensors").values()} == {torch.float32}


def test_training_from_a_checkpoint_starts_with_its_weights(tmp_path: Path, finished_run: Path, command):
    words = command(tmp_path / "run", model=finished_run, max_steps=1, learning_rate=1e-12, validation_fraction=0)
    assert run(words) == 0
    before, after = (load_file(f / "model.safetensors") for f in (finished_run, tmp_path / "run"))
    assert all(torch.allclose(before[name], after[name], atol=1e-6) for name in before)


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


def test_a_step_that_is_not_finite_changes_nothing(tmp_path: Path, command, capsys):
    """Here from weights so large that every loss overflows."""
    folder, kept = tmp_path / "run", tmp_path / "before"
    assert run(command(kept, max_steps=1, learning_rate=1e30, warmup_steps=0, max_grad_norm=0)) == 0
    assert run(command(folder, model=kept, max_steps=3, save_steps=100)) == 0
    assert same_weights(kept, folder)
    assert losses(folder) == {}
    assert "3 of the steps were skipped" in capsys.readouterr().out


def test_too_little_memory_names_the_flags_that_help(tmp_path: Path, command, monkeypatch):
    def no_memory(*_: object, **__: object):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr("singlelife.pretraining.loop.learning_rate", no_memory)
    with pytest.raises(RunError, match=r"2\.00 GiB.*--gradient-accumulation-steps.*--gradient-checkpointing all"):
        train.main(command(tmp_path / "run"))


@pytest.mark.parametrize(
    ("changes", "fact"),
    [
        ({"seed": 1}, "seed was 0, now 1"),
        ({"max_gap": 0.3}, "max_gap was 0.4, now 0.3"),
        ({"mask_ratio": 0.5}, "model_config was"),
        ({"pairing": "random"}, "pairing was 'temporal', now 'random'"),
    ],
)
def test_pairs_that_change_are_not_the_same_run(whole_run: Path, command, changes, fact):
    with pytest.raises(RunError, match=f"{fact}.*--output-dir"):
        run(command(whole_run, "--resume", **changes))
    assert list(RunFolder(whole_run).checkpoints()) == [8, 12]
    assert len(losses(whole_run)) == 12


def test_a_run_goes_on_whose_model_config_has_other_fields(whole_run: Path, finished_run: Path, command):
    """As a run of another version of the package has."""
    checkpoint = whole_run / "checkpoint-8"
    state = json.loads((checkpoint / "training_state.json").read_text())
    state["sequence"]["model_config"] |= {"depth_head": "linear"}
    (checkpoint / "training_state.json").write_text(json.dumps(state))
    assert run(command(whole_run, resume_from=checkpoint)) == 0
    assert losses(whole_run) == losses(finished_run)


def test_a_run_folder_is_not_overwritten(command, finished_run: Path):
    with pytest.raises(RunError, match=r"already holds a run.*--resume.*--output-dir"):
        run(command(finished_run))


def test_a_job_that_always_resumes_starts_from_the_beginning(tmp_path: Path, command):
    assert run(command(tmp_path / "run", "--resume", max_steps=1)) == 0
    assert list(losses(tmp_path / "run")) == [1]


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"video": "absent.mp4"}, LifeError, "absent.mp4"),
        ({"life": "../pan"}, LifeError, "../pan"),
        ({"image_size": 30}, RunError, "image_size 30 cannot be cut .* patch_size 8"),
        ({"mask_ratio": 0.001}, RunError, "mask_ratio 0.001 of 16 patches .* masks all or none"),
        ({"min_gap": 0.5, "max_gap": 0.1}, LifeError, "min_gap <= max_gap"),
        ({"max_gap": 0.4, "min_gap": 0.4, "validation_fraction": 0.01}, LifeError, "held-out.*--validation-fraction"),
        ({"crop_area_min": 0.0}, LifeError, "within \\(0, 1\\]"),
        ({"model": "tyni"}, RunError, "no models config named 'tyni'.*tiny"),
        ({"train_batch_size": 8, "gradient_accumulation_steps": 3}, RunError, "multiple of 3"),
        ({"resume_from": "nowhere/checkpoint-3"}, RunError, "no checkpoint that a run can go on from"),
        ({"report_to": "tensorbored"}, RunError, "not a tracker"),
        ({"mixed_precision": "fp16"}, RunError, "fp16 needs a GPU"),
        ({"cas_reference": "no/such/model"}, CheckpointError, "no/such/model"),
        ({"cas_reference": "untrained:tiny", "cas_pairs": "no_such_life"}, LifeError, "no_such_life"),
        ({"hours": 0.5}, LifeError, r"--hours 0\.5 .*20 s"),
    ],
)
def test_what_cannot_work_is_said_before_anything_is_written(tmp_path: Path, command, changes, error, message):
    folder = tmp_path / "run"
    with pytest.raises(error, match=message):
        run(command(folder, **changes))
    assert not folder.exists()


def test_a_checkpoint_of_another_architecture_is_refused(tmp_path: Path, command):
    (tmp_path / "vit").mkdir()
    (tmp_path / "vit" / "config.json").write_text('{"model_type": "vit"}')
    with pytest.raises(CheckpointError, match="another architecture: 'vit'"):
        run(command(tmp_path / "run", model=tmp_path / "vit"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match=r"config\.json"):
        run(command(tmp_path / "run", model=tmp_path / "empty"))


def test_a_checkpoint_without_its_weights_is_refused(tmp_path: Path, command, finished_run: Path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_bytes((finished_run / "config.json").read_bytes())
    with pytest.raises(CheckpointError, match="Cannot load the weights"):
        run(command(tmp_path / "run", model=folder))
    weights = load_file(finished_run / "model.safetensors")
    encoder = {name: tensor for name, tensor in weights.items() if "decoder" not in name}
    save_file(encoder, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"lacks [0-9]+ weights"):
        run(command(tmp_path / "run", model=folder))


def test_an_unknown_field_of_a_model_is_named(tmp_path: Path, command):
    (tmp_path / "mine.yaml").write_text("hidden_sizes: 32\n")
    with pytest.raises(RunError, match=r"'hidden_sizes'.*hidden_size"):
        run(command(tmp_path / "run", model=tmp_path / "mine.yaml"))


def test_a_dry_run_times_real_steps_and_writes_nothing(whole_run: Path, command, capsys):
    before = {path: path.stat().st_mtime_ns for path in whole_run.rglob("*")}
    assert run(command(whole_run, "--dry-run", max_steps=100_000, seed=3)) == 0
    said = capsys.readouterr().out
    for fact in ("pairs/s", "TFLOP/s", "100,000 steps", "at most in a process"):
        assert fact in said
    with pytest.raises(RunError, match="12 steps 0 are left"):
        run(command(whole_run, "--dry-run", "--resume"))
    assert {path: path.stat().st_mtime_ns for path in whole_run.rglob("*")} == before


def test_a_run_without_matplotlib_makes_no_pictures(tmp_path: Path, command, monkeypatch, capsys):
    monkeypatch.setattr("singlelife.pretraining.pictures.find_spec", lambda _: None)
    assert run(command(tmp_path / "run", max_steps=2, picture_steps=1)) == 0
    assert "matplotlib" in capsys.readouterr().out
    assert (tmp_path / "run" / "model.safetensors").exists() and not list((tmp_path / "run").rglob("*.png"))
