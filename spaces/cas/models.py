"""The models of visitors: named by anybody, looked at from afar, fetched within limits, and opened without trust.

What is known of a model before any of its weights are here: the sizes of its files from the Hub, the architecture and
the number of parameters from its config, and the shape of every tensor from the headers of its safetensors files.
Nothing but JSON and safetensors is ever fetched.
"""

import json
import math
import os
import re
import struct
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import BinaryIO

import torch
from downloads import ModelCache, Progress, Remote, Request, search
from huggingface_hub.constants import HF_HUB_OFFLINE
from limits import Limits, VisitorError, log, memory_guard, visitor_message
from transformers import AutoModel, PretrainedConfig

from singlelife.alignment.models import UNTRAINED, AttentionMapProvider, load_checkpoint, load_model, plan_of
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
from singlelife.files import config_names
from singlelife.hub.cards import TAG
from singlelife.hub.errors import is_repo_id
from singlelife.lives.prepare import default_cache_dir
from singlelife.text import in_bytes

_NAME = re.compile(r"[A-Za-z0-9][\w-]*/[A-Za-z0-9][\w.-]*", re.ASCII)  # an organisation has no dot: an address has
_REVISION = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)*", re.ASCII)
_SEED = re.compile(r"\d{1,9}", re.ASCII)
_LARGEST_JSON = 1 << 20  # bytes of a config
_LARGEST_INDEX = 4 << 20
_LARGEST_HEADER = 8 << 20  # bytes of a safetensors file's header; that of a billion parameters takes some 100 kB
_MOST_PARTS = 50  # files of weights
_MOST_LAYERS = 256
_MOST_OTHER_TOKENS = 64  # registers
_LONGEST_SIDE = 4096  # pixels that an image processor may resize to
_LARGEST_FIELD = 10**6  # of any number in a config: what is above makes no layer
_SIZES = ("size", "crop_size", "pad_size")  # of an image processor
_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "U16": 16, "I16": 16, "F16": 16, "BF16": 16,
    "U32": 32, "I32": 32, "F32": 32, "U64": 64, "I64": 64, "F64": 64,
}  # fmt: skip
_TOLD_EVERY = 0.2  # seconds, of a download
_SEARCH_SECONDS = 3.0
_SEARCH_KEPT = 60.0  # seconds for which the Hub is not asked the same again, or anything if it did not answer

_loading = threading.Lock()


def embedded_models() -> dict[str, Path]:
    """The models that come with the Space, by name; each is a folder in `models`."""
    folder = Path(__file__).resolve().parent / "models"
    return {path.parent.name: path.parent for path in sorted(folder.glob("*/config.json"))}


def open_model(
    name: str,
    revision: str | None = None,
    *,
    limits: Limits,
    progress: Progress | None = None,
    cancelled: Callable[[], bool] | None = None,
    local: bool = False,
    layers: Sequence[int] | None = None,
    method: str | None = None,
) -> AttentionMapProvider:
    """A model that a visitor names, on the CPU.

    Nothing that it returns is kept here: to open the same model once for several visitors, keep what is returned.
    Several threads may use one at a time, since running a model changes nothing in it.

    Args:
        name: a Hub id, ORG/NAME; the name of an embedded model; `untrained:MODEL` or `untrained:MODEL@SEED` for fresh
            weights of a preset or of an embedded model's architecture; and, only if `local`, a folder.
        revision: a branch, tag or commit on the Hub; its main branch by default.
        progress: is told what is done, in a few words, and the share of it that is done, 0 to 1, or None.
        cancelled: whether the visitor has given up; asked with each chunk of a download, and while waiting. The
            loading of weights that are here is not interrupted.
        local: the visitor is the owner of this machine, and may open folders.
        layers, method: as of [`singlelife.alignment.models.load_model`].

    Raises:
        VisitorError: whatever is wrong with the model, its name, or the way to it.
    """
    request = Request(limits, progress, cancelled)
    try:
        with memory_guard(limits):
            return _open(name.strip(), revision.strip() if revision else None, request, local, layers, method)
    except VisitorError:
        raise
    except SingleLifeError as error:
        raise VisitorError(str(error) if local else visitor_message(error)) from error  # the owner knows the paths
    except (ValueError, TypeError, KeyError, AttributeError, RuntimeError, ArithmeticError, RecursionError) as error:
        # From deep in the code of an architecture, whose config says what it should not.
        log.info("A model could not be opened", exc_info=error)
        raise VisitorError(
            f"{_shown(name)} cannot be opened: its config, image processor and weights do not fit together. Take "
            "another model."
        ) from error


