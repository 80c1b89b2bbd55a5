"""What a run tells on the way: a trial of its cost, pictures, trackers, alignment with another model."""

import json
import os
import re
import sqlite3
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from singlelife.alignment.comparison import cas
from singlelife.alignment.models import load_model
from singlelife.alignment.pair_sets import make_pair_set
from singlelife.errors import CheckpointError, LifeError, RunError
from singlelife.lives import registry
from singlelife.pretraining.alignment_curve import AlignmentCurve, draw_alignment
from singlelife.pretraining.arguments import parse_arguments
from singlelife.pretraining.pretrain import pretrain
from singlelife.pretraining.run_folder import RunFolder, read_metrics
from singlelife.pretraining.starting_model import load_weights

ROOT = Path(__file__).parents[2]


def run(argv: list[str]) -> int:
    return pretrain(parse_arguments(argv))


def lines(folder: Path, key: str) -> dict[int, float]:
    return {line["step"]: line[key] for line in read_metrics(folder / "metrics.jsonl") if key in line}


def launch(argv: list[str], script: str = "train.py", **environment: str) -> subprocess.CompletedProcess:
    """In two processes."""
    return subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", script, *argv],
        cwd=ROOT, text=True, capture_output=True, timeout=200,
        env=os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"} | environment,
    )  # fmt: skip


def everything_in(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_a_trial_tells_the_cost_and_writes_nothing(tmp_path: Path, command, capsys):
    assert run(command(tmp_path / "prepared", max_steps=1)) == 0  # so that the life is there
    before = everything_in(tmp_path)
    capsys.readouterr()
    assert run(command(tmp_path / "run", "--dry-run", max_steps=100_000, save_steps=1000)) == 0
    assert everything_in(tmp_path) == before
    said = capsys.readouterr().out
    assert "is prepared first" not in said
    assert re.search(r"memory +about [0-9.]+ [kM]B of [0-9.]+ GB in each process: [0-9.]+ [kM]B of weights", said)
    assert re.search(r"work +[0-9.]+ GFLOP a pair, 8 pairs at once", said)
    assert re.search(r"peak +[0-9]+ GFLOP/s \(a product of [0-9x]+ fp32 matrices, timed here\)", said)
    assert "tried       51 steps" in said and re.search(r"first loss +[0-9.]{6}\n", said)
    kilobytes = float(re.search(r"disk +([0-9.]+) kB a checkpoint", said)[1])
    written = (tmp_path / "prepared" / "checkpoint-1").glob("*.safetensors")
    assert kilobytes * 1000 == pytest.approx(sum(file.stat().st_size for file in written), rel=0.1)
    seconds, rate = map(float, re.search(r"step +([0-9.e-]+) s: ([0-9]+) pairs/s, MFU 0", said).groups())
    assert rate == pytest.approx(8 / seconds, rel=0.02)
    hours, minutes = re.search(r"all steps +(?:([0-9]+) h )?([0-9]+) min.* for 100,000 steps", said).groups()
    assert 60 * int(hours or 0) + int(minutes) == pytest.approx(100_000 * seconds / 60, rel=0.3, abs=2)
    assert "with 3 kept, one being written" in said  # two, and the best


def test_a_trial_prepares_a_life_that_is_not_there_and_says_so(tmp_path: Path, command, capsys):
    assert run(command(tmp_path / "run", "--dry-run", cache_dir=tmp_path / "cache", max_steps=2)) == 0
    said = capsys.readouterr().out
    assert said.startswith("The life my_pan is prepared first") and str(tmp_path / "cache" / "lives") in said
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]


def test_a_trial_leaves_a_run_that_is_there_as_it_is(tmp_path: Path, command, capsys):
    folder = tmp_path / "run"
    assert run(command(folder, max_steps=4)) == 0
    before = everything_in(folder)
    assert run(command(folder, "--dry-run", max_steps=4, seed=3)) == 0
    with pytest.raises(RunError, match="all of its 4 steps"):
        run(command(folder, "--dry-run", "--resume", max_steps=4))
    assert everything_in(folder) == before


def test_a_trial_of_two_processes_counts_both(tmp_path: Path, command):
    ran = launch(command(tmp_path / "run", "--dry-run"))
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.count("tried ") == 1 and "12 steps" in ran.stdout and "4 pairs at once" in ran.stdout
    assert not (tmp_path / "run").exists()


def test_a_run_that_cannot_fit_is_refused_before_it_starts(tmp_path: Path, command):
    """Thirty thousand pairs at once of a model for one small GPU: terabytes."""
    with pytest.raises(RunError, match=r"does not fit: a step needs about [0-9.]+ GB of .*--gradient-accumulation-st"):
        run(command(tmp_path / "run", model="small", train_batch_size=30_000, validation_fraction=0, pairing="random"))
    assert not (tmp_path / "run").exists()


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
    assert run(command(folder, "--overwrite-output-dir", max_steps=1)) == 0
    assert not list((folder / "pictures").iterdir())


