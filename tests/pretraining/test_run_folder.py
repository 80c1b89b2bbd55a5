"""What a run writes is whole or absent, and a run that goes on finds its folder as it was."""

from pathlib import Path

import pytest

from singlelife.errors import RunError
from singlelife.pretraining.run_folder import RunFolder, read_metrics, writing_folder


def a_run(path: Path, steps: tuple[int, ...] = (4, 8, 12)) -> RunFolder:
    folder = RunFolder(path)
    path.mkdir(exist_ok=True)
    for step in range(1, max(steps) + 1):
        folder.log({"step": step, "loss": 1 / step})
    for step in steps:
        with writing_folder(folder.checkpoint_path(step)) as aside:
            (aside / "weights").write_text(str(step))
    return folder


def test_rewinding_drops_all_that_came_later(tmp_path: Path):
    run = a_run(tmp_path / "run")
    (run.path / "checkpoint-16.tmp").mkdir()
    (run.path / "checkpoint-best").mkdir()
    assert list(run.checkpoints()) == [4, 8, 12]
    with run.metrics.open("a") as file:
        file.write('{"step": 13, "lo')  # killed here
    run.rewind(8)
    assert list(run.checkpoints()) == [4, 8]
    assert [line["step"] for line in read_metrics(run.metrics)] == list(range(1, 9))
    assert not list(run.path.glob("*.tmp"))
    run.log({"step": 9, "loss": 0.5})
    assert read_metrics(run.metrics)[-1] == {"step": 9, "loss": 0.5}


def test_damaged_metrics_are_named(tmp_path: Path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\nnot json\n{"step": 3}\n')
    with pytest.raises(RunError, match=r"Line 2 of .*metrics.jsonl"):
        read_metrics(path)


def test_a_checkpoint_that_is_being_deleted_is_none(tmp_path: Path, monkeypatch):
    run = a_run(tmp_path / "run")

    def killed(path: Path, ignore_errors: bool = False) -> None:
        if path.exists():
            (path / "weights").unlink()
            raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr("shutil.rmtree", killed)
        run.keep_latest(2)
    assert list(run.checkpoints()) == [8, 12]
    run.rewind(12)
    assert not list(run.path.glob("*.tmp"))
