"""Settings come from flags, configs and defaults, in that order, and mistakes are named."""

import re
import subprocess
import sys
from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest
import yaml

from singlelife.cli import main
from singlelife.errors import RunError, SingleLifeError
from singlelife.files import config_names
from singlelife.pretraining.arguments import RunConfig, TrainConfig, parse_arguments

ROOT = Path(__file__).parents[2]


def write(path: Path, **settings: object) -> str:
    path.write_text(yaml.safe_dump(settings))
    return str(path)


def test_a_flag_wins_over_the_config_and_that_over_the_life(tmp_path: Path):
    of_the_life = parse_arguments(["--life", "sim_1"])
    assert of_the_life.train.train_batch_size != TrainConfig().train_batch_size  # the life's own recipe is read
    config = write(tmp_path / "mine.yaml", train_batch_size=7, max_steps=70, flip=False)
    from_config = parse_arguments(["--life", "sim_1", "--config", config])
    assert (from_config.train.train_batch_size, from_config.train.max_steps, from_config.pairs.flip) == (7, 70, False)
    assert from_config.train.base_learning_rate == of_the_life.train.base_learning_rate
    from_flag = parse_arguments(["--life", "sim_1", "--config", config, "--max-steps", "5", "--flip"])
    assert (from_flag.train.train_batch_size, from_flag.train.max_steps, from_flag.pairs.flip) == (7, 5, True)
    assert parse_arguments(["--config", write(tmp_path / "own.yaml", life="sim_2")]).output_dir == Path("runs/sim_2")
    assert parse_arguments(["--life", "ann/my.pan@v2"]).output_dir == Path("runs/my-pan")


def test_the_warm_up_is_a_share_of_the_run_and_exact_at_a_recipes_length(tmp_path: Path):
    def warmup(*flags: str, **config: object) -> int:
        named = ["--config", write(tmp_path / "mine.yaml", **config)] if config else []
        return parse_arguments(["--life", "sim_1", *named, *flags]).train.warmup

    assert warmup() == 549  # of 9,600 steps
    assert warmup("--max-steps=100") == 6
    assert warmup("--config=base") == 5_000 and warmup("--config=base_random_crops") == 2_000  # of 100,000
    assert warmup("--max-steps=100", warmup_steps=30) == 30  # as in the config of an older run
    assert warmup("--max-steps=100", "--warmup-ratio=0.5", warmup_steps=30) == 50  # what is said later wins
    assert warmup(warmup_ratio=0.5, warmup_steps=30) == 30
    assert warmup("--warmup-steps=7", warmup_ratio=0.5) == 7


def test_a_run_can_be_started_again_from_its_settings(tmp_path: Path):
    videos = [str(tmp_path / name) for name in ("a.mp4", "b c.mp4")]
    for video in videos:
        Path(video).touch()
    words = ["--life", "walk", "--video", *videos, "--no-flip", "--seed", "3", "--report-to", "tensorboard"]
    first = parse_arguments([*words, "--mask-ratio", "0.7"])
    assert first.life.video == tuple(videos)
    again = parse_arguments(["--config", write(tmp_path / "config.yaml", **first.to_dict())])
    assert again.to_dict() == first.to_dict()
    gone = {"decoded_frames": True, "cas_steps": 500}
    old = write(tmp_path / "old.yaml", life="sim_1", hours=None, **gone)
    assert not gone.keys() & parse_arguments(["--config", old]).to_dict().keys()
    assert "resume" not in first.to_dict() and "push_to_hub" not in first.to_dict()
    with pytest.raises(FrozenInstanceError):
        again.train.seed = 4  # type: ignore[misc]


def test_print_config_says_where_each_value_comes_from_and_starts_nothing(tmp_path: Path, capsys):
    config = write(tmp_path / "mine.yaml", max_steps=70)
    folder = tmp_path / "run"
    words = ["--life", "sim_1", "--config", config, "--print-config", "--no-flip", f"--output_dir={folder}"]
    assert main(["train", *words]) == 0
    said = capsys.readouterr().out
    expected = [f"max_steps: 70  # --config {config}", "model: tiny  # recipe tiny", "flip: false  # flag"]
    expected += ["seed: 0  # default", "# Warm-up: 4 of 70 steps"]
    expected += ["# Learning rate at its peak: 0.0012 (0.0384 × 8 / 256)"]
    assert set(expected) <= set(said.splitlines())
    assert yaml.safe_load(said) == parse_arguments(words).to_dict()
    assert not folder.exists()


