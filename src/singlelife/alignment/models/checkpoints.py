"""From the name of a model to its config and weights, which are checked before they are loaded and never unpickled.

A model on the Hub is fetched in two steps. Its config comes first, so that a model that cannot be compared, or does
not fit into memory, is refused before gigabytes are downloaded.
"""

import hashlib
import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import SafetensorsParsingError
from safetensors import SafetensorError, safe_open
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    PretrainedConfig,
    PreTrainedModel,
)

from singlelife.alignment.models.backbones import ARCHITECTURES, DUAL_TOWERS, vision_config
from singlelife.alignment.models.maps import (
    AttentionMapProvider,
    CrossAttention,
    DecoderCorrelation,
    FeatureCorrelation,
)
from singlelife.alignment.settings import untrained_model
from singlelife.croco import CroCoConfig, CroCoImageProcessor
from singlelife.errors import CheckpointError
from singlelife.files import config_names, hub_configs, read_yaml
from singlelife.hub.client import hub_api
from singlelife.hub.errors import HubUnreachable, is_repo_id, translate_hub_errors
from singlelife.hub.pull import fetch, kept_without_network, look_up
from singlelife.machine import free_memory
from singlelife.text import in_bytes

METHODS: dict[str, type[FeatureCorrelation]] = {  # by their names on the command line
    "cross-attention": CrossAttention,
    "feature-correlation": FeatureCorrelation,
    "decoder-correlation": DecoderCorrelation,
}

# Fields of a config that say nothing about the architecture.
_NO_ARCHITECTURE = ("transformers_version", "_name_or_path", "architectures", "auto_map", "dtype")

CONFIG = "config.json"
PROCESSORS = ("preprocessor_config.json", "processor_config.json")
_WEIGHTS = re.compile(r"model(-\d{5}-of-\d{5})?\.safetensors")  # but not, say, copies in half precision
_WHOLE = "model.safetensors"  # weights that are not in parts
INDEX = "model.safetensors.index.json"
_OTHER_WEIGHTS = ("quantization_config", "transformers_weights")  # fields of a config
PICKLED = (".bin", ".pth", ".pt", ".ckpt", ".pkl")
_CONVERT = "A reference CroCo has to be converted first: singlelife convert CKPT.pth OUT."
_UNUSED = re.compile(r"(pooler|head|predictor)\.|embeddings\.mask_token$")  # weights that no patch token meets


