"""What visitors name as a model: opened where it is one, within limits, and else refused with a reason, at no cost."""

import json
import os
import re
import shutil
import socketserver
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest
import torch
from downloads import kept
from limits import Cancelled, Limits, Request, VisitorError, memory_errors_for_visitors, visitor_message
from models import open_model

from singlelife.alignment.models import load_model
from singlelife.errors import CheckpointError, SingleLifeError
from singlelife.lives.registry import default_cache_dir
from singlelife.machine import resident

from ..alignment.test_backbones import MODELS, saved
from ..alignment.test_model_checkpoints import (
    Change,
    Files,
    config_with,
    content,
    file_with,
    huge_header,
    pickled,
    weights_elsewhere,
    weights_with,
    without,
)
from ..hub_server import STRANGER, WRITER, Fault, Hub
from .conftest import peaks

pytestmark = pytest.mark.integration
SPACE = Path(__file__).parents[2] / "spaces" / "cas"
SETUP = """
import os, sys
if space not in sys.path:
    sys.path.insert(0, space)
os.environ["SINGLELIFE_CACHE"] = cache
os.environ["HF_HUB_DOWNLOAD_TIMEOUT"] = str(patience)
import models, torch
from limits import Limits, Request
"""
OPEN = (
    SETUP
    + """
told = []
def progress(what, share):
    told.append([what, share])
def cancelled():
    return cancel is not None and any(what.startswith(cancel) for what, _ in told)
images = torch.arange(2 * 3 * 32 * 32).reshape(2, 3, 32, 32).remainder(251).to(torch.uint8)
model = models.open_model(name, Request(Limits(**limits), progress, cancelled))
result = [model.name, model.revision, model.logits(images[:1], images[1:]).tolist(), told]
"""
)


@pytest.fixture(scope="module")
def vit(tmp_path_factory) -> Path:
    config, processor, _ = MODELS["vit"]
    return saved(tmp_path_factory.mktemp("models") / "vit", config, processor)


@pytest.fixture(scope="module")
def dino(tmp_path_factory) -> Path:
    config, processor, _ = MODELS["dinov2"]
    return saved(tmp_path_factory.mktemp("models") / "dinov2", config, processor)


@pytest.fixture
def ask(hub_client, tmp_path) -> Callable:
    """Opens a model in a process whose Hub is that on loopback, with a cache of this test's own."""

    def ask(name="lives/vit", token=None, cancel=None, code=OPEN, patience=10, **limits):
        there = {"space": str(SPACE), "cache": tmp_path, "patience": patience}
        return hub_client.ask(code, token, name=name, cancel=cancel, limits=limits, **there)

    return ask


def opened(name: str, local: bool = False, **limits: float):
    return open_model(name, Request(Limits(**limits)), local=local)


def models_kept(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "space-models").glob("[!.]*"))


def downloads(hub: Hub) -> int:
    """How often weights were asked for."""
    return sum(method == "GET" and path.endswith(".safetensors") for method, path, _ in hub.requests)


# A model that is one.


def test_a_model_of_the_hub_is_opened_by_revision_and_kept(hub, ask, vit, tmp_path):
    repository = hub.create("lives/vit", "model")
    first = hub.put(repository, content(vit))
    hub.put(repository, {"README.md": b"---\n{}\n---\nnew"})
    images = torch.arange(2 * 3 * 32 * 32).reshape(2, 3, 32, 32).remainder(251).to(torch.uint8)
    expected = load_model(str(vit)).logits(images[:1], images[1:])

    answer = ask(f"lives/vit@{first}")
    assert answer.error is None, answer.error[2]
    name, revision, logits, told = answer.result
    assert (name, revision) == (f"lives/vit@{first}", first)
    torch.testing.assert_close(torch.tensor(logits), expected)
    assert told[0][0].startswith("Looking up") and told[-2][1] == 1.0 and told[-1][0].startswith("Loading")

    asked = downloads(hub)
    assert ask(f"lives/vit@{first}").result[:2] == [name, first]
    assert downloads(hub) == asked  # it was kept
    assert models_kept(tmp_path) == [f"lives--vit@{first}"]


