"""Settings come from flags, configs and defaults, in that order, and mistakes are named."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from singlelife.errors import LifeError, RunError, SingleLifeError
from singlelife.files import config_names
from singlelife.pretraining.arguments import RunArguments, TrainArguments, parse_arguments

ROOT = Path(__file__).parents[2]


def write(path: Path, **settings: object) -> str:
    path.write_text(yaml.safe_dump(settings))
    return str(path)


def test_a_flag_wins_over_the_config_and_that_over_the_life(tmp_path: Path):
    of_the_life = parse_arguments(["--life", "sim_1"])
    assert of_the_life.train.train_batch_size != TrainArguments().train_batch_size  # the life's own config is read
    config = write(tmp_path / "mine.yaml", train_batch_size=7, max_steps=70, flip=False)
    from_config = parse_arguments(["--life", "sim_1", "--config", config])
    assert (from_config.train.train_batch_size, from_config.train.max_steps, from_config.pairs.flip) == (7, 70, False)
    assert from_config.train.base_learning_rate == of_the_life.train.base_learning_rate
    from_flag = parse_arguments(["--life", "sim_1", "--config", config, "--max-steps", "5", "--flip"])
    assert (from_flag.train.train_batch_size, from_flag.train.max_steps, from_flag.pairs.flip) == (7, 5, True)


def test_the_life_itself_can_come_from_the_config(tmp_path: Path):
    arguments = parse_arguments(["--config", write(tmp_path / "mine.yaml", life="sim_2", learning_rate="6e-4")])
    assert arguments.life.life == "sim_2"
    assert arguments.output_dir == Path("runs/sim_2")
    assert arguments.train.learning_rate == 6e-4  # YAML itself takes 6e-4 for a string


def test_a_run_can_be_started_again_from_its_settings(tmp_path: Path):
    videos = [str(tmp_path / name) for name in ("a.mp4", "b c.mp4")]
    for video in videos:
        Path(video).touch()
    argv = ["--life", "walk", "--video", *videos, "--no-flip", "--seed", "3", "--report-to", "tensorboard"]
    first = parse_arguments([*argv, "--mask-ratio", "0.7"])
    again = parse_arguments(["--config", write(tmp_path / "config.yaml", **first.to_dict())])
    assert again == first
    assert "resume" not in first.to_dict()


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
    assert rate(learning_rate=3e-4) == 3e-4  # the later wins: a config over the recipe,
    assert rate("--base-learning-rate=0.032", learning_rate=3e-4) == 2e-3  # a flag over the config
    assert rate(learning_rate=None, base_learning_rate=0.016) == 1e-3


@pytest.mark.parametrize("flags", [["--learning-rate=1e-3"], ["--base-learning-rate=1e-3"], []])
def test_the_way_the_learning_rate_was_given_is_kept(tmp_path: Path, flags: list[str]):
    first = parse_arguments(["--life", "sim_1", "--config", "base", *flags])
    argv = ["--config", write(tmp_path / "config.yaml", **first.to_dict()), "--train-batch-size=512"]
    scaled = parse_arguments(argv).train.peak_learning_rate / first.train.peak_learning_rate
    assert scaled == (1 if first.train.learning_rate else 2)


@pytest.mark.parametrize("name", config_names("train"))
def test_shipped_configs_are_valid(name: str):
    assert isinstance(parse_arguments(["--life", "sim_1", "--config", name]), RunArguments)


@pytest.mark.parametrize(
    "argv, resume", [([], None), (["--resume"], "latest"), (["--resume", "a/checkpoint-3"], "a/checkpoint-3")]
)
def test_resume_takes_a_path_or_none(argv: list[str], resume: str | None):
    assert parse_arguments(["--life", "sim_1", *argv]).train.resume == resume


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], r"Whose life\? .*sim_1"),
        (["--life", "sim_1", "--max-step", "3"], r"Unrecognized arguments: --max-step 3.* Did you mean --max-steps"),
        (["--life", "sim_1", "--max-steps", "many"], r"--max-steps: invalid int value: 'many'"),
        (
            ["--life", "sim_1", "--pairing", "spatal"],
            r"invalid choice: 'spatal' \(choose from .*temporal.*spatial.*union",
        ),
        (["--life", "sim_1", "--min-overlap", "0"], r"--min-overlap should be over 0 and at most 1, not 0.0"),
        (["--life", "sim_1", "--max-overlap", "0.1"], r"--max-overlap should be from --min-overlap \(0.2\) to 1"),
        (["--life", "sim_1", "--max-overlap", "1.5"], r"--max-overlap should be from"),
        (["--life", "sim_1", "--min-overlap", "nan"], r"--min-overlap should be over 0"),
        (["--life", "sim_1", "--max-neighbours", "0"], r"--max-neighbours should be at least 1"),
        (["--life", "sim_1", "--spatial-rate", "-1"], r"--spatial-rate should be from 0 \(all frames\)"),
        (["--life", "sim_1", "--spatial-weight", "1.1"], r"--spatial-weight should be from 0 to 1"),
        (["--life", "sim_1", "--max-steps", "0"], r"--max-steps should be at least 1, not 0"),
        (["--life", "sim_1", "--mask-ratio", "1"], r"--mask-ratio should be between 0 and 1, not 1.0"),
        (["--life", "sim_1", "--mask-ratio", "nan"], r"--mask-ratio should be between 0 and 1, not nan"),
        (["--life", "sim_1", "--learning-rate", "-1"], r"--learning-rate should be over 0"),
        (["--life", "sim_1", "--learning-rate", "nan"], r"--learning-rate should be over 0"),
        (["--life", "sim_1", "--base-learning-rate", "0"], r"--base-learning-rate should be over 0"),
        (["--life", "sim_1", "--adam-beta2", "1"], r"--adam-beta2 should be from 0 to under 1"),
        (["--life", "sim_1", "--seed", "-1"], r"--seed should be from 0"),
        (["--life", "sim_1", "--validation-fraction", "0.9"], r"--validation-fraction should be from 0 to 0.5"),
        (["--life", "sim_1", "--config", "tyni"], r"no train config named 'tyni'; did you mean .*tiny"),
        (["--life", "sim_1", "--config", "absent.yaml"], r"no config file absent.yaml"),
    ],
)
def test_mistakes_on_the_command_line_are_named(flags: list[str], message: str):
    with pytest.raises(RunError, match=message):
        parse_arguments(flags)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_stesp": 3}, r"mine.yaml sets 'max_stesp', which is not a setting: did you mean max_steps"),
        ({"max_steps": "many"}, r"mine.yaml: Argument --max_steps/--max-steps: invalid int value: 'many'"),
        ({"max_steps": [1, 2]}, r"mine.yaml: Unrecognized arguments: 2"),
        ({"resume": "latest"}, r"'resume', which is not a setting"),
    ],
)
def test_mistakes_in_a_config_are_named(tmp_path: Path, settings: dict, message: str):
    with pytest.raises(RunError, match=message):
        parse_arguments(["--life", "sim_1", "--config", write(tmp_path / "mine.yaml", **settings)])


@pytest.mark.parametrize("content", ["[1, 2]", "a: [", ""])
def test_a_config_that_is_no_mapping_is_refused(tmp_path: Path, content: str):
    (tmp_path / "mine.yaml").write_text(content)
    with pytest.raises(SingleLifeError, match=r"mine\.yaml"):
        parse_arguments(["--life", "sim_1", "--config", str(tmp_path / "mine.yaml")])


def test_an_unknown_life_names_the_nearest():
    with pytest.raises(LifeError, match="sim_1"):
        parse_arguments(["--life", "sim1"])


def test_help_groups_and_explains_every_setting_without_torch():
    code = "import sys, train\ntry: train.main()\nfinally: assert 'torch' not in sys.modules, 'torch was imported'"
    ran = subprocess.run(
        [sys.executable, "-c", code, "--help"], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    assert [line for line in ran.stdout.splitlines() if line.endswith(":") and not line.startswith(" ")] == [
        "options:", "life:", "model:", "pairs:", "training:", "alignment during training:", "Hub:",
    ]  # fmt: skip
    arguments = parse_arguments(["--life", "sim_1"])
    for name in [*arguments.to_dict(), *vars(arguments.hub), "resume", "config"]:
        assert f"--{name.replace('_', '-')}" in ran.stdout
    assert "%(" not in ran.stdout
    assert "--config NAME|PATH" in ran.stdout
