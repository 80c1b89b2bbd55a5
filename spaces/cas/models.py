"""Visitors' models: checked before the download, fetched within limits, and opened without trust.

Before fetching weights, the page checks the sizes of the files on the Hub and the numbers in the config: first in the
JSON, then by building the model without memory. It fetches only JSON and safetensors.
"""

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from downloads import Remote, download, kept, look_up
from limits import Limits, Request, VisitorError, log, visitor_message
from torch import nn
from transformers import AutoModel, PreTrainedModel

from singlelife.alignment.models import AttentionMapProvider, load_checkpoint, plan_of
from singlelife.alignment.models.backbones import geometry
from singlelife.alignment.models.checkpoints import (
    CONFIG,
    INDEX,
    PICKLED,
    PROCESSORS,
    Checkpoint,
    find_checkpoint,
    weights_among,
)
from singlelife.errors import HubError, SingleLifeError
from singlelife.hub.errors import is_repo_id
from singlelife.lives.registry import default_cache_dir
from singlelife.text import in_bytes

_NAME = re.compile(r"[A-Za-z0-9][\w-]*/[A-Za-z0-9][\w.-]*", re.ASCII)  # an organisation has no dot: an address has
_REVISION = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)*", re.ASCII)
_LARGEST_JSON = 4 << 20  # bytes of a config or an index
_LARGEST_HEADER = 8 << 20  # bytes of a safetensors file's header; a billion parameters take some 100 kB
_MOST_PARTS = 50  # files of weights
_LARGEST = (  # the largest number allowed in a config, by a pattern in its field's name; the first match counts
    ("num_labels", 30_000),
    (r"layer|depth|block|stage", 256),
    (r"tokens|ratio|tubelet", 64),
    (r"height|width|edge|^(crop_|pad_|image_)?size$", 4_096),
    (r"intermediate|ffn|mlp", 65_536),
    (r"hidden|dim|heads", 8_192),
    (r"", 1_000_000),
)
_LONGEST_LIST = 1_000
_LABELS = ("id2label", "label2id")  # the names of a classifier's classes, which may be any words
_FLOP = 1e12  # of a batch, between two checks of a request
_SMALLER = "Take a smaller model, or run `singlelife cas` on your own machine."

_loading = threading.Lock()


def open_model(name: str, request: Request, *, local: bool = False) -> AttentionMapProvider:
    """A model that a visitor names, on the CPU.

    Args:
        name: ORG/NAME or ORG/NAME@REVISION on the Hub (a branch, tag or commit; its main branch by default), or, only
            if `local`, a folder.
        request: the request that asks for it. Loading weights from the disk is not interrupted.
        local: the visitor owns this machine and may open its folders.

    Raises:
        Cancelled: the visitor has given up.
        VisitorError: the model or its name cannot be used, or the Hub cannot be reached.
    """
    name = name.strip()
    try:
        return _open(name, request, local)
    except VisitorError:
        raise
    except HubError as error:
        reason = str(error).split(". ")[0].rstrip(".")  # the rest is for those who have a token
        raise VisitorError(f"{reason}. Take another model, or try again later.") from error
    except SingleLifeError as error:
        raise VisitorError(str(error) if local else visitor_message(error)) from error  # the owner knows the paths
    except (ValueError, TypeError, KeyError, AttributeError, RuntimeError, ArithmeticError, RecursionError) as error:
        # From deep in the code of an architecture whose config makes no sense.
        log.info("A model could not be opened", exc_info=error)
        raise VisitorError(
            f"{name[:80]} cannot be opened: its config, image processor and weights do not fit together."
        ) from error


