"""Settings come from flags, configs and defaults, in that order, and mistakes are named."""

import subprocess
import sys
from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest
import yaml

from singlelife.cli import main
from singlelife.errors import LifeError, RunError, SingleLifeError
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


def test_the_life_itself_can_come_from_the_config_and_names_the_run_folder(tmp_path: Path):
    config = parse_arguments(["--config", write(tmp_path / "mine.yaml", life="sim_2", learning_rate="6e-4")])
    assert config.life.life == "sim_2"
    assert config.output_dir == Path("runs/sim_2")
    assert config.train.learning_rate == 6e-4  # YAML itself takes 6e-4 for a string
    assert parse_arguments(["--life", "ann/my.pan@v2"]).output_dir == Path("runs/my-pan")


def test_a_run_can_be_started_again_from_its_settings(tmp_path: Path):
    videos = [str(tmp_path / name) for name in ("a.mp4", "b c.mp4")]
    for video in videos:
        Path(video).touch()
    words = ["--life", "walk", "--video", *videos, "--no-flip", "--seed", "3", "--report-to", "tensorboard"]
    first = parse_arguments([*words, "--mask-ratio", "0.7"])
    assert first.life.video == tuple(videos)
    again = parse_arguments(["--config", write(tmp_path / "config.yaml", **first.to_dict())])
    assert again.to_dict() == first.to_dict()
    assert "resume" not in first.to_dict() and "push_to_hub" not in first.to_dict()
    with pytest.raises(FrozenInstanceError):
        again.train.seed = 4  # type: ignore[misc]


def test_the_config_of_a_run_of_an_earlier_version_is_read(tmp_path: Path):
    path = write(tmp_path / "config.yaml", life="sim_1", decoded_frames=True, gradient_checkpointing="all", hours=None)
    config = parse_arguments(["--config", path])
    assert config.train.gradient_checkpointing == "all" and "decoded_frames" not in config.to_dict()


def test_print_config_says_where_each_value_comes_from_and_starts_nothing(tmp_path: Path, capsys):
    config = write(tmp_path / "mine.yaml", max_steps=70, cas_pairs="sim_2")
    folder = tmp_path / "run"
    words = ["--life", "sim_1", "--config", config, "--print-config", "--no-flip", f"--output_dir={folder}"]
    assert main(["train", *words]) == 0
    said = capsys.readouterr().out
    expected = {f"max_steps: 70  # --config {config}", "model: tiny  # recipe tiny", "flip: false  # flag", "seed: 0"}
    assert expected <= set(said.splitlines())
    assert yaml.safe_load(said) == parse_arguments(words).to_dict()
    assert not folder.exists()


def test_the_learning_rate_is_proportional_to_the_batch_unless_it_is_given(tmp_path: Path):
    def rate(*flags: str, **config: object) -> float:
        named = ["--config", write(tmp_path / "mine.yaml", **config)] if config else []
        return parse_arguments(["--life", "sim_1", *named, *flags]).train.peak_learning_rate

    assert rate() == 1.2e-3  # of the recipe `tiny`, to the last bit
    assert rate("--train-batch-size=64") == 4.8e-3
    assert rate("--config=base") == 1.5e-4
    assert rate("--config=base", "--train-batch-size=1024") == 6e-4
    assert rate("--learning-rate=1e-3", "--train-batch-size=64") == 1e-3
    assert rate("--base_learning_rate", "0.016", "--train-batch-size=32") == 2e-3
    assert rate(learning_rate=3e-4) == 3e-4
    assert rate(learning_rate=None, base_learning_rate=0.016) == 1e-3


@pytest.mark.parametrize("name", config_names("train"))
def test_shipped_configs_are_valid(name: str):
    assert isinstance(parse_arguments(["--life", "sim_1", "--config", name]), RunConfig)