def search_models(text: str, limit: int = 10) -> list[str]:
    """Hub ids of models that can be compared, for what has been typed so far: lives first. For no text, lives alone.

    Empty where nothing is found, or the Hub does not answer within a few seconds; it is then left alone for a minute.
    Takes those seconds at most; the same words are looked up once a minute.
    """
    return [] if HF_HUB_OFFLINE else _searches(" ".join(text.split())[:100])[:limit]


def _open(
    name: str,
    revision: str | None,
    request: Request,
    local: bool,
    layers: Sequence[int] | None,
    method: str | None,
) -> AttentionMapProvider:
    embedded = embedded_models()
    if name.startswith(UNTRAINED):
        return _untrained(name, embedded, request, layers, method)
    if revision is None and name.count("@") == 1:
        name, _, revision = name.partition("@")
    shown = f"{name}@{revision}" if revision else name
    if name in embedded:
        if revision:
            raise VisitorError(f"{name} comes with this page and has no revisions. Leave the revision empty.")
        return _load(Checkpoint(name, embedded[name], weights_among(_names(embedded[name]))), request, layers, method)
    if local and name and Path(name).expanduser().is_dir():
        return _load(find_checkpoint(name), request, layers, method)
    _check_name(name, revision, embedded, local)

    request.tell(f"Looking up {shown}")
    remote = Remote(name, revision, request)
    weights = _check_files(remote, request.limits)
    cache = ModelCache(default_cache_dir() / "space-models", request.limits.cache_bytes)

    def fill(folder: Path) -> None:
        for file in (CONFIG, *PROCESSORS):
            if file in remote.sizes:
                (folder / file).write_bytes(remote.small_file(file, _LARGEST_JSON))
        if len(weights) > 1 and INDEX in remote.sizes:
            (folder / INDEX).write_bytes(remote.small_file(INDEX, _LARGEST_INDEX))
        _inspect(Checkpoint(shown, folder, weights, commit=remote.commit), request, method)
        for file in weights:
            _check_header(name, remote.sizes[file], partial(remote.read_part, file))
        total = sum(remote.sizes[file] for file in weights)
        cache.make_room(folder, total, request.check)
        before = 0
        for file in weights:
            remote.download(file, folder / file, partial(told, total, before))
            before += remote.sizes[file]

    last_told = -math.inf

    def told(total: int, before: int, got: int) -> None:
        nonlocal last_told
        got, now = got + before, time.monotonic()
        if got == total or now - last_told > _TOLD_EVERY:
            last_told = now
            request.tell(f"Downloading {shown}: {in_bytes(got)} of {in_bytes(total)}", got / total)

    def wait() -> None:
        request.tell(f"Waiting for {shown}, which another visitor is opening")

    with cache.use(f"{name.replace('/', '--')}@{remote.commit}", fill, wait) as folder:
        return _load(Checkpoint(shown, folder, weights, commit=remote.commit), request, layers, method)


def _load(
    checkpoint: Checkpoint, request: Request, layers: Sequence[int] | None, method: str | None
) -> AttentionMapProvider:
    """The model of files that are here."""
    parameters = _inspect(checkpoint, request, method)
    for file in checkpoint.weights:
        with (checkpoint.folder / file).open("rb") as content:
            _check_header(checkpoint.name, os.fstat(content.fileno()).st_size, partial(_part, content))
    request.tell(f"Loading {checkpoint.name}")
    with _one_at_a_time(request), memory_guard(request.limits) as memory:
        memory.check(more=4 * parameters)
        model = load_checkpoint(checkpoint, method=method, layers=layers)
        _try(model)
    return model


