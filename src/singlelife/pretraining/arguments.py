"""Every setting of a pretraining run, from the command line and from YAML.

The command line wins over the `--config` file, that over the life's own config (`train:` in its entry of
`hub_configs/lives`), that over the defaults below. A key of a YAML config is the name of a field.
"""

import argparse
import difflib
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, NoReturn

from transformers.hf_argparser import HfArgumentParser

from singlelife.errors import RunError
from singlelife.files import config_names, hub_configs, read_yaml
from singlelife.lives.pairs.pairing import PAIRINGS, PairSettings
from singlelife.lives.pairs.segments import HELD_OUT
from singlelife.lives.registry import life_names
from singlelife.lives.resolve import life_reference, training_recipe


def option(default: Any, help: str, **kwargs: Any) -> Any:
    """A field that is also a flag: `kwargs` go to `ArgumentParser.add_argument`."""
    return field(default=default, metadata={"help": help, **kwargs})


@dataclass
class LifeArguments:
    """Which life, and where its frames are kept."""

    _argument_group_name = "life"

    life: str | None = option(
        None,
        "the life to learn from: a name that `singlelife lives` lists, any name for your own --video, the folder of a "
        "prepared life, or ORG/NAME (ORG/NAME@REVISION) of one on the Hub",
        metavar="NAME",
    )
    video: list[str] | None = option(  # noqa: RUF009 (the default is None)
        None, "the life's recordings: files, folders or quoted globs, in order of time", metavar="PATH"
    )
    strict: bool = option(False, "stop at a video that cannot be read, instead of going on with the others")
    cache_dir: str | None = option(
        None, "where prepared lives are kept (default: $SINGLELIFE_CACHE or ~/.cache/singlelife)", metavar="PATH"
    )
    preprocessing_workers: int | None = option(
        None, "processes that decode videos (default: one per video, at most one per core)", metavar="N"
    )
    decoded_frames: bool = option(
        False,
        "read a decoded copy of the frames, made beside them: about ten times their room on the disk for half the "
        "loader's time, and the same losses; for where `data wait` is more than a few percent",
    )


@dataclass
class ModelArguments:
    """Which model to start from."""

    _argument_group_name = "model"

    model: str = option(
        "base",
        "a preset of hub_configs/models or a YAML file of CroCoConfig fields (new weights), or a checkpoint folder "
        "(its weights)",
        metavar="NAME|PATH",
    )
    image_size: int | None = option(None, "side of the square views in pixels, instead of the model's", metavar="PX")
    mask_ratio: float | None = option(
        None, "share of the target's patches to mask, between 0 and 1, instead of the model's", metavar="SHARE"
    )


@dataclass
class PairArguments:
    """Which two frames make a pair, and how they are cut and coloured."""

    _argument_group_name = "pairs"

    pairing: str = option(
        "temporal",
        "the rule that picks the two frames. "
        + "; ".join(f"{name}: {pairing.summary}" for name, pairing in PAIRINGS.items()),
        choices=tuple(PAIRINGS),
    )
    min_gap: float = option(
        PairSettings.min_gap, "shortest time between the frames of a temporal pair, in seconds", metavar="S"
    )
    max_gap: float = option(
        PairSettings.max_gap, "longest time between the frames of a temporal pair, in seconds", metavar="S"
    )
    min_overlap: float = option(
        PairSettings.min_overlap,
        "least overlap of the frames of a spatial pair: the visible points in common over those of either",
        metavar="SHARE",
    )
    max_overlap: float = option(
        PairSettings.max_overlap,
        "largest overlap of the frames of a spatial pair; more is nearly the same view twice",
        metavar="SHARE",
    )
    max_neighbours: int = option(
        PairSettings.max_neighbours,
        "sources to keep of each target of spatial pairs, drawn among those that overlap",
        metavar="N",
    )
    spatial_rate: float = option(
        PairSettings.spatial_rate,
        "frames per second, at most, to look for spatial pairs among (0: all; 1 is enough for a life of days)",
        metavar="HZ",
    )
    spatial_weight: float = option(
        PairSettings.spatial_weight, "share of spatial pairs in the pairing `union`", metavar="SHARE"
    )
    crop_area_min: float = option(0.3, "smallest random crop, as a share of the frame's square", metavar="SHARE")
    crop_area_max: float = option(1.0, "largest random crop, as a share of the frame's square", metavar="SHARE")
    crop_aspect: float = option(4 / 3, "most elongated random crop: width over height is from 1/X to X", metavar="X")
    shared_crop: bool = option(False, "cut both views with the same box (by default each has its own)")
    flip: bool = option(True, "mirror both views of half the pairs")
    color_jitter: float = option(
        0.0, "change brightness, contrast and saturation of both views alike by up to this share", metavar="SHARE"
    )
    validation_fraction: float = option(
        HELD_OUT, "share of the life held out, in whole stretches, for the validation loss (0: none)", metavar="SHARE"
    )

    hours: float | None = option(
        None,
        "train on the first H hours of the life alone, by recording time over its videos in their order (default: on "
        "all of it); what is held out stays that of the whole life, so that runs of several durations compare",
        metavar="H",
    )

    @property
    def settings(self) -> PairSettings:
        """What the pairings read of them."""
        return PairSettings(**{f.name: getattr(self, f.name) for f in fields(PairSettings)})


