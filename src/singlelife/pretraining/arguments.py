"""Every setting of a pretraining run, written once for the command line, YAML and Python.

Each layer of values overrides the one before it: the defaults below, the life's own recipe (`train:` in its entry in
`hub_configs/lives` names a file in `hub_configs/train`), the `--config` file, the flags. The keys of a YAML config are
the names of fields.
"""

import argparse
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields
from inspect import cleandoc
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import tyro
import yaml

from singlelife.errors import RunError
from singlelife.files import config_names, hub_configs, read_yaml
from singlelife.flags import parse_flags
from singlelife.lives.pairs.pairing import PAIRINGS, PairSettings
from singlelife.lives.pairs.segments import HELD_OUT
from singlelife.lives.registry import EXAMPLES, Life
from singlelife.lives.resolve import life_reference, training_recipe
from singlelife.text import did_you_mean

BATCH_OF_BASE_RATE = 256

_PAIRING = tyro.conf.arg(
    metavar="|".join(PAIRINGS),
    help="the rule that picks the two frames. " + "; ".join(f"{n}: {rule.summary}" for n, rule in PAIRINGS.items()),
)


@dataclass(frozen=True)
class StartConfig:
    """How to start. These flags are for one command only: a config cannot set them, and a run does not save them."""

    config: str | None = None
    """settings by name (a file in hub_configs/train: tiny, base) or from a YAML file, such as another run's
    config.yaml; flags override it"""
    print_config: bool = False
    """print all settings as YAML with the source of each, and stop"""
    resume: bool = False
    """continue from the run folder's latest checkpoint, or start if there is none yet; the losses are exactly those of
    a run that never stopped"""
    resume_from: str | None = None
    """continue from this checkpoint folder"""

    def __post_init__(self) -> None:
        if self.resume and self.resume_from is not None:
            raise RunError("Pass only one of --resume and --resume-from.")


@dataclass(frozen=True)
class LifeConfig:
    """Which life to learn from, and where its frames are stored."""

    life: str | None = None
    """a name that `singlelife lives` lists, any name for your own --video, the folder of a prepared life, or ORG/NAME
    (ORG/NAME@REVISION) of one on the Hub"""
    video: tuple[str, ...] | None = None
    """the life's recordings: files, folders or quoted globs, in order of time"""
    cache_dir: str | None = None
    """where prepared lives are stored (default: $SINGLELIFE_CACHE or ~/.cache/singlelife)"""


@dataclass(frozen=True)
class ModelConfig:
    """Which model to start from."""

    model_type: Literal["croco", "vit_mae"] = "croco"
    """what to train; vit_mae is a baseline, a masked autoencoder with the same encoder that sees only the target
    views"""
    model: str = "base"
    """a preset in hub_configs/models or a YAML file of CroCoConfig fields (new weights), or a checkpoint folder (its
    weights)"""
    image_size: int | None = None
    """side of the square views in pixels, instead of the model's"""
    mask_ratio: float | None = None
    """share of the target's patches to mask, between 0 and 1, instead of the model's"""

    def __post_init__(self) -> None:
        _at_least(1, self, "image_size")
        _require(self.mask_ratio is None or 0 < self.mask_ratio < 1, "mask_ratio", self.mask_ratio, "between 0 and 1")


@dataclass(frozen=True)
class PairConfig(PairSettings):
    """Which two frames make a pair, and how they are cropped and coloured."""

    pairing: Annotated[str, _PAIRING] = "temporal"
    crop_area_min: float = 0.3
    """smallest random crop, as a share of the frame's square"""
    crop_area_max: float = 1.0
    """largest random crop, as a share of the frame's square"""
    crop_aspect: float = 4 / 3
    """most elongated random crop: width over height is from 1/X to X"""
    shared_crop: bool = False
    """crop both views with the same box (by default each has its own)"""
    flip: bool = True
    """mirror both views in half of the pairs"""
    color_jitter: float = 0.0
    """change brightness, contrast and saturation by up to this share"""
    shared_color: bool = True
    """change the colours of both views in the same way (--no-shared-color: each view in its own way)"""
    validation_fraction: float = HELD_OUT
    """share of the life to hold out for the validation loss, in whole stretches (0: none)"""
    hours: float | None = None
    """train only on the first H hours of the life: recording time, over its videos in order. The held-out stretches
    stay those of the whole life, so that runs on different durations can be compared"""

    def __post_init__(self) -> None:
        if self.pairing not in PAIRINGS:
            raise RunError(f"--pairing should be one of {', '.join(PAIRINGS)}, not {self.pairing!r}.")
        super().__post_init__()
        _require(0 <= self.color_jitter <= 1, "color_jitter", self.color_jitter, "from 0 to 1")
        _require(self.hours is None or self.hours > 0, "hours", self.hours, "over 0")
        held_out = self.validation_fraction
        _require(0 <= held_out <= 0.5, "validation_fraction", held_out, "from 0 to 0.5")