def _open(name: str, request: Request, local: bool) -> AttentionMapProvider:
    request.check()
    if local and name and Path(name).expanduser().is_dir():
        return _load(find_checkpoint(name), request)
    repo_id, revision = _parsed(name)
    remote = look_up(repo_id, revision, request)
    small, weights = _checked_files(remote, request.limits)

    def fill(folder: Path) -> None:
        download(remote, small, folder, request)
        _inspect(Checkpoint(name, folder, weights), request)  # a model that cannot be compared costs no more
        download(remote, weights, folder, request)

    key = f"{repo_id.replace('/', '--')}@{remote.commit}"
    size = sum(remote.sizes[file] for file in small + weights)
    with kept(key, size, fill, default_cache_dir() / "space-models", request) as folder:
        return _load(Checkpoint(name, folder, weights, commit=remote.commit), request)


def _parsed(name: str) -> tuple[str, str | None]:
    """The repository and the revision in a name such as ORG/NAME@REVISION, if it is well-formed."""
    repo_id, at, revision = name.partition("@")
    if not _NAME.fullmatch(repo_id) or not is_repo_id(repo_id) or "@" in revision:
        raise VisitorError(f"{name[:80]!r} is not a model name. Choose one from the list, or write ORG/NAME.")
    if at and (not _REVISION.fullmatch(revision) or ".." in revision or len(revision) > 100):
        raise VisitorError(f"{revision[:80]!r} is not a revision. Write a branch, tag or commit of {repo_id}.")
    return repo_id, revision or None


def _checked_files(remote: Remote, limits: Limits) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The names of a model's small files and of its weights, if their sizes on the Hub are within the limits."""
    name, sizes = remote.repo_id, remote.sizes
    weights = weights_among(list(sizes))
    if CONFIG not in sizes:
        raise VisitorError(f"{name} is not a model: it has no {CONFIG}. Choose another.")
    if not weights or not all(sizes[file] for file in weights):
        what = "no safetensors weights"
        if weights:
            what = "an empty weights file"
        elif any(file.endswith(PICKLED) for file in sizes):
            what = "only pickled weights, which can run code when opened"
        raise VisitorError(f"{name} has {what}. Ask its owner to upload safetensors, or choose another model.")
    total = sum(sizes[file] for file in weights)
    if total > limits.weight_bytes or len(weights) > _MOST_PARTS:
        raise VisitorError(
            f"{name} has {in_bytes(total)} of weights in {len(weights)} files; the limit here is "
            f"{in_bytes(limits.weight_bytes)} in {_MOST_PARTS}. {_SMALLER}"
        )
    small = tuple(file for file in (CONFIG, *PROCESSORS, INDEX) if file in sizes)
    for file in small:
        if sizes[file] > _LARGEST_JSON:
            raise VisitorError(f"The file {file} of {name} is larger than the limit of {in_bytes(_LARGEST_JSON)}.")
    return small, weights


def _load(checkpoint: Checkpoint, request: Request) -> AttentionMapProvider:
    """The model in a folder on the disk."""
    parameters, of_a_pair = _inspect(checkpoint, request)
    for file in checkpoint.weights:
        with (checkpoint.folder / file).open("rb") as content:  # safetensors checks the rest of the header
            if int.from_bytes(content.read(8), "little") > _LARGEST_HEADER:
                raise VisitorError(
                    f"The weights of {checkpoint.name} are damaged: their header is over {in_bytes(_LARGEST_HEADER)}."
                )
    request.tell(f"Loading {checkpoint.name}")
    with _one_at_a_time(request), request.memory(4 * parameters + of_a_pair):
        model = load_checkpoint(checkpoint)
    bounded = cast(AttentionMapProvider, _Bounded(model, parameters, of_a_pair, request))
    # Run it once, on noise, since finite weights may still give maps that are not finite.
    generator = torch.Generator().manual_seed(0)
    size = (1, 3, model.image_size, model.image_size)
    bounded.logits(*(torch.randint(0, 256, size, dtype=torch.uint8, generator=generator) for _ in range(2)))
    return bounded