BATCH_OF_BASE_RATE = 256


@dataclass
class TrainArguments:
    """How long and how to train, and what to write."""

    _argument_group_name = "training"

    output_dir: str | None = option(None, "the run folder (default: runs/<life>)", metavar="PATH")
    dry_run: bool = option(
        False,
        "make a few steps and say what all of them would take in time, memory and disk; nothing is written but the "
        "prepared life, where that is missing",
    )
    overwrite_output_dir: bool = option(False, "delete the run that the run folder holds and start anew")
    resume: bool = option(False, "go on from the run folder's latest checkpoint, or start where it has none yet")
    resume_from: str | None = option(
        None,
        "go on from this checkpoint folder; or `hub`: from what --push-to-hub put on the Hub, if that is newer than "
        "the run folder's latest checkpoint",
        metavar="PATH|hub",
    )
    seed: int = option(0, "of the weights, pairs, crops and masks", metavar="N")
    max_steps: int = option(100_000, "optimiser steps", metavar="N")
    train_batch_size: int = option(
        256, "pairs per optimiser step, over all processes and accumulated batches", metavar="N"
    )
    gradient_accumulation_steps: int = option(1, "batches per optimiser step", metavar="N")
    base_learning_rate: float | None = option(
        1.5e-4,
        "the learning rate at its peak, after the warm-up, for steps of 256 pairs; a run's own is this times its "
        "--train-batch-size over 256",
        metavar="LR",
    )
    learning_rate: float | None = option(
        None,
        "the learning rate at its peak as it is, whatever the batch; instead of --base-learning-rate",
        metavar="LR",
    )
    warmup_steps: int = option(2_000, "steps of linear warm-up", metavar="N")
    min_lr_rate: float = option(0.0, "where the cosine ends, as a share of the learning rate", metavar="SHARE")
    weight_decay: float = option(
        0.05, "AdamW's, on matrices only (not on biases, norms, tokens, positions)", metavar="X"
    )
    adam_beta1: float = option(0.9, "AdamW's first beta", metavar="X")
    adam_beta2: float = option(0.95, "AdamW's second beta", metavar="X")
    max_grad_norm: float = option(1.0, "the gradient is scaled down to this norm (0: never)", metavar="X")
    max_skipped_steps: int = option(
        10, "a step whose loss is not finite changes nothing; the run stops after more than N in a row", metavar="N"
    )
    mixed_precision: Literal["auto", "no", "bf16", "fp16"] = option(
        "auto",
        "number format of the matrix products; auto: what `accelerate launch` was told, else bf16 on a GPU that "
        "has it, and on a CPU if timed steps are faster; a resumed run keeps its choice",
    )
    attention: Literal["auto", "sdpa", "eager"] = option(
        "auto",
        "how attention is computed: fused (sdpa) or step by step (eager); auto: fused on a GPU, and on a CPU "
        "whichever timed steps are faster with; a resumed run keeps its choice",
    )
    gradient_checkpointing: Literal["none", "encoder", "decoder", "all"] = option(
        "none",
        "blocks whose activations are computed again in the backward pass instead of kept, to need less memory; "
        "without a value: all",
        nargs="?",
        const="all",
    )
    torch_compile: bool = option(False, "compile the model (minutes at the start, faster steps on a GPU)")
    cpu_threads: int | None = option(
        None, "threads of each process on a CPU (default: $OMP_NUM_THREADS, or all cores)", metavar="N"
    )
    dataloader_num_workers: int = option(2, "processes that read pairs, per training process", metavar="N")
    logging_steps: int = option(25, "steps between lines of metrics.jsonl", metavar="N")
    eval_steps: int = option(500, "steps between validation losses", metavar="N")
    eval_pairs: int = option(256, "validation pairs, the same ones each time", metavar="N")
    picture_steps: int = option(
        5_000, "steps between pictures of what it has learnt, kept in pictures/ (0: only at the end)", metavar="N"
    )
    save_steps: int = option(500, "steps between checkpoints", metavar="N")
    save_total_limit: int | None = option(2, "checkpoints to keep, the latest ones", metavar="N")
    keep_best: bool = option(
        True,
        "keep also the checkpoint with the lowest validation loss, of those saved at a step that was validated",
    )
    report_to: list[str] | None = option(  # noqa: RUF009 (the default is None)
        None, "trackers of Accelerate to log to as well: tensorboard, trackio, wandb ...", metavar="TRACKER"
    )

    @property
    def peak_learning_rate(self) -> float:
        """What the warm-up leads to: proportional to the batch (Goyal et al., 2017), as MAE and CroCo have it, unless
        it was given as it is."""
        if self.learning_rate is not None:
            return self.learning_rate
        assert self.base_learning_rate is not None, "parse_arguments makes sure of it"
        return self.base_learning_rate * self.train_batch_size / BATCH_OF_BASE_RATE