@dataclass(frozen=True)
class TrainConfig:
    """How long and how to train, and what to write."""

    output_dir: str | None = None
    """the run folder (default: runs/<life>)"""
    seed: int = 0
    """seed for pairs, crops, masks and colours and, together with the life's name, for the initial weights"""
    max_steps: int = 100_000
    """optimiser steps"""
    train_batch_size: int = 256
    """pairs per optimiser step, over all processes and accumulated batches"""
    gradient_accumulation_steps: int = 1
    """batches per optimiser step"""
    base_learning_rate: float | None = 1.5e-4
    """peak learning rate for steps of 256 pairs; the run multiplies it by --train-batch-size / 256"""
    learning_rate: float | None = None
    """peak learning rate, whatever the batch; overrides --base-learning-rate"""
    warmup_ratio: float = 0.02
    """length of the linear warm-up, as a share of the steps"""
    warmup_steps: int | None = None
    """length of the linear warm-up, in steps; overrides --warmup-ratio"""
    min_lr_rate: float = 0.0
    """end of the cosine, as a share of the peak learning rate"""
    weight_decay: float = 0.05
    """AdamW's weight decay, for matrices only (not biases, norms, tokens, positions)"""
    adam_beta1: float = 0.9
    """AdamW's first beta"""
    adam_beta2: float = 0.95
    """AdamW's second beta"""
    max_grad_norm: float = 1.0
    """scale larger gradients down to this norm (0: never)"""
    max_skipped_steps: int = 10
    """a step whose loss or gradient is not finite changes nothing; the run stops after more than N in a row"""
    mixed_precision: Literal["auto", "no", "bf16", "fp16"] = "auto"
    """number format of the matrix products. auto: the one given to `accelerate launch`; otherwise bf16 on a GPU that
    has it, and on a CPU the format whose steps are faster when timed. A resumed run keeps its choice"""
    attention: Literal["auto", "sdpa", "eager"] = "auto"
    """how to compute attention: fused (sdpa) or step by step (eager); auto is sdpa; a CPU trains step by step with
    either; a resumed run keeps its choice"""
    gradient_checkpointing: Literal["none", "encoder", "decoder", "all"] = "none"
    """blocks that compute their activations again in the backward pass instead of storing them: less memory, slower"""
    torch_compile: bool = False
    """compile the model (minutes at the start, faster steps on a GPU)"""
    cpu_threads: int | None = None
    """threads of each process on a CPU (default: $OMP_NUM_THREADS, or all cores)"""
    dataloader_num_workers: int = 2
    """processes that read pairs, per training process"""
    logging_steps: int = 25
    """steps between lines of metrics.jsonl"""
    eval_steps: int = 500
    """steps between validation losses"""
    eval_pairs: int = 256
    """number of validation pairs, the same ones each time"""
    picture_steps: int = 5_000
    """steps between pictures of what the model has learnt, in pictures/ (0: only at the end). A new run also draws
    them before its first step and after 100, 200, 400 ... steps"""
    save_steps: int = 500
    """steps between checkpoints"""
    save_total_limit: int | None = 2
    """how many of the latest checkpoints to keep (0: all)"""
    report_to: tuple[str, ...] | None = None
    """also log to these trackers of Accelerate: tensorboard, trackio, wandb ..."""

    def __post_init__(self) -> None:
        _at_least(1, self, "max_steps", "train_batch_size", "gradient_accumulation_steps", "logging_steps")
        _at_least(1, self, "eval_steps", "eval_pairs", "save_steps", "cpu_threads")
        _at_least(0, self, "save_total_limit", "picture_steps", "warmup_steps", "dataloader_num_workers")
        _at_least(0, self, "max_skipped_steps", "weight_decay", "max_grad_norm")
        for name in ("base_learning_rate", "learning_rate"):
            value = getattr(self, name)
            _require(value is None or value > 0, name, value, "over 0")
        if self.learning_rate is None and self.base_learning_rate is None:
            raise RunError("--learning-rate and --base-learning-rate are both None: give one of them.")
        for name in ("min_lr_rate", "warmup_ratio"):
            _require(0 <= getattr(self, name) <= 1, name, getattr(self, name), "from 0 to 1")
        for name in ("adam_beta1", "adam_beta2"):
            _require(0 <= getattr(self, name) < 1, name, getattr(self, name), "from 0 to under 1")
        _require(0 <= self.seed < 2**63, "seed", self.seed, "from 0 to 2**63 - 1")

    @property
    def peak_learning_rate(self) -> float:
        """The rate at the end of the warm-up: `learning_rate` if given, otherwise proportional to the batch (Goyal et
        al., 2017), as in MAE and CroCo."""
        if self.learning_rate is not None:
            return self.learning_rate
        assert self.base_learning_rate is not None, "__post_init__ checks this"
        return self.base_learning_rate * self.train_batch_size / BATCH_OF_BASE_RATE

    @property
    def warmup(self) -> int:
        """Steps of linear warm-up: `warmup_steps` if given, otherwise a share of the run."""
        return round(self.warmup_ratio * self.max_steps) if self.warmup_steps is None else self.warmup_steps