def test_pictures_and_comparisons_do_not_change_the_losses(tmp_path: Path, command, short_sim_test):
    plain, watched = tmp_path / "plain", tmp_path / "watched"
    assert run(command(plain, max_steps=8, picture_steps=0)) == 0
    settings = {"cas_reference": plain, "cas_steps": 2, "cas_pairs": f"{short_sim_test}/zoomed", "cas_num_pairs": 12}
    assert run(command(watched, max_steps=8, picture_steps=1, **settings)) == 0
    assert lines(watched, "loss") == lines(plain, "loss")  # bit for bit
    assert lines(watched, "val_loss") == lines(plain, "val_loss")
    assert list(lines(watched, "cas")) == [0, 2, 4, 6, 8]


@pytest.fixture
def short_sim_test(monkeypatch: pytest.MonkeyPatch) -> str:
    """A life with poses that is rendered in seconds."""
    life = registry.registered_life("sim_test")
    monkeypatch.setitem(
        registry._registered(), life.name, replace(life, simulation=replace(life.simulation, num_frames=300))
    )
    return life.name


def test_the_curve_is_what_the_comparison_of_checkpoints_gives(tmp_path: Path, command, short_sim_test, cache, capsys):
    reference, folder = tmp_path / "reference", tmp_path / "run"
    assert run(command(reference, max_steps=30, seed=1)) == 0
    settings = {"cas_reference": reference, "cas_pairs": short_sim_test, "cas_num_pairs": 12, "cas_steps": 4}
    assert run(command(folder, **settings)) == 0
    assert f"cross_attention.png, {folder / 'alignment.png'}\n" in capsys.readouterr().out
    curve = {line["step"]: line for line in read_metrics(folder / "metrics.jsonl") if "cas" in line}
    assert list(curve) == [0, 4, 8, 12]
    assert {line["cas_reference"] for line in curve.values()} == {"reference on sim_test/plain"}  # and not its path
    with Image.open(folder / "alignment.png") as picture:
        assert picture.size[0] > 1000
    pairs = _pairs(short_sim_test, cache)
    for step in (8, 12):
        again = cas(
            load_model(str(folder / f"checkpoint-{step}")), load_model(str(reference)), pairs=pairs, progress=False
        )
        for name, score in {"cas": again.raw, "cas_position_free": again.position_free}.items():
            for key, value in {
                "": score.cas,
                "_low": score.low,
                "_high": score.high,
                "_adjusted": score.chance_corrected,
            }.items():
                assert curve[step][name + key] == pytest.approx(value, abs=1e-6)
        truth = again.readings[0].position_free_truth
        assert curve[step]["cas_chance"] == pytest.approx(again.raw.chance, abs=1e-6)
        assert curve[step]["cas_truth"] == pytest.approx(truth.matches, abs=1e-6)

    # A run that goes on measures against the same, and draws one curve.
    (folder / "alignment.png").unlink()
    assert run(command(folder, "--resume", **settings)) == 0
    assert {line["step"]: line for line in read_metrics(folder / "metrics.jsonl") if "cas" in line} == curve
    assert (folder / "alignment.png").exists()


def test_a_model_in_shards_is_watched_like_a_whole_one(tmp_path: Path, command, sim_test):
    settings = {"cas_reference": "untrained:tiny", "cas_pairs": sim_test.path, "cas_num_pairs": 8, "cas_steps": 4}
    watched = settings | {"picture_steps": 4, "max_steps": 8}
    assert run(command(tmp_path / "whole", **watched)) == 0
    sharding = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP"}
    ran = launch(command(tmp_path / "shards", **watched), "tests/pretraining/fsdp2_on_cpu.py", **sharding)
    assert ran.returncode == 0, ran.stderr
    whole, shards = (lines(tmp_path / name, "cas_position_free") for name in ("whole", "shards"))
    assert list(shards) == [0, 4, 8] and shards == pytest.approx(whole, abs=0.01)
    assert (tmp_path / "shards" / "pictures" / "step-4" / "reconstruction.png").exists()
    assert (tmp_path / "shards" / "alignment.png").exists()


def _pairs(life: str, cache: Path):
    from singlelife.lives.resolve import resolve_life

    return make_pair_set(resolve_life(life, cache_dir=cache), num_pairs=12, image_size=32)