@dataclass
class AlignmentArguments:
    """Whether to measure, as it trains, how far the model agrees with another one."""

    _argument_group_name = "alignment during training"

    cas_reference: str | None = option(
        None,
        "a model to compare with as training goes on: a run folder, a checkpoint, or ORG/NAME on the Hub (default: "
        "none)",
        metavar="MODEL",
    )
    cas_steps: int = option(500, "steps between comparisons; the first is before training", metavar="N")
    cas_pairs: str = option(
        "sim_test",
        "the life to compare on, best one that neither has seen; LIFE/zoomed and LIFE/shifted are other views of it",
        metavar="LIFE[/VIEWS]",
    )
    cas_num_pairs: int = option(128, "pairs of that life", metavar="N")


@dataclass
class HubArguments:
    """Whether and where the model is published while it is trained. Not among a run's settings: it changes nothing."""

    _argument_group_name = "Hub"

    push_to_hub: bool = option(
        False,
        "push the model to the Hub as the run goes on and at its end, privately; a Hub that cannot be reached never "
        "stops the run. Needs `hf auth login` or HF_TOKEN",
    )
    hub_model_id: str | None = option(
        None,
        "the repository: ORG/NAME, or NAME in your own namespace (default: the life's name, such as singlelife-wt3)",
        metavar="REPO",
    )
    public: bool = option(False, "let everybody see what is pushed, if the licence and the people in it allow it")
    push_steps: int | None = option(
        None, "least steps between pushes, which are of saved checkpoints (default: half an hour apart)", metavar="N"
    )
    push_training_state: bool = option(
        True, "push also what --resume-from hub needs, three times the model's size, to a branch of its own"
    )


GROUPS: tuple[Any, ...] = (
    LifeArguments,
    ModelArguments,
    PairArguments,
    TrainArguments,
    AlignmentArguments,
    HubArguments,
)

# What a resumed run may change, because the sequence of losses does not depend on it (of the model, its own config is
# compared instead of the settings that lead to it).
FREE_ON_RESUME = {
    *("model", "image_size", "mask_ratio"),
    *("video", "strict", "cache_dir", "preprocessing_workers", "decoded_frames", "output_dir"),
    *("gradient_accumulation_steps", "gradient_checkpointing", "torch_compile", "cpu_threads"),
    *("dataloader_num_workers", "logging_steps", "eval_steps", "eval_pairs", "save_steps", "save_total_limit"),
    *("picture_steps", "cas_reference", "cas_steps", "cas_pairs", "cas_num_pairs"),
    *("keep_best", "report_to", "max_skipped_steps"),
}
# What belongs to one call, not to the run, so neither read from nor written to a config.
_CALL_ONLY = {"resume", "resume_from", "overwrite_output_dir", "dry_run"}


@dataclass
class RunArguments:
    """All settings of one run."""

    life: LifeArguments
    model: ModelArguments
    pairs: PairArguments
    train: TrainArguments
    alignment: AlignmentArguments
    hub: HubArguments

    def to_dict(self) -> dict[str, Any]:
        """The run's settings by field name, as in a YAML config."""
        groups = (self.life, self.model, self.pairs, self.train, self.alignment)
        values = {f.name: getattr(group, f.name) for group in groups for f in fields(group)}
        return {name: value for name, value in values.items() if name not in _CALL_ONLY}

    @property
    def life_name(self) -> str:
        """Of the life here: of ORG/NAME, the NAME."""
        assert self.life.life, "parse_arguments makes sure of it"
        return life_reference(self.life.life, self.life.video).name

    @property
    def output_dir(self) -> Path:
        return Path(self.train.output_dir or f"runs/{self.life_name}")