@dataclass(frozen=True)
class Checkpoint:
    """A model that was found. Only its small files have been read.

    Attributes:
        name: as the user named it.
        folder: where its files are or, for the Hub, will be.
        weights: names of its safetensors files.
        repo_id, commit: where they are on the Hub; None for a folder.
    """

    name: str
    folder: Path
    weights: tuple[str, ...]
    repo_id: str | None = None
    commit: str | None = None

    @property
    def revision(self) -> str:
        """The commit on the Hub, or the SHA-256 of the folder's config, image processor and weights."""
        if self.commit is not None:
            return self.commit
        digest = hashlib.sha256()
        for file in (CONFIG, *PROCESSORS, *self.weights):
            if (self.folder / file).is_file():
                with (self.folder / file).open("rb") as content:
                    digest.update(f"{file} {hashlib.file_digest(content, 'sha256').hexdigest()}\n".encode())
        return digest.hexdigest()

    def fields(self, file: str = CONFIG) -> dict[str, Any]:
        """The content of one of its JSON files. Raises a CheckpointError if it cannot be read, or is no object."""
        try:
            fields = json.loads((self.folder / file).read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise CheckpointError(f"The {file} of {self.name} cannot be read: {error}.") from error
        if not isinstance(fields, dict):
            raise CheckpointError(f"The {file} of {self.name} cannot be read: it should be a JSON object.")
        return fields

    def config(self) -> PretrainedConfig:
        """Its config. Raises a CheckpointError if it cannot be read or names no architecture."""
        fields = self.fields()
        model_type, unsafe = fields.get("model_type"), next(_unsafe(fields), None)
        if model_type is None:
            raise CheckpointError(f"The {CONFIG} of {self.name} names no architecture (model_type). {_CONVERT}")
        if unsafe is not None:
            raise CheckpointError(
                f"The {CONFIG} of {self.name} has the field {unsafe}, which reads or runs more than this folder's "
                "safetensors. Remove the field, or choose another model."
            )
        try:
            config = AutoConfig.from_pretrained(self.folder, trust_remote_code=False)
            config._attn_implementation = None  # ignored: use SDPA, or eager if the architecture lacks it
        except Exception as error:  # of many kinds, depending on the faulty field
            raise CheckpointError(
                f"The config of {self.name}, of the architecture {model_type!r}, cannot be used: "
                f"{' '.join(str(error).split())[:300]}"
            ) from error
        return config

    def processor(self) -> Any:
        """Its image processor. Raises a CheckpointError if it has none that can be read."""
        try:
            return AutoImageProcessor.from_pretrained(self.folder, trust_remote_code=False)
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise CheckpointError(
                f"{self.name} has no image processor ({PROCESSORS[0]}) that can be read, to say how its pixels are "
                "normalised."
            ) from error

    def load(self, config: PretrainedConfig, device: str) -> PreTrainedModel:
        """The model with its weights as float32, still on the CPU.

        Args:
            config: its own, or its vision tower's, which is then loaded alone.
            device: where it is to run; the memory there has to hold it.

        Raises:
            CheckpointError: the weights are pickled, too large, damaged, not finite, or do not fit the config.
            HubError: they cannot be downloaded.
        """
        if not self.weights:
            self._refuse_other_weights()
        self._check_memory(device)
        if self.repo_id is not None:
            fetch(look_up(self.repo_id, "model", self.commit), self.weights)
        self._check_index()
        try:
            model, info = AutoModel.from_pretrained(
                self.folder,
                config=config,
                dtype=torch.float32,
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # the error below names them
            )
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            raise CheckpointError(f"The weights of {self.name} cannot be loaded as safetensors: {error}.") from error
        missing = sorted(name for name in map(str, info["missing_keys"]) if not _UNUSED.match(name))
        missing += sorted(str(key[0] if isinstance(key, tuple) else key) for key in info["mismatched_keys"])
        if missing:
            raise CheckpointError(
                f"The weights of {self.name} do not fit its {CONFIG}: {len(missing)} missing or of another shape, "
                f"such as {missing[0]}."
            )
        broken = [name for name, weight in model.state_dict().items() if not torch.isfinite(weight).all()]
        if broken:
            raise CheckpointError(
                f"The weights of {self.name} are not finite ({broken[0]} and {len(broken) - 1} more)."
            )
        return model

    def _refuse_other_weights(self) -> None:
        names = sorted(path.name for path in self.folder.iterdir())
        if self.repo_id is not None:
            names = list(look_up(self.repo_id, "model", self.commit).sizes)
        pickled = [name for name in names if name.endswith(PICKLED)]
        why = f" It has only pickled weights ({pickled[0]}), which can run code when opened." if pickled else ""
        raise CheckpointError(f"{self.name} has no weights: there is no {_WHOLE}.{why} Ask its owner. {_CONVERT}")

    def _check_index(self) -> None:
        """Check that the index of weights in parts, which says which file has a tensor, names only this model's."""
        if self.weights == (_WHOLE,) or not (self.folder / INDEX).is_file():
            return
        try:
            files = set(json.loads((self.folder / INDEX).read_text(encoding="utf-8"))["weight_map"].values())
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(f"The {INDEX} of {self.name} cannot be read.") from error
        if others := files - set(self.weights):
            raise CheckpointError(
                f"The {INDEX} of {self.name} names weights that it does not have: {sorted(map(str, others))[0]}."
            )

    def _check_memory(self, device: str) -> None:
        """Check that memory holds the weights as float32, by the headers of their files, here or still on the Hub."""
        shapes: dict[str, list[int]] = {}
        try:
            for path in (self.folder / file for file in self.weights):
                if self.repo_id is None or path.is_file():
                    with safe_open(path, "pt") as file:
                        shapes |= {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
                    continue
                with translate_hub_errors(self.repo_id, f"Looking at the weights of {self.repo_id}", kind="model"):
                    header = hub_api().parse_safetensors_file_metadata(self.repo_id, path.name, revision=self.commit)
                shapes |= {name: tensor.shape for name, tensor in header.tensors.items()}
        except (OSError, SafetensorError, SafetensorsParsingError) as error:
            raise CheckpointError(
                f"The weights of {self.name} cannot be loaded as safetensors: {path.name} is damaged."
            ) from error
        needed = 4 * sum(math.prod(shape) for name, shape in shapes.items() if not name.startswith("text_model."))
        for where, free in free_memory(device).items():
            if needed > free:
                raise CheckpointError(
                    f"{self.name} is too large for the memory: its weights take {in_bytes(needed)} as float32, and "
                    f"{in_bytes(free)} are free{where}. Take a smaller model, or a machine with more memory."
                )


def find_checkpoint(spec: str) -> Checkpoint:
    """The checkpoint in a folder, or in ORG/NAME or ORG/NAME@REVISION on the Hub, from where only the config and image
    processor are fetched.

    Raises:
        CheckpointError: there is no such model, or no config in it.
        HubError: you have no access to it on the Hub, or the Hub cannot be reached.
    """
    path = Path(spec).expanduser()
    if (path / CONFIG).is_file():
        return Checkpoint(spec, path, weights_among([file.name for file in path.iterdir()]))
    if path.exists():
        checkpoints = sorted(path.glob(f"checkpoint-*/{CONFIG}"))
        hint = f"The last checkpoint of this unfinished run is {checkpoints[-1].parent}." if checkpoints else _CONVERT
        kind = "folder" if path.is_dir() else "file"
        raise CheckpointError(f"The {kind} {spec} holds no model: there is no {CONFIG}. {hint}")
    repo_id, _, revision = spec.partition("@")
    if not is_repo_id(repo_id) or spec.startswith((".", "/", "~")):
        raise CheckpointError(f"There is no model {spec}: no such folder, and not a Hub id (ORGANISATION/NAME).")
    return _on_the_hub(spec, repo_id, revision or None)


def _on_the_hub(spec: str, repo_id: str, revision: str | None) -> Checkpoint:
    try:
        remote = look_up(repo_id, "model", revision)
    except HubUnreachable as error:
        try:
            folder = kept_without_network(repo_id, "model", CONFIG, revision, error)
        except HubUnreachable as error:
            raise CheckpointError(f"The model {spec} cannot be found: there is no such folder, and {error}") from error
        return Checkpoint(spec, folder, weights_among([file.name for file in folder.iterdir()]), commit=folder.name)
    if CONFIG not in remote.sizes:
        raise CheckpointError(f"The repository {spec} holds no model: it has no {CONFIG}. {_CONVERT}")
    folder = fetch(remote, [CONFIG, *(name for name in (*PROCESSORS, INDEX) if name in remote.sizes)])
    return Checkpoint(spec, folder, weights_among(list(remote.sizes)), repo_id, folder.name)


def weights_among(names: list[str]) -> tuple[str, ...]:
    """The weights among a checkpoint's files: one file, or its parts."""
    found = sorted(name for name in names if _WEIGHTS.fullmatch(name))
    return (_WHOLE,) if _WHOLE in found else tuple(found)


def _unsafe(fields: Any) -> Iterator[str]:
    """The fields of a config, at any depth, that make transformers read other files or fetch code from the Hub."""
    if isinstance(fields, list):
        for each in fields:
            yield from _unsafe(each)
    elif isinstance(fields, dict):
        for name, value in fields.items():
            code = name.endswith(("attn_implementation", "experts_implementation")) and "/" in json.dumps(value)
            if code or (name in _OTHER_WEIGHTS and value):
                yield name
            yield from _unsafe(value)


@dataclass(frozen=True)
class Plan:
    """How a checkpoint is compared, known from its small files.

    Attributes:
        config: the config of the part to load.
        processor: its image processor.
        method: how its maps are made, a key of `METHODS`.
    """

    config: PretrainedConfig
    processor: Any
    method: str


def load_model(
    spec: str, device: str = "cpu", *, method: str | None = None, layers: Sequence[int] | None = None
) -> AttentionMapProvider:
    """A model to compare.

    Args:
        spec: a run folder or any folder with a checkpoint; a Hub id, ORG/NAME or ORG/NAME@REVISION; or
            `untrained:MODEL`, optionally `untrained:MODEL@SEED`, a model with random weights whose architecture is a
            preset of `hub_configs/models` or that of any of the former.
        device: where it runs.
        method: a key of `METHODS`. By default the cross-attention of a CroCo, and the feature correlation of any other
            vision transformer. An unknown architecture is refused unless `method` asks for feature correlation; then
            all tokens before the patch tokens are dropped, however many there are.
        layers: the blocks to take the maps from, from 0, or from -1 backwards. By default all decoder blocks for
            cross-attention, and the last block for features.

    Raises:
        CheckpointError: there is no such model, it cannot be compared, it is too large for the memory, or its weights
            cannot be used. Only safetensors are read as weights, and no code from elsewhere is run.
        HubError: you have no access to it on the Hub, or the Hub cannot be reached.
    """
    if (untrained := untrained_model(spec)) is None:
        return load_checkpoint(find_checkpoint(spec), device, method=method, layers=layers)
    where, seed = untrained
    plan = _plan_of_fresh(spec, where, method)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModel.from_config(plan.config, dtype=torch.float32)
    described = {name: value for name, value in plan.config.to_dict().items() if name not in _NO_ARCHITECTURE}
    digest = hashlib.sha256(json.dumps(described, sort_keys=True, default=str).encode()).hexdigest()
    revision = f"untrained {digest} seed {seed}"
    return METHODS[plan.method](spec, revision, model, plan.processor, device, layers)


def load_checkpoint(
    checkpoint: Checkpoint, device: str = "cpu", *, method: str | None = None, layers: Sequence[int] | None = None
) -> AttentionMapProvider:
    """The model of a checkpoint that has been found. See [`load_model`]."""
    plan = plan_of(checkpoint, method)
    model = checkpoint.load(plan.config, device)
    return METHODS[plan.method](checkpoint.name, checkpoint.revision, model, plan.processor, device, layers)


def plan_of(checkpoint: Checkpoint, method: str | None = None) -> Plan:
    """Plan how to compare a checkpoint, without its weights.

    Args:
        method: see [`load_model`].

    Raises:
        CheckpointError: it cannot be compared.
    """
    config = vision_config(checkpoint.config())
    chosen = _method(checkpoint.name, config, method)
    return Plan(config, checkpoint.processor(), chosen)


def _plan_of_fresh(spec: str, where: str, method: str | None) -> Plan:
    if where in config_names("models"):
        config = CroCoConfig(**read_yaml(hub_configs() / "models" / f"{where}.yaml"))
        rows, columns = config.grid_size
        size = {"height": rows * config.patch_size, "width": columns * config.patch_size}
        return Plan(config, CroCoImageProcessor(size=size), _method(spec, config, method))
    if "/" not in where and not Path(where).exists():
        presets = ", ".join(config_names("models"))
        raise CheckpointError(f"{spec}: there is no folder {where}, and no such preset; the presets are {presets}.")
    return plan_of(find_checkpoint(where), method)


def _method(spec: str, config: PretrainedConfig, method: str | None) -> str:
    """The method for an architecture, before any weights are loaded."""
    is_croco, kind = isinstance(config, CroCoConfig), config.model_type
    if method is None:
        if kind not in ARCHITECTURES:
            raise CheckpointError(
                f"{spec} has the architecture {kind!r}, which is not known to give a token for each patch. Supported "
                f"are {', '.join(sorted({*ARCHITECTURES, *DUAL_TOWERS}))}. Try --method feature-correlation."
            )
        return "cross-attention" if is_croco else "feature-correlation"
    if method not in METHODS:
        raise CheckpointError(f"The methods are {', '.join(METHODS)}, not {method!r}.")
    if method != "feature-correlation" and not is_croco:
        raise CheckpointError(
            f"{spec} has the architecture {kind!r}, which has no cross-attention between two views. Compare its "
            "features: --method feature-correlation."
        )
    return method
