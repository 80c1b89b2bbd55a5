"""The models of visitors: named by anybody, inspected from afar, fetched within limits, and opened without trust.

Three things are known before any weights are here: the sizes of the files, from the Hub; the architecture and the
number of parameters, from the config; and the shape of every tensor, from the headers of the safetensors files.
Nothing but JSON and safetensors is ever fetched.
"""

import json
import math
import os
import re
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, BinaryIO

import torch
from downloads import ModelCache, Remote, visible_token
from huggingface_hub import constants
from huggingface_hub.errors import HTTPError
from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status
from limits import Limits, Request, VisitorError, log, memory_errors_for_visitors, visitor_message
from transformers import AutoModel, PretrainedConfig

from singlelife.alignment.models import AttentionMapProvider, load_checkpoint, plan_of
from singlelife.alignment.models.backbones import ARCHITECTURES, DUAL_TOWERS, geometry
from singlelife.alignment.models.checkpoints import (
    CONFIG,
    INDEX,
    PICKLED,
    PROCESSORS,
    Checkpoint,
    find_checkpoint,
    weights_among,
)
from singlelife.errors import SingleLifeError
from singlelife.hub.cards import TAG
from singlelife.hub.errors import is_repo_id
from singlelife.lives.registry import default_cache_dir
from singlelife.text import duration, in_bytes

_NAME = re.compile(r"[A-Za-z0-9][\w-]*/[A-Za-z0-9][\w.-]*", re.ASCII)  # an organisation has no dot: an address has
_REVISION = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)*", re.ASCII)
_LARGEST_JSON = 1 << 20  # bytes of a config
_LARGEST_INDEX = 4 << 20
_LARGEST_HEADER = 8 << 20  # bytes of a safetensors file's header; that of a billion parameters takes some 100 kB
_MOST_PARTS = 50  # files of weights
_MOST_LAYERS = 256
_MOST_OTHER_TOKENS = 64  # registers
_LONGEST_SIDE = 4096  # pixels to which an image processor may resize
_LARGEST_FIELD = 10**6  # of any number in a config
_SIZES = ("size", "crop_size", "pad_size")  # of an image processor
_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "U16": 16, "I16": 16, "F16": 16, "BF16": 16,
    "U32": 32, "I32": 32, "F32": 32, "U64": 64, "I64": 64, "F64": 64,
}  # fmt: skip
_SMALLER = "Take a smaller model, or run `singlelife cas` on your own machine."
_UPLOAD_AGAIN = "Its owner has to upload them again; take another model."
_TELL_EVERY = 0.2  # seconds, of a download
_SEARCH_SECONDS = 2.0
_SEARCH_KEPT = 60.0  # seconds for which the Hub is not asked the same again, or anything if it did not answer

_loading = threading.Lock()
_away_until = -math.inf  # the Hub did not answer a search


def embedded_models() -> dict[str, Path]:
    """The models that come with the Space, by name; each is a folder in `models`."""
    folder = Path(__file__).resolve().parent / "models"
    return {path.parent.name: path.parent for path in sorted(folder.glob("*/config.json"))}


def open_model(name: str, request: Request, *, local: bool = False) -> AttentionMapProvider:
    """A model that a visitor names, on the CPU.

    Several threads may run it at a time, since running a model changes nothing in it.

    Args:
        name: ORG/NAME or ORG/NAME@REVISION on the Hub (a branch, tag or commit; its main branch by default); the name
            of an embedded model; and, only if `local`, a folder.
        request: for which it is opened. The loading of weights that are here is not interrupted.
        local: the visitor owns this machine, and may open its folders.

    Raises:
        Cancelled: the visitor has given up.
        VisitorError: the model, its name, or the way to it cannot be used.
    """
    late = f"The model was not here within {duration(request.limits.download_seconds)}. Try again later."
    try:
        with memory_errors_for_visitors(), request.within(request.limits.download_seconds, late):
            request.check()
            return _open(name.strip(), request, local)
    except VisitorError:
        raise
    except SingleLifeError as error:
        raise VisitorError(str(error) if local else visitor_message(error)) from error  # the owner knows the paths
    except (ValueError, TypeError, KeyError, AttributeError, RuntimeError, ArithmeticError, RecursionError) as error:
        # From deep in the code of an architecture whose config makes no sense.
        log.info("A model could not be opened", exc_info=error)
        raise VisitorError(
            f"{_shown(name)} cannot be opened: its config, image processor and weights do not fit together."
        ) from error


