"""The models of visitors: named by anybody, inspected from afar, fetched within limits, and opened without trust.

Two things are known before any weights are here: the sizes of the files, from the Hub, and the architecture and number
of parameters, from the config. Nothing but JSON and safetensors is ever fetched.
"""

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from downloads import download, kept, look_up
from huggingface_hub.hf_api import ModelInfo
from limits import Limits, Request, VisitorError, log, visitor_message
from transformers import AutoModel, PretrainedConfig

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
from singlelife.hub.client import file_sizes
from singlelife.hub.errors import is_repo_id
from singlelife.lives.registry import default_cache_dir
from singlelife.text import in_bytes

_NAME = re.compile(r"[A-Za-z0-9][\w-]*/[A-Za-z0-9][\w.-]*", re.ASCII)  # an organisation has no dot: an address has
_REVISION = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)*", re.ASCII)
_LARGEST_JSON = 4 << 20  # bytes of a config or an index
_LARGEST_HEADER = 8 << 20  # bytes of a safetensors file's header; that of a billion parameters takes some 100 kB
_MOST_PARTS = 50  # files of weights
_MOST_LAYERS = 256
_MOST_REGISTERS = 64
_LONGEST_SIDE = 4096  # pixels to which an image processor may resize
_LARGEST_FIELD = 10**6  # of any number in a config
_SMALLER = "Take a smaller model, or run `singlelife cas` on your own machine."

_loading = threading.Lock()


def open_model(name: str, request: Request, *, local: bool = False) -> AttentionMapProvider:
    """A model that a visitor names, on the CPU.

    Args:
        name: ORG/NAME or ORG/NAME@REVISION on the Hub (a branch, tag or commit; its main branch by default), or, only
            if `local`, a folder.
        request: for which it is opened. The loading of weights that are here is not interrupted.
        local: the visitor owns this machine, and may open its folders.

    Raises:
        Cancelled: the visitor has given up.
        VisitorError: the model, its name, or the way to it cannot be used.
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
    request.tell(f"Looking up {name}")
    info = look_up(repo_id, revision)
    info.id = repo_id  # as the visitor wrote it
    small, weights = _checked_files(info, request.limits)
    size = sum(file_sizes(info)[file] for file in (*small, *weights))

    def fill(folder: Path) -> None:
        download(info, small, folder, request)
        _inspect(Checkpoint(name, folder, weights), request)  # what cannot be compared costs no more
        download(info, weights, folder, request)

    key = f"{repo_id.replace('/', '--')}@{info.sha}"
    with kept(key, size, fill, default_cache_dir() / "space-models", request) as folder:
        return _load(Checkpoint(name, folder, weights, commit=info.sha), request)


def _parsed(name: str) -> tuple[str, str | None]:
    """The repository and the revision that a visitor's words name, if they have the form of such."""
    repo_id, at, revision = name.partition("@")
    if not _NAME.fullmatch(repo_id) or not is_repo_id(repo_id) or "@" in revision:
        raise VisitorError(f"{name[:80]!r} is no name of a model. Choose one of the list, or write ORG/NAME.")
    if at and (not _REVISION.fullmatch(revision) or ".." in revision or len(revision) > 100):
        raise VisitorError(f"{revision[:80]!r} is no revision: write a branch, a tag or a commit of {repo_id}.")
    return repo_id, revision or None