class _Bounded:
    """A visitor's model, which runs as many pairs at once as memory and time allow.

    Args:
        parameters: the number of parameters.
        of_a_pair: bytes for one pair, besides the parameters.
    """

    def __init__(self, model: AttentionMapProvider, parameters: int, of_a_pair: int, request: Request):
        self._model, self._request, self._of_a_pair = model, request, of_a_pair
        self._in_time = int(_FLOP / (4 * parameters * model.grid[0] * model.grid[1]))  # pairs

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def logits(self, target: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
        count = max(1, min(self._in_time, self._request.room() // self._of_a_pair))
        maps = []
        for part in zip(target.split(count), source.split(count), strict=True):
            with self._request.memory(self._of_a_pair * len(part[0])):
                maps.append(self._model.logits(*part))
        return torch.cat(maps)


def _inspect(checkpoint: Checkpoint, request: Request) -> tuple[int, int]:
    """The number of parameters of a model, and the bytes that it needs for one pair, if both are within the limits. It
    takes only the config and the image processor."""
    name, limits = checkpoint.name, request.limits
    for file in (CONFIG, *PROCESSORS):
        if (checkpoint.folder / file).is_file():
            _check_numbers(f"{file} of {name}", checkpoint.fields(file))
    plan = plan_of(checkpoint)
    size, _, grid = geometry(name, plan.config, plan.processor)
    if grid[0] * grid[1] > limits.patches:
        raise VisitorError(
            f"{name} splits a view into {grid[0]} x {grid[1]} patches; the limit here is {limits.patches}."
        )
    with _one_at_a_time(request), torch.device("meta"):
        model = AutoModel.from_config(plan.config)
    parameters = sum(each.numel() for each in (*model.parameters(), *model.buffers()))
    if parameters > limits.parameters:
        raise VisitorError(
            f"{name} has {parameters / 1e6:,.0f} million parameters; the limit here is {limits.parameters / 1e6:,.0f} "
            f"million. {_SMALLER}"
        )
    of_a_pair = _activations(model, grid[0] * grid[1], size)
    if 4 * parameters + of_a_pair > limits.memory:
        raise VisitorError(f"{name} needs {in_bytes(of_a_pair)} for a pair, more than there is here. {_SMALLER}")
    return parameters, of_a_pair


def _activations(model: PreTrainedModel, patches: int, size: tuple[int, int]) -> int:
    """An upper bound of the bytes that one pair takes in float32: four tensors as wide as the widest layer for each
    token, the attention of all heads, the maps, and copies of the pixels."""
    tokens = patches + dict(_LARGEST)[r"tokens|ratio|tubelet"]
    linear = [layer for layer in model.modules() if isinstance(layer, nn.Linear)]
    widest = max(max(layer.in_features, layer.out_features) for layer in linear)
    heads = max((number for field, number in model.config.to_dict().items() if "attention_heads" in field), default=1)
    return 2 * 4 * (4 * tokens * widest + 2 * heads * tokens**2 + 4 * patches**2 + 12 * size[0] * size[1])


def _check_numbers(where: str, value: Any, field: str = "") -> None:
    """Raise a VisitorError if a number in a JSON file, at any depth, is larger than any model needs."""
    if isinstance(value, dict):
        for name, each in value.items():
            if name not in _LABELS:
                _check_numbers(where, each, str(name))
    elif isinstance(value, list):
        if len(value) > _LONGEST_LIST:
            raise VisitorError(f"The {where} has {len(value):,} values of {field}; the limit here is {_LONGEST_LIST}.")
        for each in value:
            _check_numbers(where, each, field)
    elif isinstance(value, int | float):
        most = next(most for words, most in _LARGEST if re.search(words, field))
        if not abs(value) <= most:
            raise VisitorError(f"The {where} says {field[:80]} {value:.0e}; the limit here is {most:,}.")


@contextmanager
def _one_at_a_time(request: Request) -> Iterator[None]:
    """Build one model at a time: while transformers builds one, it changes how torch initialises all others."""
    while not _loading.acquire(timeout=0.2):
        request.check()
    try:
        yield
    finally:
        _loading.release()