def search_models(text: str, limit: int = 10) -> list[str]:
    """Hub ids of models that can be compared, for what has been typed so far: lives first. For no text, lives alone.

    Empty where nothing is found, or the Hub does not answer; then it is not asked again for a minute. The same words
    are looked up once a minute.
    """
    global _away_until
    now = time.monotonic()
    if constants.HF_HUB_OFFLINE or now < _away_until:
        return []
    try:
        return _search(" ".join(text.split())[:100], int(now // _SEARCH_KEPT))[:limit]
    except (HTTPError, OSError, ValueError):
        _away_until = now + _SEARCH_KEPT
        return []


def _open(name: str, request: Request, local: bool) -> AttentionMapProvider:
    embedded = embedded_models()
    shown, revision = name, None
    if name.count("@") == 1:
        name, _, revision = name.partition("@")
    if name in embedded:
        if revision is not None:
            raise VisitorError(f"{name} comes with this page and has no revisions. Leave out @{revision[:80]}.")
        names = [file.name for file in embedded[name].iterdir()]
        return _load(Checkpoint(name, embedded[name], weights_among(names)), request)
    if local and shown and Path(shown).expanduser().is_dir():
        return _load(find_checkpoint(shown), request)
    _check_name(name, revision, embedded, local)

    request.tell(f"Looking up {shown}")
    remote = Remote(name, revision, request)
    weights = _check_files(remote, request.limits)
    cache = ModelCache(default_cache_dir() / "space-models", request.limits.cache_bytes)

    def fill(folder: Path) -> None:
        _fetch(remote, Checkpoint(shown, folder, weights, commit=remote.commit), cache, request)

    def wait() -> None:
        request.tell(f"Waiting for {shown}, which another visitor is opening")

    with cache.use(f"{name.replace('/', '--')}@{remote.commit}", fill, wait) as folder:
        return _load(Checkpoint(shown, folder, weights, commit=remote.commit), request)


def _fetch(remote: Remote, checkpoint: Checkpoint, cache: ModelCache, request: Request) -> None:
    """Fill a model's folder: what is small first, so that what cannot be compared costs no more."""
    folder, weights = checkpoint.folder, checkpoint.weights
    for file in (CONFIG, *PROCESSORS):
        if file in remote.sizes:
            (folder / file).write_bytes(remote.small_file(file, _LARGEST_JSON))
    if len(weights) > 1 and INDEX in remote.sizes:
        (folder / INDEX).write_bytes(remote.small_file(INDEX, _LARGEST_INDEX))
    _inspect(checkpoint, request)
    for file in weights:
        _check_header(remote.repo_id, remote.sizes[file], partial(remote.read_part, file))
    total, before, last_told = sum(remote.sizes[file] for file in weights), 0, -math.inf
    cache.make_room(folder, total, request.check)

    def tell(got: int) -> None:
        nonlocal last_told
        got, now = got + before, time.monotonic()
        if got == total or now - last_told > _TELL_EVERY:
            last_told = now
            request.tell(f"Downloading {checkpoint.name}: {in_bytes(got)} of {in_bytes(total)}", got / total)

    for file in weights:
        remote.download(file, folder / file, tell)
        before += remote.sizes[file]


def _load(checkpoint: Checkpoint, request: Request) -> AttentionMapProvider:
    """The model of files that are here."""
    parameters = _inspect(checkpoint, request)
    for file in checkpoint.weights:
        with (checkpoint.folder / file).open("rb") as content:
            _check_header(checkpoint.name, os.fstat(content.fileno()).st_size, partial(_part, content))
    request.tell(f"Loading {checkpoint.name}")
    with _one_at_a_time(request):
        request.check(more=4 * parameters)
        model = load_checkpoint(checkpoint)
        # Run it once, on noise, since finite weights may still give maps that are not finite.
        generator = torch.Generator().manual_seed(0)
        size = (1, 3, model.image_size, model.image_size)
        model.logits(*(torch.randint(0, 256, size, dtype=torch.uint8, generator=generator) for _ in range(2)))
    return model


def _check_name(name: str, revision: str | None, embedded: dict[str, Path], local: bool) -> None:
    """Make sure that a visitor's words have the form of a repository on the Hub."""
    if not _NAME.fullmatch(name) or not is_repo_id(name):
        raise VisitorError(
            f"{_shown(name)} is no name of a model. Write ORG/NAME, as on the Hub, without its address; or one of "
            f"those that come with this page: {', '.join(embedded)}."
            + (" There is no such folder either." if local else "")
        )
    if revision is not None and (not _REVISION.fullmatch(revision) or len(revision) > 100 or ".." in revision):
        raise VisitorError(f"{_shown(revision)} is no revision: write a branch, a tag or a commit of {name}.")


def _check_files(remote: Remote, limits: Limits) -> tuple[str, ...]:
    """The names of a model's weight files, if what the Hub says about them is within the limits."""
    name, names = remote.repo_id, list(remote.sizes)
    if CONFIG not in names:
        raise VisitorError(f"{name} holds no model: it has no {CONFIG}. Take another.")
    weights = weights_among(names)
    if not weights:
        why = "has no safetensors"
        if any(file.endswith(PICKLED) for file in names):
            why = "has only pickled weights, which can run code when they are opened"
        raise VisitorError(f"{name} {why}. Its owner can convert it; until then take another model.")
    total = sum(remote.sizes[file] for file in weights)
    if total > limits.weight_bytes or len(weights) > _MOST_PARTS:
        raise VisitorError(
            f"{name} has {in_bytes(total)} of weights in {len(weights)} files; here the limit is "
            f"{in_bytes(limits.weight_bytes)} in {_MOST_PARTS}. {_SMALLER}"
        )
    if remote.info.safetensors is not None:
        _check_parameters(name, remote.info.safetensors.total, limits)
    return weights


def _inspect(checkpoint: Checkpoint, request: Request) -> int:
    """The number of parameters of a model whose config and image processor are here, if they are within the limits."""
    try:
        plan = plan_of(checkpoint, None)
    except SingleLifeError as error:
        if _needs_code(checkpoint):
            raise VisitorError(
                f"{checkpoint.name} needs code of its own, which is not run here. Take another model, or one of these "
                f"architectures: {', '.join(sorted({*ARCHITECTURES, *DUAL_TOWERS}))}."
            ) from error
        raise
    _check_numbers(checkpoint.name, plan.config)
    _, _, grid = geometry(checkpoint.name, plan.config, plan.processor)
    if grid[0] * grid[1] > request.limits.patches:
        size = f"{grid[0]} x {grid[1]} patches; here the limit is {request.limits.patches}"
        raise VisitorError(f"{checkpoint.name} cuts a view into {size}.")
    sides = [each for name in _SIZES for each in dict(getattr(plan.processor, name, None) or {}).values()]
    if any(isinstance(side, int | float) and side > _LONGEST_SIDE for side in sides):
        raise VisitorError(f"The image processor of {checkpoint.name} makes views of over {_LONGEST_SIDE} px.")
    with _one_at_a_time(request), torch.device("meta"):
        model = AutoModel.from_config(plan.config)
    parameters = sum(each.numel() for each in (*model.parameters(), *model.buffers()))
    _check_parameters(checkpoint.name, parameters, request.limits)
    return parameters


def _needs_code(checkpoint: Checkpoint) -> bool:
    try:
        return "auto_map" in json.loads((checkpoint.folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError, RecursionError):
        return False


def _check_parameters(name: str, parameters: int, limits: Limits) -> None:
    if parameters > limits.parameters:
        raise VisitorError(
            f"{name} has {parameters / 1e6:,.0f} million parameters; here the limit is {limits.parameters / 1e6:,.0f} "
            f"million. {_SMALLER}"
        )


def _check_numbers(name: str, config: PretrainedConfig) -> None:
    """Make sure that a model of this config can be made at all, even without memory."""
    for field, value in config.to_dict().items():
        numbers = value if isinstance(value, list | tuple) else (value,)
        most = _LARGEST_FIELD
        if "layers" in field or "depth" in field:
            most = _MOST_LAYERS
        elif field in ("num_register_tokens", "num_query_tokens"):
            most = _MOST_OTHER_TOKENS
        if wrong := [each for each in numbers if isinstance(each, int) and abs(each) > most]:
            raise VisitorError(f"The config of {name} says {field} {wrong[0]:.0e}; here the limit is {most}.")


def _check_header(name: str, size: int, read: Callable[[int, int], bytes]) -> None:
    """Make sure that the header of a safetensors file describes a file of its size, tensor after tensor.

    Args:
        name: of the model.
        size: of the file, in bytes.
        read: gives bytes of the file, by an offset and their number.

    Raises:
        VisitorError: it does not, so the file is cut off, damaged, or made to do harm.
    """
    start = read(0, 8)
    length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
    if not 0 < length <= min(_LARGEST_HEADER, size - 8):
        raise VisitorError(
            f"The weights of {name} are no safetensors: their header would have {length:,} bytes of {size:,}."
        )
    try:
        described = json.loads(read(8, length))
        tensors = [tensor for key, tensor in described.items() if key != "__metadata__"]
        spans = sorted((*map(int, each["data_offsets"]), _bytes(each["dtype"], each["shape"])) for each in tensors)
        end = 0
        for first, last, count in spans:
            if first != end or last - first != count:
                raise ValueError("gaps, or tensors that are not as large as their shape")
            end = last
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise VisitorError(f"The header of the weights of {name} is damaged. {_UPLOAD_AGAIN}") from error
    if 8 + length + end != size:
        raise VisitorError(
            f"The weights of {name} are cut off or damaged: by their header they have {in_bytes(8 + length + end)}, "
            f"the file has {in_bytes(size)}. {_UPLOAD_AGAIN}"
        )


def _part(content: BinaryIO, first: int, count: int) -> bytes:
    content.seek(first)
    return content.read(count)


def _bytes(dtype: str, shape: list[int]) -> int:
    if any(not isinstance(side, int) or side < 0 for side in shape):
        raise ValueError("not a shape")
    return math.prod(shape) * _BITS[dtype] // 8


@contextmanager
def _one_at_a_time(request: Request) -> Iterator[None]:
    """Models are made one after the other: while transformers makes one, it changes how torch fills any other."""
    while not _loading.acquire(timeout=0.2):
        request.check()
    try:
        yield
    finally:
        _loading.release()


@lru_cache(maxsize=200)
def _search(words: str, minute: int) -> list[str]:
    """What the Hub finds for some words; asked once a minute."""

    def listed(tag: str, limit: int) -> list[dict[str, Any]]:
        wanted = {"search": words, "filter": tag, "sort": "downloads", "limit": str(limit)}
        headers, address = build_hf_headers(token=visible_token()), f"{constants.ENDPOINT}/api/models"
        answer = get_session().get(address, params=wanted, headers=headers, timeout=_SEARCH_SECONDS)
        hf_raise_for_status(answer)
        return answer.json()

    supported = {*ARCHITECTURES, *DUAL_TOWERS}
    others = listed("safetensors", 100) if words else []
    found = listed(TAG, 20) + [each for each in others if supported & set(each.get("tags") or [])]
    return [name for name in dict.fromkeys(each["id"] for each in found) if _NAME.fullmatch(name)]


def _shown(words: str) -> str:
    """What a visitor typed, as it may be shown again."""
    return repr(words if len(words) <= 80 else words[:79] + "…")