def test_the_learning_rate_is_proportional_to_the_batch_unless_it_is_given(tmp_path: Path):
    def rate(*flags: str, **config: object) -> float:
        named = ["--config", write(tmp_path / "mine.yaml", **config)] if config else []
        return parse_arguments(["--life", "sim_1", *named, *flags]).train.peak_learning_rate

    assert rate() == 1.2e-3  # of the recipe `tiny`, to the last bit
    assert rate("--train-batch-size=64") == 9.6e-3
    assert rate("--config=base") == 1.5e-4
    assert rate("--config=base", "--train-batch-size=1024") == 6e-4
    assert rate("--learning-rate=1e-3", "--train-batch-size=64") == 1e-3
    assert rate("--base_learning_rate", "0.016", "--train-batch-size=32") == 2e-3
    assert rate(learning_rate=3e-4) == 3e-4
    assert rate(learning_rate=None, base_learning_rate=0.016) == 5e-4


@pytest.mark.parametrize("name", config_names("train"))
def test_shipped_configs_are_valid(name: str):
    assert isinstance(parse_arguments(["--life", "sim_1", "--config", name]), RunConfig)


@pytest.mark.parametrize(
    ("flags", "facts"),
    [
        (["--pairing", "spatal"], ["--pairing", "temporal", "spatial", "union", "'spatal'"]),
        (["--min-overlap", "0"], ["--min-overlap", "over 0 and at most 1", "0.0"]),
        (["--max-steps", "0"], ["--max-steps", "at least 1", "0"]),
        (["--mask-ratio", "1"], ["--mask-ratio", "between 0 and 1", "1.0"]),
        (["--learning-rate", "nan"], ["--learning-rate", "over 0"]),
        (["--adam-beta2", "1"], ["--adam-beta2", "under 1"]),
        (["--seed", "-1"], ["--seed", "from 0"]),
        (["--public"], ["--public", "--push-to-hub"]),
        (["--resume", "--resume-from=a"], ["--resume", "--resume-from"]),
        (["--config", "tyni"], ["tyni", "tiny"]),
        (["--config", "absent.yaml"], ["absent.yaml"]),
    ],
)
def test_values_out_of_range_are_named_with_what_is_allowed(flags: list[str], facts: list[str]):
    with pytest.raises(SingleLifeError) as raised:
        parse_arguments(["--life", "sim_1", *flags])
    assert [fact for fact in facts if fact not in str(raised.value)] == []


@pytest.mark.parametrize(
    ("settings", "facts"),
    [
        ({"max_stesp": 3}, ["max_stesp", "max_steps"]),
        ({"max_steps": "many"}, ["max_steps", "many", "int"]),
        ({"max_steps": 7.5}, ["max_steps", "7.5", "int"]),
        ({"flip": "maybe"}, ["flip", "true or false"]),
        ({"mixed_precision": False}, ["mixed_precision", "bf16"]),  # what YAML makes of an unquoted no
        ({"resume": True}, ["resume"]),  # of one call
    ],
)
def test_mistakes_in_a_config_are_named(tmp_path: Path, settings: dict, facts: list[str]):
    with pytest.raises(RunError) as raised:
        parse_arguments(["--life", "sim_1", "--config", write(tmp_path / "mine.yaml", **settings)])
    assert [fact for fact in ["mine.yaml", *facts] if fact not in str(raised.value)] == []


@pytest.mark.integration
def test_what_needs_no_model_is_said_without_torch(tmp_path: Path):
    """Help with every setting and the recipe's values, and names and folders that cannot be used."""
    (tmp_path / "config.yaml").touch()
    code = f"""
import sys
from singlelife.cli import main
held = ["--output-dir={tmp_path}"]
for words in (["--life=sim1"], ["--model=tyni"], held, ["--max-step=3"]):
    try: print(main(["train", "--life=sim_1", *words]), file=sys.stderr)
    except SystemExit as stop: print(stop.code, file=sys.stderr)
assert "torch" not in sys.modules and "datasets" not in sys.modules
main(["train", "--help"])
"""
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    facts = ["'sim1'. Did you mean sim_1", "tiny", "already holds a run", "--max-steps"]
    said = re.split(r"^2$", ran.stderr, flags=re.MULTILINE)
    assert [fact in text for fact, text in zip(facts, said, strict=False)] == [True] * 4 and len(said) == 5
    config = parse_arguments(["--life", "sim_1"])
    for name in [*config.to_dict(), *vars(config.hub), *vars(config.start)]:
        assert f"--{name.replace('_', '-')}" in ran.stdout, name
    assert "recipe tiny (model, " in ran.stdout and "default: 9600" in ran.stdout and "origins" not in ran.stdout