def test_no_token_of_the_host_goes_out_for_a_visitor_unless_its_owner_says_so(hub, ask, vit, hub_client):
    hub.put(hub.create("lives/vit", "model"), content(vit))
    hub.put(hub.create("ann/mine", "model", private=True), content(vit))
    assert ask(token=WRITER).error is None
    refused = ask("ann/mine", token=WRITER).error
    assert refused[0] == "VisitorError" and "There is no model ann/mine on the Hub" in refused[1]
    assert len(hub.requests) > 5 and {token for _, _, token in hub.requests} == {None}

    hub_client("import os; os.environ['SINGLELIFE_SPACE_USE_TOKEN'] = '1'; result = None")
    try:
        assert ask("ann/mine", token=WRITER).error is None
    finally:
        hub_client("import os; del os.environ['SINGLELIFE_SPACE_USE_TOKEN']; result = None")


def test_visitors_who_want_the_same_model_share_its_download(hub, ask, vit):
    hub.put(hub.create("lives/vit", "model"), content(vit))
    code = SETUP + (
        "from concurrent.futures import ThreadPoolExecutor\n"
        "with ThreadPoolExecutor(4) as pool:\n"
        "    found = list(pool.map(lambda _: models.open_model(name, Request(Limits())), range(4)))\n"
        "result = len({model.revision for model in found})\n"
    )
    answer = ask(code=code)
    assert answer.error is None, answer.error[2]
    assert answer.result == 1
    assert downloads(hub) == 1


@pytest.mark.parametrize("kind", MODELS)
def test_every_architecture_that_is_supported_passes(kind, tmp_path):
    config, processor, _ = MODELS[kind]
    folder = str(saved(tmp_path / kind, config, processor))
    ours, theirs = opened(folder, local=True), load_model(folder)
    assert (ours.revision, ours.method, ours.grid) == (theirs.revision, theirs.method, theirs.grid)


# Models that are none, or do harm.


@dataclass
class Bad:
    """A repository that is not to be opened."""

    message: str
    """What a visitor is told."""
    files: Change = lambda files: files
    """From those of a good model to its own."""
    told: Callable[[Files], dict[str, int]] = lambda files: {}
    """The sizes that the Hub tells, from those of the files."""
    options: dict[str, bool] = field(default_factory=dict)
    weights: bool = False
    """Whether they are fetched before they are found to be bad."""
    of: str = "vit"
    """Which good model it is made from."""


def header(data: bytes, change: Callable[[dict], object]) -> bytes:
    (length,) = struct.unpack("<Q", data[:8])
    described = json.loads(data[8 : 8 + length])
    change(described)
    encoded = json.dumps(described).encode()
    return struct.pack("<Q", len(encoded)) + encoded + data[8 + length :]


def processor(field: str, side: int) -> Change:
    huge = {field: {"height": side, "width": side}}
    return file_with("preprocessor_config.json", lambda data: json.dumps(json.loads(data) | huge).encode())


