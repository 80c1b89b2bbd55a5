"""What a run does on the way: pictures and trackers."""

from pathlib import Path

import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from singlelife.errors import RunError
from singlelife.pretraining import callbacks
from singlelife.pretraining.run_folder import RunFolder

from .runs import column, losses, run

pytestmark = pytest.mark.integration


def test_pictures_come_early_make_an_animation_and_change_no_loss(tmp_path: Path, command, monkeypatch, capsys):
    folder, plain = tmp_path / "run", tmp_path / "plain"
    monkeypatch.setattr(callbacks, "_FIRST_PICTURES", 1)
    assert run(command(folder, picture_steps=5, max_steps=6, save_steps=2)) == 0
    kept = {path.relative_to(folder).as_posix() for path in folder.rglob("pictures/**/*.png")}
    names = ("cross_attention", "reconstruction")
    assert kept == {f"pictures/step-{step}/{name}.png" for step in (0, 1, 2, 4, 5) for name in names}
    assert f"{folder}/pictures/step-0/" in capsys.readouterr().out
    first, last = (Image.open(folder / place / "reconstruction.png") for place in ("pictures/step-2", "."))
    assert first.size == last.size and first.tobytes() != last.tobytes()
    with Image.open(folder / "progress.gif") as progress:  # both pictures side by side, at each step and at the end
        assert progress.n_frames == 6 and progress.width > 1.5 * progress.height > 300
        frames = [progress.seek(index) or progress.convert("RGB").tobytes() for index in range(6)]
    assert len(set(frames)) == 6
    assert run(command(plain, picture_steps=0, max_steps=6, save_steps=2)) == 0
    assert losses(folder) == losses(plain) and column(folder, "val_loss") == column(plain, "val_loss")  # bit for bit
    assert not (plain / "progress.gif").exists()
    RunFolder(folder).rewind(1)
    assert {path.name for path in (folder / "pictures").iterdir()} == {"step-0", "step-1"}


def test_the_first_hours_are_said_and_kept_by_a_resume(tmp_path: Path, command, capsys):
    folder = tmp_path / "run"
    assert run(command(folder, hours=0.003, max_steps=2, save_steps=1)) == 0  # 10.8 s of 20
    assert "only the first 11 s, 108 frames" in capsys.readouterr().out
    with pytest.raises(RunError, match=r"hours was 0\.003, now None"):
        run(command(folder, "--resume", max_steps=2))


def test_tensorboard_gets_the_numbers(tmp_path: Path, command):
    folder = tmp_path / "run"
    assert run(command(folder, report_to="tensorboard")) == 0
    # As if killed after a checkpoint: what came later is written once more, and read once.
    assert run(command(folder, resume_from=folder / "checkpoint-8", report_to="tensorboard")) == 0
    events = EventAccumulator(str(folder / "singlelife"), size_guidance={"scalars": 0})
    events.Reload()
    for tag in ("loss", "grad_norm", "learning_rate", "tflops", "mfu", "data_wait", "val_loss"):
        written = {event.step: event.value for event in events.Scalars(tag)}
        assert written == pytest.approx(column(folder, tag), rel=1e-5), tag
    assert len(events.Scalars("loss")) == 12
