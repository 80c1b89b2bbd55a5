"""What a run does on the way: pictures, trackers, CAS with another model."""

from pathlib import Path

import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from singlelife.alignment.models import load_model
from singlelife.errors import RunError
from singlelife.pretraining import callbacks
from singlelife.pretraining.arguments import parse_arguments
from singlelife.pretraining.checkpoints import load_weights
from singlelife.pretraining.run_folder import RunFolder

from .runs import column, losses, run

pytestmark = pytest.mark.integration


def test_pictures_come_early_and_are_rewound_with_the_run(tmp_path: Path, command, monkeypatch, capsys):
    folder = tmp_path / "run"
    monkeypatch.setattr(callbacks, "_FIRST_PICTURES", 1)
    assert run(command(folder, picture_steps=5, max_steps=6, save_steps=2)) == 0
    kept = {path.relative_to(folder).as_posix() for path in folder.rglob("pictures/**/*.png")}
    names = ("cross_attention", "reconstruction")
    assert kept == {f"pictures/step-{step}/{name}.png" for step in (0, 1, 2, 4, 5) for name in names}
    assert f"{folder}/pictures/step-0/" in capsys.readouterr().out
    first, last = (Image.open(folder / place / "reconstruction.png") for place in ("pictures/step-2", "."))
    assert first.size == last.size and first.tobytes() != last.tobytes()
    RunFolder(folder).rewind(1)
    assert {path.name for path in (folder / "pictures").iterdir()} == {"step-0", "step-1"}


def test_pictures_and_comparisons_do_not_change_the_losses(tmp_path: Path, command, short_sim_test):
    plain, watched = tmp_path / "plain", tmp_path / "watched"
    assert run(command(plain, max_steps=8, picture_steps=0)) == 0
    settings = {"cas_reference": plain, "cas_steps": 2, "cas_pairs": f"{short_sim_test}/zoomed", "cas_num_pairs": 12}
    assert run(command(watched, max_steps=8, picture_steps=1, **settings)) == 0
    assert losses(watched) == losses(plain)  # bit for bit
    assert column(watched, "val_loss") == column(plain, "val_loss")
    assert list(column(watched, "cas")) == [0, 2, 4, 6, 8]


def test_a_model_agrees_with_itself_and_is_left_as_it_was(tmp_path: Path, command, short_sim_test):
    folder = tmp_path / "run"
    assert run(command(folder, max_steps=2)) == 0
    reference = load_model(str(folder))
    model = load_weights(folder, reference.model.config).train()
    config = parse_arguments(command(folder, cas_reference=folder, cas_pairs=short_sim_test, cas_num_pairs=12))
    curve = callbacks.CasReference(config, reference.processor, "cpu")
    state = torch.get_rng_state()
    values = curve.compare(model)
    assert values["cas_reference"] == "run on sim_test/plain"  # and not its path
    assert values["cas"] == values["cas_centred"] == values["cas_low"] == values["cas_high"] == 1.0
    assert 0 < values["cas_chance"] < 1 and 0 <= values["cas_true_match_raw"] <= 1
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
    for tag in (
        "loss",
        "grad_norm",
        "learning_rate",
        "tflops",
        "mfu",
        "data_wait",
        "val_loss",
        "cas",
        "cas_chance",
        "cas_centred",
    ):
        written = {event.step: event.value for event in events.Scalars(tag)}
        assert written == pytest.approx(column(folder, tag), rel=1e-5), tag
    assert len(events.Scalars("loss")) == 12
    assert "cas_reference" not in events.Tags()["scalars"]
