"""What a run does on the way: pictures, trackers, CAS with another model."""

import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import singlelife
from singlelife.alignment.models import load_model
from singlelife.alignment.pair_sets import make_pair_set
from singlelife.errors import RunError
from singlelife.lives.resolve import resolve_life
from singlelife.pretraining.arguments import parse_arguments
from singlelife.pretraining.callbacks import CasReference
from singlelife.pretraining.checkpoints import load_weights
from singlelife.pretraining.run_folder import RunFolder, read_metrics

from .runs import ROOT, column, losses, run

pytestmark = pytest.mark.integration


def test_pictures_on_the_way_are_kept_by_step_and_rewound_with_the_run(tmp_path: Path, command):
    folder = tmp_path / "run"
    assert run(command(folder, picture_steps=2, max_steps=6, save_steps=2)) == 0
    kept = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("pictures/**/*.png"))
    names = ("cross_attention", "reconstruction")
    assert kept == [f"pictures/step-{step}/{name}.png" for step in (2, 4) for name in names]
    first, last = (Image.open(folder / place / "reconstruction.png") for place in ("pictures/step-2", "."))
    assert first.size == last.size and first.tobytes() != last.tobytes()
    RunFolder(folder).rewind(3)
    assert [path.name for path in (folder / "pictures").iterdir()] == ["step-2"]


def test_pictures_and_comparisons_do_not_change_the_losses(tmp_path: Path, command, short_sim_test):
    plain, watched = tmp_path / "plain", tmp_path / "watched"
    assert run(command(plain, max_steps=8, picture_steps=0)) == 0
    settings = {"cas_reference": plain, "cas_steps": 2, "cas_pairs": f"{short_sim_test}/zoomed", "cas_num_pairs": 12}
    assert run(command(watched, max_steps=8, picture_steps=1, **settings)) == 0
    assert losses(watched) == losses(plain)  # bit for bit
    assert column(watched, "val_loss") == column(plain, "val_loss")
    assert list(column(watched, "cas")) == [0, 2, 4, 6, 8]


def test_the_curve_is_what_the_comparison_of_checkpoints_gives(tmp_path: Path, command, short_sim_test, cache):
    reference, folder = tmp_path / "reference", tmp_path / "run"
    assert run(command(reference, max_steps=30, seed=1)) == 0
    settings = {"cas_reference": reference, "cas_pairs": short_sim_test, "cas_num_pairs": 12, "cas_steps": 4}
    assert run(command(folder, **settings)) == 0
    curve = {line["step"]: line for line in read_metrics(folder / "metrics.jsonl") if "cas" in line}
    assert list(curve) == [0, 4, 8, 12]
    assert {line["cas_reference"] for line in curve.values()} == {"reference on sim_test/plain"}  # and not its path
    pairs = make_pair_set(resolve_life(short_sim_test, cache_dir=cache), num_pairs=12, image_size=32)
    for step in (8, 12):
        again = singlelife.cas(folder / f"checkpoint-{step}", reference, pairs=pairs, device="cpu", progress=False)
        for row in again.rows():
            if row.model == str(folder / f"checkpoint-{step}"):
                name = "cas" if row.metric == "raw" else f"cas_{row.metric}"
                for key, value in {"": row.value, "_low": row.low, "_high": row.high}.items():
                    assert value is None or curve[step][name + key] == pytest.approx(value, abs=2e-6)
        assert {"cas", "cas_low", "cas_chance", "cas_centred_excess_low", "cas_centred_p"} <= curve[step].keys()
        assert 0 <= curve[step]["cas_true_match_centred"] <= 1


def test_a_model_agrees_with_itself_and_is_left_as_it_was(tmp_path: Path, command, short_sim_test):
    folder = tmp_path / "run"
    assert run(command(folder, max_steps=2)) == 0
    reference = load_model(str(folder))
    model = load_weights(folder, reference.model.config).train()
    config = parse_arguments(command(folder, cas_reference=folder, cas_pairs=short_sim_test, cas_num_pairs=12))
    curve = CasReference(config, model.config, reference.processor, "cpu")
    state = torch.get_rng_state()
    values = curve.compare(model)
    assert values["cas"] == values["cas_centred"] == values["cas_high"] == 1.0
    assert torch.equal(torch.get_rng_state(), state)
    assert all(module.training for module in model.modules())
    with torch.no_grad():
        model.croco.decoder.norm.weight.fill_(float("nan"))
        model.croco.encoder.norm.weight.fill_(float("nan"))
    assert curve.compare(model) == {} and model.training


def test_the_first_hours_are_said_and_kept_by_a_resume(tmp_path: Path, command, capsys):
    folder = tmp_path / "run"
    assert run(command(folder, hours=0.003, max_steps=2, save_steps=1)) == 0  # 10.8 s of 20
    assert "only the first 11 s of it, 108 frames, are trained on" in capsys.readouterr().out
    with pytest.raises(RunError, match=r"hours was 0\.003, now None"):
        run(command(folder, "--resume", max_steps=2))


def test_tensorboard_gets_the_numbers(tmp_path: Path, command, short_sim_test):
    folder = tmp_path / "run"
    settings = {"report_to": "tensorboard", "cas_reference": "untrained:tiny", "cas_steps": 6,
                "cas_pairs": short_sim_test, "cas_num_pairs": 8}  # fmt: skip
    assert run(command(folder, **settings)) == 0
    # As if killed after a checkpoint: what came later is written once more, and read once.
    assert run(command(folder, resume_from=folder / "checkpoint-8", **settings)) == 0
    events = EventAccumulator(str(folder / "singlelife"), size_guidance={"scalars": 0})
    events.Reload()
    for tag in ("loss", "grad_norm", "learning_rate", "tflops", "data_wait", "val_loss", "cas", "cas_centred"):
        written = {event.step: event.value for event in events.Scalars(tag)}
        assert written == pytest.approx(column(folder, tag), rel=1e-5), tag
    assert len(events.Scalars("loss")) == 12
    assert "cas_reference" not in events.Tags()["scalars"]


@pytest.mark.slow
def test_trackio_gets_them_without_a_network(tmp_path: Path, command):
    """In processes of their own, since trackio reads its settings when it is imported."""
    folder, kept = tmp_path / "my_run", tmp_path / "trackio"
    for resume in ([], [f"--resume-from={folder / 'checkpoint-4'}"]):
        ran = subprocess.run(
            [sys.executable, "train.py", *command(folder, *resume, report_to="trackio", max_steps=8)],
            cwd=ROOT, text=True, capture_output=True, timeout=200, env=os.environ | {"TRACKIO_DIR": str(kept)},
        )  # fmt: skip
        assert ran.returncode == 0, ran.stderr
        with sqlite3.connect(kept / "singlelife.db") as database:
            rows = database.execute("SELECT run_name, step, metrics FROM metrics ORDER BY step").fetchall()
        assert {name for name, _, _ in rows} == {"my_run"}  # a run that goes on goes on there too
        logged = [(step, json.loads(values)) for _, step, values in rows]
        assert {step: values["loss"] for step, values in logged if "loss" in values} == column(folder, "loss")