def _checked_files(info: ModelInfo, limits: Limits) -> tuple[list[str], tuple[str, ...]]:
    """The names of a model's small files and of its weights, if what the Hub says about them is within the limits."""
    sizes = file_sizes(info)
    if CONFIG not in sizes:
        raise VisitorError(f"{info.id} holds no model: it has no {CONFIG}. Take another.")
    weights = weights_among(list(sizes))
    if not weights:
        why = "has no safetensors"
        if any(file.endswith(PICKLED) for file in sizes):
            why = "has only pickled weights, which can run code when they are opened"
        raise VisitorError(f"{info.id} {why}. Its owner can convert it; until then take another model.")
    total = sum(sizes[file] for file in weights)
    if total > limits.weight_bytes or len(weights) > _MOST_PARTS:
        raise VisitorError(
            f"{info.id} has {in_bytes(total)} of weights in {len(weights)} files; here the limit is "
            f"{in_bytes(limits.weight_bytes)} in {_MOST_PARTS}. {_SMALLER}"
        )
    small = [file for file in (CONFIG, *PROCESSORS, INDEX) if file in sizes]
    for file in small:
        if sizes[file] > _LARGEST_JSON:
            raise VisitorError(f"The file {file} of {info.id} is over {in_bytes(_LARGEST_JSON)}, which is too much.")
    return small, weights


def _load(checkpoint: Checkpoint, request: Request) -> AttentionMapProvider:
    """The model of files that are here."""
    parameters = _inspect(checkpoint, request)
    for file in checkpoint.weights:
        with (checkpoint.folder / file).open("rb") as content:  # safetensors checks the rest of the header
            if int.from_bytes(content.read(8), "little") > _LARGEST_HEADER:
                raise VisitorError(
                    f"The weights of {checkpoint.name} are damaged: their header is over {in_bytes(_LARGEST_HEADER)}."
                )
    request.tell(f"Loading {checkpoint.name}")
    with _one_at_a_time(request):
        request.check(more=4 * parameters)
        model = load_checkpoint(checkpoint)
        # Run it once, on noise, since finite weights may still give maps that are not finite.
        generator = torch.Generator().manual_seed(0)
        size = (1, 3, model.image_size, model.image_size)
        model.logits(*(torch.randint(0, 256, size, dtype=torch.uint8, generator=generator) for _ in range(2)))
    return model


def _inspect(checkpoint: Checkpoint, request: Request) -> int:
    """The number of parameters of a model whose config and image processor are here, if they are within the limits."""
    plan, name, limits = plan_of(checkpoint), checkpoint.name, request.limits
    _check_numbers(name, plan.config)
    _, _, grid = geometry(name, plan.config, plan.processor)
    if grid[0] * grid[1] > limits.patches:
        raise VisitorError(
            f"{name} cuts a view into {grid[0]} x {grid[1]} patches; here the limit is {limits.patches}."
        )
    sizes = [dict(getattr(plan.processor, each, None) or {}) for each in ("size", "crop_size", "pad_size")]
    sides = [side for size in sizes for side in size.values()]
    if any(isinstance(side, int | float) and side > _LONGEST_SIDE for side in sides):
        raise VisitorError(f"The image processor of {name} makes views of over {_LONGEST_SIDE} px.")
    with _one_at_a_time(request), torch.device("meta"):
        model = AutoModel.from_config(plan.config)
    parameters = sum(each.numel() for each in (*model.parameters(), *model.buffers()))
    if parameters > limits.parameters:
        raise VisitorError(
            f"{name} has {parameters / 1e6:,.0f} million parameters; here the limit is {limits.parameters / 1e6:,.0f} "
            f"million. {_SMALLER}"
        )
    return parameters


def _check_numbers(name: str, config: PretrainedConfig) -> None:
    """Make sure that a model of this config can be made at all, even without memory."""
    for field, value in config.to_dict().items():
        most = _LARGEST_FIELD
        if "layers" in field or "depth" in field:
            most = _MOST_LAYERS
        elif field in ("num_register_tokens", "num_query_tokens"):
            most = _MOST_REGISTERS
        for number in value if isinstance(value, list | tuple) else (value,):
            if isinstance(number, int) and abs(number) > most:
                raise VisitorError(f"The config of {name} says {field} {number:.0e}; here the limit is {most}.")


@contextmanager
def _one_at_a_time(request: Request) -> Iterator[None]:
    """Models are made one after the other: while transformers makes one, it changes how torch fills any other."""
    while not _loading.acquire(timeout=0.2):
        request.check()
    try:
        yield
    finally:
        _loading.release()