@pytest.mark.parametrize(
    ("flags", "facts"),
    [
        (["--pairing", "spatal"], ["--pairing", "temporal", "spatial", "union", "'spatal'"]),
        (["--min-overlap", "0"], ["--min-overlap", "over 0 and at most 1", "0.0"]),
        (["--min-overlap", "nan"], ["--min-overlap"]),
        (["--max-overlap", "0.1"], ["--max-overlap", "--min-overlap (0.2)"]),
        (["--max-neighbours", "0"], ["--max-neighbours", "at least 1"]),
        (["--max-steps", "0"], ["--max-steps", "at least 1", "0"]),
        (["--mask-ratio", "1"], ["--mask-ratio", "between 0 and 1", "1.0"]),
        (["--learning-rate", "-1"], ["--learning-rate", "over 0"]),
        (["--learning-rate", "nan"], ["--learning-rate", "over 0"]),
        (["--adam-beta2", "1"], ["--adam-beta2", "under 1"]),
        (["--seed", "-1"], ["--seed", "from 0"]),
        (["--validation-fraction", "0.9"], ["--validation-fraction", "0.5"]),
        (["--cas-steps", "0"], ["--cas-steps", "at least 1"]),
        (["--picture-steps", "-1"], ["--picture-steps", "0 or more"]),
        (["--hours", "0"], ["--hours", "over 0"]),
        (["--public"], ["--public", "--push-to-hub"]),
        (["--resume", "--resume-from=hub"], ["--resume", "--resume-from"]),
        (["--config", "tyni"], ["tyni", "tiny"]),
        (["--config", "absent.yaml"], ["absent.yaml"]),
    ],
)
def test_values_out_of_range_are_named_with_what_is_allowed(flags: list[str], facts: list[str]):
    with pytest.raises(SingleLifeError) as raised:
        parse_arguments(["--life", "sim_1", *flags])
    assert [fact for fact in facts if fact not in str(raised.value)] == []


def test_a_flag_that_does_not_exist_exits_with_2_and_the_nearest(capsys):
    with pytest.raises(SystemExit) as raised:
        parse_arguments(["--life", "sim_1", "--max-step", "3"])
    assert raised.value.code == 2 and "--max-steps" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("settings", "facts"),
    [
        ({"max_stesp": 3}, ["max_stesp", "max_steps"]),
        ({"max_steps": "many"}, ["max_steps", "many", "int"]),
        ({"max_steps": 7.5}, ["max_steps", "7.5", "int"]),
        ({"max_steps": None}, ["max_steps", "int"]),
        ({"max_steps": [1, 2]}, ["max_steps", "[1, 2]"]),
        ({"flip": "maybe"}, ["flip", "true or false"]),
        ({"mixed_precision": False}, ["mixed_precision", "bf16"]),  # what YAML makes of an unquoted no
        ({"resume": True}, ["resume"]),  # of one call
    ],
)
def test_mistakes_in_a_config_are_named(tmp_path: Path, settings: dict, facts: list[str]):
    with pytest.raises(RunError) as raised:
        parse_arguments(["--life", "sim_1", "--config", write(tmp_path / "mine.yaml", **settings)])
    assert [fact for fact in ["mine.yaml", *facts] if fact not in str(raised.value)] == []


@pytest.mark.parametrize(("words", "error"), [([], RunError), (["--life", "sim1"], LifeError)])
def test_a_life_that_is_not_there_names_those_that_are(words: list[str], error: type[SingleLifeError]):
    with pytest.raises(error, match="sim_1"):
        parse_arguments(words)


@pytest.mark.integration
def test_help_explains_every_setting_with_the_lifes_defaults_and_without_torch():
    code = (
        "import runpy, sys\n"
        "try: runpy.run_path('train.py', run_name='__main__')\n"
        "finally: assert 'torch' not in sys.modules, 'torch was imported'"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code, "--life", "sim_1", "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    config = parse_arguments(["--life", "sim_1"])
    for name in [*config.to_dict(), *vars(config.hub), *vars(config.start)]:
        assert f"--{name.replace('_', '-')}" in ran.stdout, name
    assert "default: 7000" in ran.stdout  # of the recipe, not of the class