def _untrained(
    name: str, embedded: dict[str, Path], request: Request, layers: Sequence[int] | None, method: str | None
) -> AttentionMapProvider:
    where, at, seed = name.removeprefix(UNTRAINED).partition("@")
    presets = config_names("models")
    if (where not in presets and where not in embedded) or (at and not _SEED.fullmatch(seed)):
        raise VisitorError(
            f"{_shown(name)} is no untrained model here. Write {UNTRAINED}MODEL or {UNTRAINED}MODEL@SEED, where MODEL "
            f"is one of {', '.join((*presets, *embedded))} and SEED a whole number."
        )
    request.tell(f"Making {name}")
    spec = f"{UNTRAINED}{embedded.get(where, where)}@{seed or 0}"
    with _one_at_a_time(request), memory_guard(request.limits):
        model = load_model(spec, method=method, layers=layers)
    model.name = name
    return model


def _check_name(name: str, revision: str | None, embedded: dict[str, Path], local: bool) -> None:
    """Whether a visitor's words have the form of a repository on the Hub, and nothing else."""
    if not _NAME.fullmatch(name) or not is_repo_id(name):
        known = ", ".join(embedded) or "none here"
        raise VisitorError(
            f"{_shown(name)} is no name of a model. Write ORG/NAME, as on the Hub, without its address; or one of "
            f"those that come with this page: {known}." + (" There is no such folder either." if local else "")
        )
    if revision is not None and (not _REVISION.fullmatch(revision) or len(revision) > 100 or ".." in revision):
        raise VisitorError(f"{_shown(revision)} is no revision: write a branch, a tag or a commit of {name}.")


def _check_files(remote: Remote, limits: Limits) -> tuple[str, ...]:
    """The names of a model's files of weights, if what the Hub says of it is within the limits."""
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
            f"{name} has {in_bytes(total)} of weights in {len(weights)} files; here they may be "
            f"{in_bytes(limits.weight_bytes)} in {_MOST_PARTS}. Take a smaller model, or run "
            "`singlelife cas` on your own machine."
        )
    said = remote.info.safetensors
    if said is not None and said.total > limits.parameters:
        raise _too_many(name, said.total, limits)
    return weights