def test_a_model_agrees_with_itself_and_is_left_as_it_was(tmp_path: Path, command, short_sim_test, cache):
    folder = tmp_path / "run"
    assert run(command(folder, max_steps=2)) == 0
    reference = load_model(str(folder))
    model = load_weights(folder, reference.model.config).train()
    curve = AlignmentCurve(reference, _pairs(short_sim_test, cache), reference.processor, reference.grid, "cpu")
    state = torch.get_rng_state()
    values = curve(model)
    assert values["cas"] == values["cas_position_free"] == values["cas_high"] == 1.0
    assert torch.equal(torch.get_rng_state(), state)
    assert all(module.training for module in model.modules())
    with torch.no_grad():
        model.croco.decoder.norm.weight.fill_(float("nan"))
        model.croco.encoder.norm.weight.fill_(float("nan"))
    assert curve(model) == {} and model.training


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"cas_reference": "no/such/model"}, CheckpointError, "no/such/model"),
        ({"cas_reference": "untrained:tiny", "cas_pairs": "no_such_life"}, LifeError, "no_such_life"),
        ({"cas_reference": "untrained:tiny", "cas_steps": 0}, RunError, "--cas-steps should be at least 1"),
        ({"cas_reference": "untrained:tiny", "cas_num_pairs": 0}, RunError, "--cas-num-pairs should be at least 1"),
        ({"picture_steps": -1}, RunError, "--picture-steps should be 0 or more"),
        ({"hours": 0}, RunError, "--hours should be over 0"),
        ({"hours": 0.5}, LifeError, r"--hours 0\.5\): it lasts 20 s"),
    ],
)
def test_what_cannot_be_watched_is_said_before_anything_is_written(tmp_path: Path, command, changes, error, message):
    with pytest.raises(error, match=message):
        run(command(tmp_path / "run", **changes))
    assert not (tmp_path / "run").exists()


def test_only_what_was_measured_against_the_reference_is_drawn(tmp_path: Path):
    point = {f"{name}{end}": 0.5 for name in ("cas", "cas_position_free") for end in ("", "_low", "_high")}
    metrics = [{"step": 0, "loss": 1.0}, point | {"step": 5, "cas_chance": 0.1, "cas_reference": "a on b"}]
    assert not draw_alignment(tmp_path / "a.png", metrics, "title", "c on b") and not (tmp_path / "a.png").exists()
    assert draw_alignment(tmp_path / "a.png", metrics, "title", "a on b")
    assert Image.open(tmp_path / "a.png").size[0] > 1000


def test_the_first_hours_are_said_and_kept_by_a_resume(tmp_path: Path, command, capsys):
    folder = tmp_path / "run"
    assert run(command(folder, hours=0.003, max_steps=2, save_steps=1)) == 0  # 10.8 s of 20
    assert "only the first 11 s of it, 108 frames, are trained on" in capsys.readouterr().out
    with pytest.raises(RunError, match=r"hours was 0\.003, now None"):
        run(command(folder, "--resume", max_steps=2))


def test_tensorboard_gets_the_numbers_and_the_pictures(tmp_path: Path, command, short_sim_test):
    folder = tmp_path / "run"
    settings = {"report_to": "tensorboard", "picture_steps": 4, "cas_reference": "untrained:tiny", "cas_steps": 6,
                "cas_pairs": short_sim_test, "cas_num_pairs": 8}  # fmt: skip
    assert run(command(folder, **settings)) == 0
    # As if killed after a checkpoint: what came later is written once more, and read once.
    assert run(command(folder, f"--resume={folder / 'checkpoint-8'}", **settings)) == 0
    events = EventAccumulator(str(folder / "singlelife"), size_guidance={"images": 0, "scalars": 0})
    events.Reload()
    for tag, key in {"loss": "loss", "grad_norm": "grad_norm", "learning_rate": "learning_rate", "mfu": "mfu",
                     "pairs_per_second": "pairs_per_second", "data_wait": "data_wait", "val_loss": "val_loss",
                     "cas": "cas", "cas_position_free": "cas_position_free"}.items():  # fmt: skip
        written = {event.step: event.value for event in events.Scalars(tag)}
        assert written == pytest.approx(lines(folder, key), rel=1e-5), tag
    assert len(events.Scalars("loss")) == 12
    assert {event.step for event in events.Images("reconstruction")} == {4, 8, 12}
    assert [event.step for event in events.Images("alignment")] == [12]
    image = events.Images("cross_attention")[-1]
    assert (image.width, image.height) == Image.open(folder / "cross_attention.png").size
    assert "cas_reference" not in events.Tags()["scalars"]


def test_trackio_gets_them_without_a_network(tmp_path: Path, command):
    """In processes of their own, since trackio reads its settings when it is imported."""
    folder, kept = tmp_path / "my_run", tmp_path / "trackio"
    for resume in ([], [f"--resume={folder / 'checkpoint-4'}"]):
        ran = subprocess.run(
            [sys.executable, "train.py", *command(folder, *resume, report_to="trackio", picture_steps=4, max_steps=8)],
            cwd=ROOT, text=True, capture_output=True, timeout=200, env=os.environ | {"TRACKIO_DIR": str(kept)},
        )  # fmt: skip
        assert ran.returncode == 0, ran.stderr
        with sqlite3.connect(kept / "singlelife.db") as database:
            rows = database.execute("SELECT run_name, step, metrics FROM metrics ORDER BY step").fetchall()
        assert {name for name, _, _ in rows} == {"my_run"}  # a run that goes on goes on there too
        logged = [(step, json.loads(values)) for _, step, values in rows]
        assert {step: values["loss"] for step, values in logged if "loss" in values} == lines(folder, "loss")
        pictures = {path.relative_to(kept / "media").parts[2] for path in (kept / "media").rglob("*.png")}
        assert pictures == {"4", "8"}