NUMBERS: tuple[tuple[str, dict], ...] = (  # what the message names, and the fields of a config
    ("num_labels 4e", {"num_labels": 40_000_000}),
    ("num_labels 4e", {"model_type": "clip", "text_config": {"num_labels": 40_000_000}}),
    ("num_hidden_layers 1e", {"num_hidden_layers": 10**9}),
    ("hidden_size 1e", {"hidden_size": 10**12}),
    ("num_register_tokens 1e", {"model_type": "dinov2_with_registers", "num_register_tokens": 10**5}),
    ("depths 1e", {"model_type": "siglip", "vision_config": {"a": [{"depths": [3, 10**9]}]}}),
    ("mlp_ratio 1e", {"model_type": "dinov2", "mlp_ratio": 1e300}),
    ("rope_theta nan", {"rope_theta": float("nan")}),
    ("2,000 values of pooler_sizes", {"pooler_sizes": [1] * 2000}),
)
WEIGHTS = "model.safetensors"
DAMAGED = "cannot be loaded as safetensors"
BAD = {
    "gated": Bad("lives/vit is gated", options={"gated": True}),
    "private": Bad("no model lives/vit on the Hub", options={"private": True}),
    "no config": Bad("has no config.json", without("config.json")),
    "no weights": Bad("has no safetensors weights", without(WEIGHTS)),
    "empty weights": Bad("has an empty weights file", file_with(WEIGHTS, lambda d: b"")),
    "pickles": Bad("only pickled weights, which can run code", pickled),
    "another architecture": Bad("has the architecture 'bert', which is not known", config_with(model_type="bert")),
    "code of its own": Bad(
        "of the architecture 'own', cannot be used",
        config_with(model_type="own", auto_map={"AutoConfig": "own.C", "AutoModel": "own.M"}),
    ),
    "attention code of the Hub": Bad("the field attn_implementation", config_with(attn_implementation="evil/kernels")),
    "100 GB": Bad("has 100.0 GB of weights in 1 files; the limit", told=lambda files: {WEIGHTS: 100 * 10**9}),
    "100 GB in secret": Bad(
        "cannot be loaded as safetensors",
        file_with(WEIGHTS, lambda data: huge_header() + b"x" * 500_000),
        weights=True,
    ),
    "more than it said": Bad(
        "sends more of lives/vit than it lists",
        file_with(WEIGHTS, lambda data: data + b"x" * (300 << 20)),
        told=lambda files: {WEIGHTS: len(files[WEIGHTS]) - (300 << 20)},
        weights=True,
    ),
    "less than it said": Bad(
        "differs from what the Hub lists", told=lambda files: {WEIGHTS: len(files[WEIGHTS]) + 100}, weights=True
    ),
    "an index that leads elsewhere": Bad("names weights that it does not have", weights_elsewhere, weights=True),
    "not a number": Bad(
        "weights of lives/vit are not finite",
        weights_with(lambda w: w["layernorm.bias"].fill_(torch.nan)),
        weights=True,
    ),
    **{
        case: Bad(message, file_with(WEIGHTS, change), weights=True)
        for case, message, change in (
            ("cut off", DAMAGED, lambda d: d[: len(d) // 2]),
            ("one on top of another", DAMAGED, lambda d: header(d, lambda h: h.update(more=h["layernorm.bias"]))),
            ("a huge header", "header is over", lambda d: struct.pack("<Q", 1 << 40) + d),
        )
    },
    "too many parameters": Bad(
        r"has [\d,]+ million parameters; the limit here is 1,000", config_with(hidden_size=8192, num_hidden_layers=99)
    ),
    "too many patches": Bad(r"splits a view into 500 x 500 patches", config_with(image_size=4000)),
    "no patches": Bad("patches of 0 x 0 px", config_with(patch_size=0)),
    "too many patches by the processor": Bad(
        r"splits a view into 500 x 500 patches", processor("crop_size", 4000), of="dino"
    ),
    "views that are resized to gigabytes": Bad(
        "preprocessor_config.json of lives/vit says (height|width) 1e", processor("size", 10**5), of="croco"
    ),
    **{
        f"config {number}": Bad(f"config.json of lives/vit (says|has) {facts}", config_with(**fields))
        for number, (facts, fields) in enumerate(NUMBERS)
    },
    "a config of megabytes": Bad("config.json of lives/vit is larger", config_with(padding="x" * (5 << 20))),
    "a deep config": Bad("config.json of lives/vit cannot be", file_with("config.json", lambda data: b"[" * 100_000)),
    "no processor": Bad("has no image processor", without("preprocessor_config.json")),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_a_bad_model_of_the_hub_is_refused_with_the_reason_and_little_is_fetched(
    case, hub, ask, vit, dino, micro_checkpoint, tmp_path
):
    bad = BAD[case]
    files = bad.files(content({"vit": vit, "dino": dino, "croco": micro_checkpoint}[bad.of]))
    repository = hub.create("lives/vit", "model", **bad.options)
    hub.put(repository, files)
    repository.told_sizes = bad.told(files)
    answer = ask(token=STRANGER)
    assert answer.error[0] == "VisitorError", answer.error[2]
    assert re.search(bad.message, answer.error[1]), answer.error[1]
    assert downloads(hub) <= bad.weights
    safe_to_show(answer.error[1], tmp_path)
    assert not any(name.endswith(".tmp") for name in models_kept(tmp_path))
    assert "own.py" not in str(hub.requests)


def safe_to_show(message: str, *folders: Path) -> None:
    assert len(message) < 700 and "\n" not in message
    for secret in (*map(str, folders), str(Path.home()), "hf_", "Traceback", ".py", "site-packages"):
        assert secret not in message, message


def test_the_implementation_of_attention_is_not_the_configs_choice(hub, ask, vit):
    """FlexAttention compiles for minutes, and others are not installed."""
    hub.put(hub.create("lives/vit", "model"), content(vit))
    expected = ask().result[2]
    for name in ("flex_attention", "flash_attention_2"):
        hub.put(hub.create(f"lives/{name}", "model"), config_with(_attn_implementation=name)(content(vit)))
        start, answer = time.monotonic(), ask(f"lives/{name}")
        assert answer.error is None and answer.result[2] == expected and time.monotonic() - start < 30


def test_hostile_numbers_take_no_memory_and_a_wide_model_only_what_was_foreseen(vit, tmp_path):
    """Measured by the peak of a process of its own."""
    for index, (_, fields) in enumerate(NUMBERS):
        shutil.copytree(vit, tmp_path / str(index))
        (tmp_path / str(index) / "config.json").write_bytes(config_with(**fields)(content(vit))["config.json"])
    architecture, image_processor, _ = MODELS["vit"]
    wide = type(architecture)(**architecture.to_dict() | {"intermediate_size": 10_000, "image_size": 256})
    saved(tmp_path / "wide", wide, image_processor)
    code = f"""
from limits import Limits, Request, VisitorError
from models import _inspect, open_model
from singlelife.alignment.models.checkpoints import find_checkpoint
import torch
for index in range({len(NUMBERS)}):
    try:
        open_model(f"{tmp_path}/{{index}}", Request(Limits()), local=True)
        raise AssertionError(index)
    except VisitorError:
        pass
hostile = peak_resident() - before
parameters, of_a_pair = _inspect(find_checkpoint("{tmp_path}/wide"), Request(Limits()))
try:
    _inspect(find_checkpoint("{tmp_path}/wide"), Request(Limits(memory=of_a_pair)))
    raise AssertionError
except VisitorError:
    pass
request = Request(Limits(memory=resident() + 4 * parameters + int(2.5 * of_a_pair)))
model, before = open_model("{tmp_path}/wide", request, local=True), resident()
views = torch.zeros(5, 3, 256, 256, dtype=torch.uint8)
assert model.logits(views, views).shape == (5, 1024, 1024)
print(hostile, peak_resident() - before, of_a_pair)
"""
    hostile, taken, of_a_pair = peaks(code)
    assert hostile < 150e6
    assert 0.2 * of_a_pair < taken < 2.5 * of_a_pair  # of the 5 pairs that were asked for at once


def test_content_that_is_not_what_the_hub_has_is_not_taken(hub, ask, vit, tmp_path):
    repository = hub.create("lives/vit", "model")
    commit = hub.put(repository, content(vit))
    blob = hub.folder / repository.commits[commit][WEIGHTS].sha256
    blob.write_bytes(blob.read_bytes()[:-1] + b"?")
    assert "differs from what the Hub lists" in ask().error[1]
    assert models_kept(tmp_path) == []


# A Hub that fails.


def test_a_download_that_breaks_once_goes_on_from_there(hub, ask, vit):
    hub.put(hub.create("lives/vit", "model"), content(vit))
    size = len(content(vit)[WEIGHTS])
    hub.faults.append(Fault("GET", WEIGHTS, after=60_000))
    answer = ask()
    assert answer.error is None, answer.error[2]
    assert hub.sent < 1.5 * size + 60_000


def test_a_hub_that_stops_half_way_ends_with_what_to_do_and_keeps_no_half(hub, ask, vit, tmp_path):
    hub.put(hub.create("lives/vit", "model"), content(vit))
    hub.faults += [Fault("GET", WEIGHTS, after=60_000), Fault("GET", WEIGHTS, after=1, times=10**6, silent=0.5)]
    start = time.monotonic()
    answer = ask(patience=1, request_seconds=6)
    assert answer.error[0] == "VisitorError" and re.search("connection to the Hub broke|longer than", answer.error[1])
    assert time.monotonic() - start < 60
    assert models_kept(tmp_path) == []
    safe_to_show(answer.error[1], tmp_path)
    hub.faults.clear()
    assert ask().error is None


@pytest.mark.parametrize(
    ("given_up", "head"), [(True, "HTTP/1.1 "), (False, "HTTP/1.1 200 OK\r\nContent-Length: 99999\r\n\r\n")]
)
def test_a_hub_that_drips_is_left_when_time_is_over_or_the_visitor_gives_up(given_up, head, tmp_path, monkeypatch):
    """A byte every 0.1 s, so that no read is ever silent. Both happen half a second after the Hub is asked."""
    asked, over, started = threading.Event(), threading.Event(), set(psutil.Process().children())

    class Drip(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            asked.set()
            with suppress(OSError):
                self.request.sendall(head.encode())
                while not over.wait(0.1):
                    self.request.sendall(b"1")

    def cancelled() -> bool:
        if asked.is_set():
            time.sleep(0.5)
            ended.append(time.monotonic())
            if not given_up:
                request._end = 0.0
        return given_up and bool(ended)

    ended: list[float] = []
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Drip) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_address[1]}")
        monkeypatch.setenv("HF_HUB_OFFLINE", "0")
        monkeypatch.setenv("SINGLELIFE_CACHE", str(tmp_path))
        request = Request(Limits(), cancelled=cancelled)
        with pytest.raises(VisitorError, match="Cancelled" if given_up else "longer than"):
            open_model("lives/vit", request)
        assert time.monotonic() - ended[0] < 3
        assert set(psutil.Process().children()) <= started
        over.set()
        server.shutdown()


def test_what_is_not_there_and_a_hub_in_trouble_or_away_is_told(hub, ask, vit):
    hub.put(hub.create("lives/vit", "model"), content(vit))
    assert "There is no model lives/none" in ask("lives/none").error[1]
    assert "lives/vit has no such revision" in ask("lives/vit@nowhere").error[1]
    hub.faults.append(Fault("GET", "lives/vit", status=503, times=10**6))
    assert "the Hub has trouble (status 503)" in ask().error[1]
    hub.dead = True
    assert "the connection to the Hub broke" in ask().error[1]


def test_a_visitor_who_gives_up_or_waits_too_long_leaves_nothing(hub, ask, vit, tmp_path):
    hub.put(hub.create("lives/vit", "model"), content(vit))
    for begun in ("Looking", "Downloading"):
        assert ask(cancel=begun).error[:2] == ("Cancelled", "Cancelled.")
        assert models_kept(tmp_path) == []
    assert "This takes longer than" in ask(request_seconds=1e-6).error[1]
    assert models_kept(tmp_path) == []


# The cache.


@contextmanager
def use(folder: Path, key: str, size: int, during: Callable[[], object] = bool, **request) -> Iterator[Path]:
    """A model of some size, in a cache of 100 bytes."""

    def fill(aside: Path) -> None:
        (aside / "weights").write_bytes(b"x" * size)
        during()

    with kept(key, size, fill, folder, Request(Limits(cache_bytes=100), **request)) as there:
        yield there


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if not path.name.startswith(".")}


def test_what_was_used_longest_ago_makes_room_and_what_the_killed_left(tmp_path):
    for number, key in enumerate(("a", "b", "a")):
        with use(tmp_path, key, 40) as there:
            pass
        os.utime(there, (number, number))
    with use(tmp_path, "c", 40):
        assert names(tmp_path) == {"a", "c"}
    with pytest.raises(VisitorError, match="no room for this model here right now"), use(tmp_path, "d", 101):
        pass
    (tmp_path / "killed.tmp").mkdir()
    (tmp_path / "killed.tmp" / "weights").write_bytes(b"x" * 90)
    with use(tmp_path, "e", 90):
        assert names(tmp_path) == {"e"}


def test_visitors_take_turns_so_that_nothing_in_use_is_deleted_and_who_waits_may_give_up(tmp_path):
    begun, go_on = threading.Event(), threading.Event()

    def first() -> None:
        with use(tmp_path, "a", 80, lambda: (begun.set(), go_on.wait(30))):
            pass

    thread = threading.Thread(target=first)
    thread.start()
    assert begun.wait(30)
    for key in ("a", "b"):
        with pytest.raises(Cancelled), use(tmp_path, key, 40, cancelled=lambda: True):
            pass
    assert names(tmp_path) == {"a.tmp"}
    go_on.set()
    with use(tmp_path, "b", 40):
        assert names(tmp_path) == {"b"}
    thread.join()


# Names.


@pytest.mark.parametrize(
    "name",
    [
        "", " ", "vit", "/", "../../etc/passwd", "/etc/passwd", "lives/../vit", "./lives/vit", "lives//vit",
        "lives/vit/config.json", "~root/x", "file:///etc/passwd", "https://huggingface.co/lives/vit", "//127.0.0.1/x",
        "127.0.0.1/x", "localhost:8000/x", "169.254.169.254/latest", "[::1]/x", "C:\\models", "lives/v\nit",
        "lives/vit\0", "lives/vit?x=1", "lives/%2e%2e", "lives/vit.git", "lives/a--b", "ｌives/vit",
        "lives/" + "x" * 200, "untrained:/etc", "untrained:tiny@", "untrained:tiny@-1", "untrained:lives/vit",
        "untrained:../tiny", "untrained:tiny@3", "untrained:tiny@" + "9" * 50, "lives/vit@a@b", "sim_1@main",
    ],
)  # fmt: skip
def test_what_is_no_name_of_a_model_is_refused_before_anything_is_asked(name, tmp_path, monkeypatch):
    monkeypatch.setenv("SINGLELIFE_CACHE", str(tmp_path))
    for local in (False, True):
        with pytest.raises(VisitorError, match=r"is not a model name|cannot be opened") as told:
            opened(name, local=local and not Path(name.replace("\0", "")).is_dir())
        safe_to_show(str(told.value).replace(name, ""), tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("revision", ["", "a/../b", "/main", "main?x", "a b", "x" * 200, "-", "a//b"])
def test_what_is_no_revision_is_refused(revision):
    with pytest.raises(VisitorError, match="is not a revision"):
        opened(f"lives/vit@{revision}")


def test_a_folder_is_opened_for_its_owner_alone_and_with_the_same_checks(vit, tmp_path):
    with pytest.raises(VisitorError, match="is not a model name"):
        opened(str(vit))
    assert opened(str(vit), local=True).revision == load_model(str(vit)).revision
    shutil.copytree(vit, tmp_path / "vit")
    (tmp_path / "vit" / WEIGHTS).write_bytes(content(vit)[WEIGHTS][:-1])
    with pytest.raises(VisitorError, match=DAMAGED):
        opened(str(tmp_path / "vit"), local=True)
    with pytest.raises(VisitorError, match=f"The folder {tmp_path} holds no model"):
        opened(str(tmp_path), local=True)


# Limits, and what visitors are told.


def test_limits_are_set_by_the_environment(monkeypatch):
    assert Limits.from_environment() == Limits()
    monkeypatch.setenv("SINGLELIFE_SPACE_VIDEO_SECONDS", "2.5")
    monkeypatch.setenv("SINGLELIFE_SPACE_PARAMETERS", "2e6")
    limits = Limits.from_environment()
    assert (limits.video_seconds, limits.parameters) == (2.5, 2_000_000) and isinstance(limits.parameters, int)
    for wrong in ("many", "-1", "0", "nan", "inf"):
        monkeypatch.setenv("SINGLELIFE_SPACE_MEMORY", wrong)
        with pytest.raises(SingleLifeError, match="SINGLELIFE_SPACE_MEMORY should be a number above 0"):
            Limits.from_environment()


def test_a_request_over_its_time_or_memory_ends_at_the_next_check():
    request = Request(Limits(request_seconds=0.05))
    request.check()
    time.sleep(0.06)
    with pytest.raises(VisitorError, match="longer than 0 s, the limit"):
        request.check()
    with pytest.raises(VisitorError, match="not enough memory"):
        Request(Limits(memory=1)).check()
    with pytest.raises(VisitorError, match="not enough memory"), Request(Limits()).memory(10**15):
        pass
    with pytest.raises(VisitorError, match="not enough memory"), memory_errors_for_visitors():
        torch.empty(1 << 60)
    with pytest.raises(ZeroDivisionError), memory_errors_for_visitors():
        _ = 1 / 0


def test_steps_that_together_take_too_much_memory_wait_for_each_other():
    limits, at_once, most = Limits(memory=resident() + (1 << 30)), [], []

    def work() -> None:
        with Request(limits).memory(400 << 20):
            at_once.append(1)
            most.append(len(at_once))
            time.sleep(0.2)
            at_once.pop()

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(most) == 6 and max(most) == 2


def test_a_model_that_would_not_fit_into_the_memory_is_refused_before_it_is_loaded(vit):
    with pytest.raises(VisitorError, match="not enough memory"):
        opened(str(vit), local=True, memory=resident() // 2)


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("The model lives/vit has 3/4 of it.", "The model lives/vit has 3/4 of it."),
        ("See https://example.org/lives/vit/commits/main.", "See https://example.org/lives/vit/commits/main."),
        ("/srv/app/x/config.json cannot be read.", "a file here cannot be read."),
        ("Cannot read ~/models/vit: gone.", "Cannot read a file here: gone."),
        ("Take (file:///etc/passwd), or C:\\Users\\me", "Take (a file here), or a file here"),
        ("The token hf_abcdefgh123 is wrong", "The token … is wrong"),
        ("Authorization: Bearer abc.def", "Authorization: …"),
        ("The password is swordfish1, really", "The password is …, really"),
        ("two\nlines", "two lines"),
        ("x" * 1000, "x" * 599 + "…"),
    ],
)
def test_messages_lose_what_is_not_for_visitors(message, shown, monkeypatch):
    monkeypatch.setenv("MY_SECRET", "swordfish1")
    assert visitor_message(CheckpointError(message)) == shown
    for folder in (
        default_cache_dir() / "space-models" / "x",
        Path.home() / ".cache",
        SPACE / "models.py",
        Path.cwd(),
    ):
        assert visitor_message(SingleLifeError(f"{folder}: broken")) == "a file here: broken"
    ours = visitor_message(VisitorError(message))  # with what the visitor typed, be it a path
    assert ours == shown or ("a file here" in shown and ours == message)


def test_a_defect_is_a_number_that_the_log_has(caplog):
    try:
        raise KeyError("secret /srv/x")
    except KeyError as error:
        told = visitor_message(error)
    number = re.search(r"this number: ([0-9a-f]{8})\.", told)[1]
    assert "secret" not in told
    assert number in caplog.text and "secret" in caplog.text and "Traceback" in caplog.text