def parse_arguments(argv: Sequence[str] | None = None, *, here: bool = True) -> RunArguments:
    """Settings of a run from the command line (`sys.argv` by default) and the configs that it leads to.

    Args:
        here: a registered life's videos should be here; not so for a run that is only planned.

    Raises:
        RunError: an unknown flag or key (with the nearest names), a value of the wrong type or out of its range.
        LifeError: no life of that name (with the nearest names).
    """
    words = list(sys.argv[1:] if argv is None else argv)
    parser = _Parser()
    config = parser.parse_args(words).config
    if config:
        words = parser.words_of_config(config) + words
    named = parser.parse_args(words)
    if not named.life:
        raise RunError(
            "Whose life? Pass --life with any name and your own --video PATH, ORG/NAME on the Hub, or one of these "
            f"names: {', '.join(life_names())}."
        )
    words = parser.words_of_config(training_recipe(named.life, named.video, here=here)) + words
    *groups, _ = parser.parse_args_into_dataclasses(words, look_for_args_file=False)
    arguments = RunArguments(*groups)
    _settle_rate(arguments.train, words)
    _check_ranges(arguments)
    return arguments


def _settle_rate(train: TrainArguments, words: list[str]) -> None:
    """Of the two ways to give the learning rate, leave the one that was given last: a flag wins over a config."""
    flags = {"--learning-rate": "learning_rate", "--base-learning-rate": "base_learning_rate"}
    given = [flag for word in words if (flag := word.split("=")[0].replace("_", "-")) in flags]
    in_force = flags[given[-1]] if given else "base_learning_rate"
    for name in flags.values():
        if name != in_force:
            setattr(train, name, None)