@dataclass(frozen=True)
class HubConfig:
    """Whether and where to publish the model. This does not affect the run, so its config does not keep it."""

    push_to_hub: bool = False
    """push the model to the Hub during training and at the end, to a private repository. If the Hub cannot be reached,
    the run continues. This needs `hf auth login` or HF_TOKEN"""
    hub_model_id: str | None = None
    """the repository: ORG/NAME, or NAME in your own namespace (default: the life's name, such as singlelife-wt3)"""
    public: bool = False
    """push to a public repository; check first that the licence and the people in the video allow it"""
    push_steps: int | None = None
    """wait at least N steps between pushes (default: at least half an hour)"""
    push_training_state: bool = True
    """also push the checkpoint to a separate branch, so that the run can continue on another machine; it is three
    times the model's size"""

    def __post_init__(self) -> None:
        _at_least(1, self, "push_steps")
        if not self.push_to_hub and (self.public or self.push_steps):
            raise RunError("--public and --push-steps have no effect without --push-to-hub; add it.")


@dataclass(frozen=True)
class RunConfig:
    """Pretrain one CroCo model on one life.

    When you stop a run (Ctrl-C, SIGTERM, a closed terminal), it finishes its step, saves a checkpoint and exits with
    128 + the signal's number (130, 143, 129). The same command with --resume continues it. For several processes or
    GPUs: accelerate launch train.py ...
    """

    start: StartConfig = field(default_factory=StartConfig)
    life: LifeConfig = field(default_factory=LifeConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    pairs: PairConfig = field(default_factory=PairConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    hub: HubConfig = field(default_factory=HubConfig)
    origins: Annotated[Any, tyro.conf.Fixed, tyro.conf.Suppress] = field(default_factory=dict)
    """the source of each value that is not the default, by field name"""

    def __post_init__(self) -> None:
        if self.hub.push_to_hub and self.model.model_type != "croco":
            raise RunError(f"--push-to-hub is for CroCo models; --model-type {self.model.model_type} is a baseline.")

    def to_dict(self) -> dict[str, Any]:
        """The run's settings by field name, as in a YAML config."""
        groups = (self.life, self.model, self.pairs, self.train)
        values = {f.name: getattr(group, f.name) for group in groups for f in fields(group)}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    @property
    def life_name(self) -> str:
        """The life's name on this machine: NAME for ORG/NAME. Raises LifeError for a path without a prepared life."""
        assert self.life.life, "parse_arguments checks this"
        return life_reference(self.life.life, self.life.video).name

    @property
    def output_dir(self) -> Path:
        """The run folder."""
        return Path(self.train.output_dir or f"runs/{self.life_name}")


FREE_ON_RESUME = {  # what a resumed run may change, because the sequence of losses does not depend on it
    *("model", "image_size", "mask_ratio"),  # the model's config is compared instead
    *("video", "cache_dir", "output_dir"),
    *("gradient_accumulation_steps", "gradient_checkpointing", "torch_compile", "cpu_threads"),
    *("dataloader_num_workers", "logging_steps", "eval_steps", "eval_pairs", "save_steps", "save_total_limit"),
    *("picture_steps", "report_to", "max_skipped_steps"),
}

# Settings of earlier versions, which old runs still have in their configs. None of them changed a loss.
_RETIRED = {"decoded_frames", "keep_best", "strict", "preprocessing_workers"}
_RETIRED |= {"cas_reference", "cas_steps", "cas_pairs", "cas_num_pairs"}
_GROUPS: dict[str, Any] = {n: kind for n, kind in get_type_hints(RunConfig).items() if n != "origins"}
_TYPES = {n: kind for group in _GROUPS.values() for n, kind in get_type_hints(group).items()}
_NAMES = {f.name for name, group in _GROUPS.items() if name != "start" for f in fields(group)}  # keys of a YAML config
_WINS_OVER = {"learning_rate": "base_learning_rate", "warmup_steps": "warmup_ratio"}


def parse_arguments(words: Sequence[str]) -> RunConfig:
    """The settings of a run from a command line and the configs that it names, with the source of each.

    A layer that sets, say, `base_learning_rate` removes `learning_rate` from the layers below: it would override it.

    Raises:
        RunError: a config has an unknown key (the nearest names follow), or a value has the wrong type or range.
        LifeError: there is no life with that name (the nearest names follow).
        SystemExit: --help (0), or flags that do not exist or cannot be read (2).
    """
    words = list(words)
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--config", nargs="?")
    first.add_argument("--life", nargs="?")
    first.add_argument("--video", nargs="*")
    first.add_argument("--cache-dir", nargs="?")
    named, _ = first.parse_known_args(words)
    for_help = bool({"-h", "--help"} & set(words))
    given = {word.partition("=")[0][2:].replace("-", "_").removeprefix("no_") for word in words if word[:2] == "--"}
    of_config: dict[str, Any] = read_config(named.config) if named.config else {}
    if life := named.life or of_config.get("life"):
        where = named.cache_dir or of_config.get("cache_dir")
        recipe = training_recipe(life, named.video or of_config.get("video"), where)
    elif for_help:
        recipe = Life.train
    else:
        raise RunError(
            "Whose life? Pass --life with any name and your own --video PATH, ORG/NAME on the Hub, or a name that "
            f"`singlelife lives` lists, such as {' or '.join(EXAMPLES)}."
        )
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    layers = {f"recipe {recipe}": read_config(recipe), f"--config {named.config}": of_config}
    for origin, layer in (*layers.items(), ("flag", dict.fromkeys(given & _TYPES.keys()))):
        for winner, loser in _WINS_OVER.items():
            if loser in layer and winner not in layer:
                values.pop(winner, None)
        values |= layer if origin != "flag" else {}  # tyro reads these
        origins = {name: of for name, of in origins.items() if name in values} | dict.fromkeys(layer, origin)
    groups = {n: {k: values[k] for k in get_type_hints(group) if k in values} for n, group in _GROUPS.items()}
    made: dict[str, Any] = {name: _GROUPS[name](**kept) for name, kept in groups.items()}
    default = RunConfig(**made, origins=origins)
    about = f"{cleandoc(RunConfig.__doc__ or '')}\n\nThe values below come from: {_sources(default)}."
    return parse_flags(RunConfig, "train.py", words, default, about if for_help else None)


def _sources(config: RunConfig) -> str:
    """The sources of the settings, in a sentence; settings that it does not name are the package's defaults."""
    names: dict[str, list[str]] = {}
    for name, source in config.origins.items():
        if source != "flag":
            names.setdefault(source, []).append(name)
    return "; ".join([f"{source} ({', '.join(of)})" for source, of in names.items()] + ["the package's defaults"])


def annotated_yaml(config: RunConfig) -> str:
    """The settings as a YAML config, each with its source; comments at the top give the learning rate and warm-up."""
    train, lines = config.train, []
    for name, value in config.to_dict().items():
        written = yaml.safe_dump([value], default_flow_style=True, width=2**16).strip()[1:-1]  # on one line
        lines.append(f"{name}: {written}  # {config.origins.get(name, 'default')}\n")
    return (
        f"# Learning rate at its peak: {learning_rate_report(train)}\n"
        f"# Warm-up: {train.warmup:,} of {train.max_steps:,} steps\n{''.join(lines)}"
    )


def learning_rate_report(train: TrainConfig) -> str:
    """The peak learning rate, and how it was computed."""
    how = "as asked for"
    if train.learning_rate is None:
        how = f"{train.base_learning_rate:g} × {train.train_batch_size} / {BATCH_OF_BASE_RATE}"
    return f"{train.peak_learning_rate:g} ({how})"


def read_config(name_or_path: str) -> dict[str, Any]:
    """The settings in a YAML config by field name, each converted to its field's type.

    Args:
        name_or_path: the name of a file in `hub_configs/train`, or the path of any YAML file.

    Raises:
        RunError: there is no such file, a key is not a setting, or a value has the wrong type.
    """
    path = config_path("train", name_or_path)
    values = {name: value for name, value in read_yaml(path).items() if name not in _RETIRED}
    check_names(path, values, _NAMES, "a setting")
    return {name: _typed(value, _TYPES[name], f"{path} sets {name} to") for name, value in values.items()}


def check_names(path: Path, names: Iterable[str], known: Iterable[str], what: str) -> None:
    """Raise a RunError with the nearest names if a YAML file sets an unknown name."""
    for name in names:
        if name not in known:
            raise RunError(f"{path} sets {name!r}, which is not {what}.{did_you_mean(str(name), known)}")


def _typed(value: Any, kind: Any, what: str) -> Any:
    """A value from YAML converted to a field's type; raises a RunError if it has another type."""
    if isinstance(kind, UnionType):  # X | None
        if value is None:
            return None
        kind = get_args(kind)[0]
    if get_origin(kind) is Literal:
        if value not in get_args(kind):
            raise RunError(f"{what} {value!r}, which should be one of {', '.join(get_args(kind))}.")
        return value
    if get_origin(kind) is tuple:
        return tuple(map(str, value if isinstance(value, list) else [value]))
    if kind is float and type(value) in (int, str):
        with suppress(ValueError):
            value = float(value)  # YAML reads 6e-4 as a string
    if type(value) is not kind:
        allowed = "true or false" if kind is bool else f"a {kind.__name__}"
        raise RunError(f"{what} {value!r}, which should be {allowed}.")
    return value


def config_path(kind: str, name_or_path: str) -> Path:
    """The YAML file of a shipped config, given its name, or of a path (with a separator, or ending in .yaml or .yml).
    If there is none, a RunError gives the nearest names."""
    path = Path(name_or_path)
    if path.suffix in (".yaml", ".yml") or len(path.parts) > 1:
        if not path.is_file():
            raise RunError(f"There is no config file {path}.")
        return path
    if name_or_path not in (names := config_names(kind)):
        hint = f"{did_you_mean(name_or_path, names)} The path of a file should end in .yaml."
        raise RunError(f"There is no {kind} config named {name_or_path!r}.{hint}")
    return hub_configs() / kind / f"{name_or_path}.yaml"


def _at_least(minimum: int, config: Any, *names: str) -> None:
    allowed = f"at least {minimum}" if minimum else "0 or more"
    for name in names:
        value = getattr(config, name)
        _require(value is None or value >= minimum, name, value, allowed)


def _require(holds: bool, name: str, value: Any, allowed: str) -> None:
    if not holds:
        raise RunError(f"--{name.replace('_', '-')} should be {allowed}, not {value}.")