def _inspect(checkpoint: Checkpoint, request: Request, method: str | None) -> int:
    """The number of parameters of a model whose config and image processor are here, if they are within the limits."""
    try:
        needs_code = "auto_map" in json.loads((checkpoint.folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError, RecursionError):
        needs_code = False  # that it cannot be read is told below
    try:
        plan = plan_of(checkpoint, method)
    except SingleLifeError as error:
        if needs_code:
            raise VisitorError(
                f"{checkpoint.name} needs code of its own, which is not run here. Take another model, or one of these "
                f"architectures: {', '.join(sorted({*ARCHITECTURES, *DUAL_TOWERS}))}."
            ) from error
        raise
    config, limits = plan.config, request.limits
    _check_numbers(checkpoint.name, config)
    _, _, grid = geometry(checkpoint.name, config, plan.processor)
    if grid[0] * grid[1] > limits.patches:
        raise VisitorError(
            f"{checkpoint.name} cuts a view into {grid[0]} x {grid[1]} patches; here it may be {limits.patches}."
        )
    sides = [each for name in _SIZES for each in dict(getattr(plan.processor, name, None) or {}).values()]
    if any(isinstance(side, int | float) and side > _LONGEST_SIDE for side in sides):
        raise VisitorError(
            f"The image processor of {checkpoint.name} makes views of over {_LONGEST_SIDE} px. Take another model."
        )
    with _one_at_a_time(request), torch.device("meta"):
        model = AutoModel.from_config(config)
    parameters = sum(each.numel() for each in model.parameters()) + sum(each.numel() for each in model.buffers())
    if parameters > limits.parameters:
        raise _too_many(checkpoint.name, parameters, limits)
    return parameters


def _check_numbers(name: str, config: PretrainedConfig) -> None:
    """Whether a model of this config can be made at all, be it without memory."""
    for field, value in config.to_dict().items():
        numbers = value if isinstance(value, list | tuple) else (value,)
        most = _LARGEST_FIELD
        if "layers" in field or "depth" in field:
            most = _MOST_LAYERS
        elif field in ("num_register_tokens", "num_query_tokens"):
            most = _MOST_OTHER_TOKENS
        if wrong := [each for each in numbers if isinstance(each, int) and abs(each) > most]:
            raise VisitorError(f"The config of {name} says {field} {wrong[0]:.0e}; here it may be {most} at most.")


def _check_header(name: str, size: int, read: Callable[[int, int], bytes]) -> None:
    """Whether the header of a safetensors file describes a file of its size, tensor after tensor.

    Args:
        name: of the model.
        size: of the file, in bytes.
        read: bytes of it, from an offset on, so many.

    Raises:
        VisitorError: it does not, so the file is cut off, damaged, or made to do harm.
    """
    start = read(0, 8)
    length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
    if not 0 < length <= min(_LARGEST_HEADER, size - 8):
        raise VisitorError(
            f"The weights of {name} are no safetensors: their header would have {length:,} bytes of {size:,}, where "
            f"at most {_LARGEST_HEADER:,} are taken. Take another model."
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
        raise VisitorError(
            f"The header of the weights of {name} is damaged. Its owner has to upload them again; take another model."
        ) from error
    if 8 + length + end != size:
        raise VisitorError(
            f"The weights of {name} are cut off or damaged: by their header they have {in_bytes(8 + length + end)}, "
            f"the file has {in_bytes(size)}. Its owner has to upload them again; take another model."
        )


def _part(content: BinaryIO, first: int, count: int) -> bytes:
    content.seek(first)
    return content.read(count)


def _bytes(dtype: str, shape: list[int]) -> int:
    if any(not isinstance(side, int) or side < 0 for side in shape):
        raise ValueError("a shape that is none")
    return math.prod(shape) * _BITS[dtype] // 8


def _try(model: AttentionMapProvider) -> None:
    """Run a model once, on noise, since weights that are finite may still give what is not."""
    generator = torch.Generator().manual_seed(0)
    size = (1, 3, model.image_size, model.image_size)
    views = [torch.randint(0, 256, size, dtype=torch.uint8, generator=generator) for _ in range(2)]
    model.logits(*views)


@contextmanager
def _one_at_a_time(request: Request) -> Iterator[None]:
    """Models are made one after the other: while transformers makes one, it changes how torch fills any other."""
    while not _loading.acquire(timeout=0.2):
        request.check()
    try:
        yield
    finally:
        _loading.release()


class _Searches:
    """What was found for words in the last minute."""

    def __init__(self) -> None:
        self._found: OrderedDict[str, tuple[float, list[str]]] = OrderedDict()
        self._away_until = 0.0

    def __call__(self, words: str) -> list[str]:
        now = time.monotonic()
        kept = self._found.get(words)
        if kept is not None and now - kept[0] < _SEARCH_KEPT:
            return kept[1]
        if now < self._away_until:
            return []
        try:
            lives = search(words, TAG, 20, _SEARCH_SECONDS / 2)
            others = search(words, "safetensors", 100, _SEARCH_SECONDS / 2) if words else []
        except ConnectionError:
            self._away_until = now + _SEARCH_KEPT
            return []
        supported = {*ARCHITECTURES, *DUAL_TOWERS}
        kinds = {kind: set(each.get("tags") or []) for each in others if (kind := str(each.get("id")))}
        found = [str(each.get("id")) for each in lives] + [one for one, tags in kinds.items() if tags & supported]
        found = [each for each in dict.fromkeys(found) if _NAME.fullmatch(each)]
        self._found[words] = now, found
        while len(self._found) > 200:
            self._found.popitem(last=False)
        return found


_searches = _Searches()


def _too_many(name: str, parameters: int, limits: Limits) -> VisitorError:
    return VisitorError(
        f"{name} has {parameters / 1e6:,.0f} million parameters; here it may have {limits.parameters / 1e6:,.0f} "
        "million. Take a smaller model, or run `singlelife cas` on your own machine."
    )


def _names(folder: Path) -> list[str]:
    return [file.name for file in folder.iterdir()]


def _shown(words: str) -> str:
    """What a visitor typed, as it may be shown again."""
    return repr(words if len(words) <= 80 else words[:79] + "…")