class _Parser(HfArgumentParser):
    """The flags of all groups. What the user got wrong is raised, with the nearest names, instead of printed."""

    def __init__(self) -> None:
        super().__init__(
            GROUPS,
            prog="train.py",
            usage="%(prog)s --life NAME [options]     (or: accelerate launch %(prog)s ...)",
            description="Pretrain one CroCo model on one life.",
            epilog="A run that is stopped (Ctrl-C, SIGTERM) ends its step, saves a checkpoint and exits with 128 + "
            "the signal's number (130, 143); go on with the same command and --resume.",
            formatter_class=_HelpFormatter,
            allow_abbrev=False,
        )
        self.add_argument(
            "--config",
            metavar="NAME|PATH",
            help=f"settings by name ({', '.join(config_names('train'))}) or from a YAML file, such as another run's "
            "config.yaml; flags win over it",
        )
        self.names = [f.name for group in GROUPS for f in fields(group) if f.name not in _CALL_ONLY]

    def error(self, message: str) -> NoReturn:
        flags = [word.split("=")[0] for word in message.split() if word.startswith("--")]
        known = [flag for flag in self._option_string_actions if "_" not in flag]
        near = [n for flag in flags if flag not in known for n in difflib.get_close_matches(flag, known, n=2)]
        hint = f" Did you mean {' or '.join(near)}?" if near else ""
        raise RunError(f"{message[0].upper()}{message[1:]}.{hint} `train.py --help` lists all flags.")

    def words_of_config(self, name_or_path: str) -> list[str]:
        """A YAML config as the command line that says the same, so that both are read and checked alike."""
        path = config_path("train", name_or_path)
        words = []
        for key, value in read_yaml(path).items():
            if key not in self.names:
                near = difflib.get_close_matches(str(key), self.names, n=3)
                hint = f"did you mean {' or '.join(near)}?" if near else "`train.py --help` lists all names."
                raise RunError(f"{path} sets {key!r}, which is not a setting: {hint}")
            flag = f"--{key.replace('_', '-')}"
            if isinstance(value, list):
                words += [flag, *map(str, value)]
            elif value is not None:
                words.append(f"{flag}={value}")
        try:
            self.parse_args(words)
        except RunError as error:
            raise RunError(f"{path}: {error}") from None
        return words


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """One spelling of each flag, and a default only where it says something."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=34, width=min(120, shutil.get_terminal_size().columns))

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if not action.option_strings:
            return super()._format_action_invocation(action)
        flag = action.option_strings[-1]
        takes_value = action.nargs != 0 and action.metavar is not None
        if action.choices:
            return f"{flag} {{{','.join(map(str, action.choices))}}}"
        return f"{flag} {action.metavar}" if takes_value else flag

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.nargs == 0 and action.default is not argparse.SUPPRESS:  # --no-flip, made of --flip
            return "the opposite"
        if isinstance(action.default, bool):
            return f"{action.help} (the default)" if action.default else action.help
        if isinstance(action.default, float):
            return f"{action.help} (default: {action.default:.4g})"
        return super()._get_help_string(action) if action.default is not None else action.help


def config_path(kind: str, name_or_path: str) -> Path:
    """The YAML file of a shipped config's name, or of a path (it has a separator or ends in .yaml or .yml).

    Raises:
        RunError: no such name (with the nearest ones) or file.
    """
    path = Path(name_or_path)
    if path.suffix in (".yaml", ".yml") or len(path.parts) > 1:
        if not path.is_file():
            raise RunError(f"There is no config file {path}.")
        return path
    names = config_names(kind)
    if name_or_path not in names:
        near = difflib.get_close_matches(name_or_path, names, n=3) or names
        raise RunError(
            f"There is no {kind} config named {name_or_path!r}; did you mean {' or '.join(near)}? "
            "A file's path should end in .yaml."
        )
    return hub_configs() / kind / f"{name_or_path}.yaml"


def _check_ranges(arguments: RunArguments) -> None:
    train, pairs, model, alignment = arguments.train, arguments.pairs, arguments.model, arguments.alignment
    positive_integers = (
        *("max_steps", "train_batch_size", "gradient_accumulation_steps", "logging_steps", "eval_steps"),
        *("eval_pairs", "save_steps", "save_total_limit", "cpu_threads"),
    )
    for name in positive_integers:
        value = getattr(train, name)
        _require(value is None or value >= 1, name, value, "at least 1")
    for name in ("cas_steps", "cas_num_pairs"):
        _require(getattr(alignment, name) >= 1, name, getattr(alignment, name), "at least 1")
    for name in (
        "picture_steps",
        "warmup_steps",
        "dataloader_num_workers",
        "weight_decay",
        "max_grad_norm",
        "max_skipped_steps",
    ):
        _require(getattr(train, name) >= 0, name, getattr(train, name), "0 or more")
    for name in ("base_learning_rate", "learning_rate"):
        value = getattr(train, name)
        _require(value is None or value > 0, name, value, "over 0")
    _require(0 <= train.min_lr_rate <= 1, "min_lr_rate", train.min_lr_rate, "from 0 to 1")
    for name in ("adam_beta1", "adam_beta2"):
        _require(0 <= getattr(train, name) < 1, name, getattr(train, name), "from 0 to under 1")
    _require(0 <= train.seed < 2**63, "seed", train.seed, "from 0 to 2**63 - 1")
    _require(model.mask_ratio is None or 0 < model.mask_ratio < 1, "mask_ratio", model.mask_ratio, "between 0 and 1")
    _require(model.image_size is None or model.image_size >= 1, "image_size", model.image_size, "at least 1")
    _require(0 < pairs.min_overlap <= 1, "min_overlap", pairs.min_overlap, "over 0 and at most 1")
    _require(
        pairs.min_overlap <= pairs.max_overlap <= 1,
        "max_overlap",
        pairs.max_overlap,
        f"from --min-overlap ({pairs.min_overlap:g}) to 1",
    )
    _require(pairs.max_neighbours >= 1, "max_neighbours", pairs.max_neighbours, "at least 1")
    _require(0 <= pairs.spatial_rate <= 1000, "spatial_rate", pairs.spatial_rate, "from 0 (all frames) to 1000")
    _require(0 <= pairs.spatial_weight <= 1, "spatial_weight", pairs.spatial_weight, "from 0 to 1")
    _require(0 <= pairs.color_jitter <= 1, "color_jitter", pairs.color_jitter, "from 0 to 1")
    _check_hub(arguments.hub)
    _require(pairs.hours is None or pairs.hours > 0, "hours", pairs.hours, "over 0")
    _require(0 <= pairs.validation_fraction <= 0.5, "validation_fraction", pairs.validation_fraction, "from 0 to 0.5")


def _check_hub(hub: HubArguments) -> None:
    _require(hub.push_steps is None or hub.push_steps >= 1, "push_steps", hub.push_steps, "at least 1")
    if not hub.push_to_hub and (hub.public or hub.push_steps):
        raise RunError("--public and --push-steps say how to push, and nothing is pushed without --push-to-hub.")


def _require(holds: bool, name: str, value: Any, range_: str) -> None:
    if not holds:
        raise RunError(f"--{name.replace('_', '-')} should be {range_}, not {value}.")
