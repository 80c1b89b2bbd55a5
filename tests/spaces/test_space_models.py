"""What visitors name as a model: opened where it is one, within limits, and else refused with a reason, at no cost."""

import json
import os
import re
import shutil
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from downloads import ModelCache
from limits import Cancelled, Limits, Request, VisitorError, memory_errors_for_visitors, visitor_message
from models import embedded_models, open_model, search_models
from safetensors.torch import load, save

from singlelife.alignment.models import load_model
from singlelife.errors import CheckpointError, SingleLifeError
from singlelife.machine import resident

from ..alignment.test_backbones import MODELS, saved
from ..hub_server import STRANGER, WRITER, Break, Hub, Trouble

pytestmark = pytest.mark.integration
SPACE = Path(__file__).parents[2] / "spaces" / "cas"
SETUP = """
import os, sys
if space not in sys.path:
    sys.path.insert(0, space)
os.environ["SINGLELIFE_CACHE"] = cache
import models
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
import torch
images = torch.arange(2 * 3 * 32 * 32).reshape(2, 3, 32, 32).remainder(251).to(torch.uint8)
model = models.open_model(name, Request(Limits(**limits), progress, cancelled))
result = [model.name, model.revision, model.logits(images[:1], images[1:]).tolist(), told]
"""
)
Files = dict[str, bytes | None]


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

    def ask(name="lives/vit", token=None, cancel=None, code=OPEN, **limits):
        return hub_client.ask(code, token, space=str(SPACE), cache=tmp_path, name=name, cancel=cancel, limits=limits)

    return ask


def opened(name: str, local: bool = False, **limits: float):
    return open_model(name, Request(Limits(**limits)), local=local)


def content(folder: Path) -> Files:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def kept(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "space-models").glob("[!.]*"))


def downloads(hub: Hub) -> int:
    """How often weights were asked for: their length, their header, and all of them."""
    return sum("/resolve/" in path and "safetensors" in path for _, path, _ in hub.requests)


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
    shares = [share for what, share in told if what.startswith("Downloading")]
    assert shares == sorted(shares) and shares[-1] == 1.0
    assert told[0][0].startswith("Looking up") and told[-1][0].startswith("Loading")

    asked = downloads(hub)
    assert ask(f"lives/vit@{first}").result[:2] == [name, first]
    assert downloads(hub) == asked  # it was kept
    assert kept(tmp_path) == [f"lives--vit@{first}"]


def test_no_token_of_the_host_goes_out_for_a_visitor_unless_its_owner_says_so(hub, ask, vit, hub_client):
    hub.put(hub.create("lives/vit", "model"), content(vit))
    hub.put(hub.create("ann/mine", "model", private=True), content(vit))
    assert ask(token=WRITER).error is None
    refused = ask("ann/mine", token=WRITER).error
    assert refused[0] == "VisitorError" and "There is no model ann/mine on the Hub that everybody" in refused[1]
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
    assert downloads(hub) == 3


def test_a_model_in_parts_is_put_together(hub, ask, vit, tmp_path):
    from transformers import AutoModel

    AutoModel.from_pretrained(vit).save_pretrained(tmp_path / "parts", max_shard_size="20KB")
    shutil.copy(vit / "preprocessor_config.json", tmp_path / "parts")
    files = content(tmp_path / "parts")
    repository = hub.create("lives/parts", "model")
    hub.put(repository, files)
    answer = ask("lives/parts")
    assert answer.error is None, answer.error[2]

    index = json.loads(files["model.safetensors.index.json"])
    index["weight_map"] = dict.fromkeys(index["weight_map"], "../../elsewhere/model.safetensors")
    hub.put(repository, {"model.safetensors.index.json": json.dumps(index).encode()})
    refused = ask("lives/parts").error
    assert refused[0] == "VisitorError" and "names weights that it does not have" in refused[1]


@pytest.mark.parametrize("kind", MODELS)
def test_every_architecture_that_is_supported_passes(kind, tmp_path):
    config, processor, _ = MODELS[kind]
    folder = str(saved(tmp_path / kind, config, processor))
    ours, theirs = opened(folder, local=True), load_model(folder)
    assert (ours.revision, ours.method, ours.grid) == (theirs.revision, theirs.method, theirs.grid)


# Models that are none, or do harm.


@dataclass
class Bad:
    """A repository that is not to be opened.

    Attributes:
        message: what a visitor is told.
        files: from those of a good model to its own.
        told: the sizes that the Hub tells, from those of the files.
        options: of the repository.
        limits: of the Space.
        weights: how many requests for weights there may be.
        of: which good model they are changed from.
    """

    message: str
    files: Callable[[Files], Files] = lambda files: files
    told: Callable[[Files], dict[str, int]] = lambda files: {}
    options: dict[str, bool] = field(default_factory=dict)
    limits: dict[str, int] = field(default_factory=dict)
    weights: int = 0
    of: str = "vit"


def config(**fields) -> Callable[[Files], Files]:
    return lambda files: {**files, "config.json": json.dumps(json.loads(files["config.json"]) | fields).encode()}


def file(name: str, change: Callable[[bytes], bytes]) -> Callable[[Files], Files]:
    return lambda files: {**files, name: change(files[name])}


def weights(change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Files], Files]:
    def changed(data: bytes) -> bytes:
        return save({name: change(tensor) for name, tensor in load(data).items()}, {"format": "pt"})

    return file("model.safetensors", changed)


def header(data: bytes, change: Callable[[dict], object]) -> bytes:
    (length,) = struct.unpack("<Q", data[:8])
    described = json.loads(data[8 : 8 + length])
    change(described)
    encoded = json.dumps(described).encode()
    return struct.pack("<Q", len(encoded)) + encoded + data[8 + length :]


def largest(files: dict) -> object:
    """Of a file of four terabytes, by its header."""
    return files.update({"weight": {"dtype": "F32", "shape": [1 << 20, 1 << 20], "data_offsets": [0, 1 << 42]}})


def processor(field: str) -> Callable[[Files], Files]:
    """Whose images are huge."""
    huge = {field: {"height": 10**5, "width": 10**5}}
    return file("preprocessor_config.json", lambda data: json.dumps(json.loads(data) | huge).encode())


def pickled(files: Files) -> Files:
    files["pytorch_model.bin"] = files.pop("model.safetensors")
    return files


def without(name: str) -> Callable[[Files], Files]:
    return lambda files: {other: data for other, data in files.items() if other != name}


WEIGHTS = "model.safetensors"
BAD = {
    "gated": Bad("lives/vit is gated", options={"gated": True}),
    "private": Bad("no model lives/vit on the Hub that everybody may see", options={"private": True}),
    "no config": Bad("holds no model: it has no config.json", without("config.json")),
    "no weights": Bad("has no safetensors", without(WEIGHTS)),
    "pickles": Bad("only pickled weights, which can run code", pickled),
    "another architecture": Bad("of the architecture 'bert', which is not known", config(model_type="bert")),
    "no architecture": Bad("names no architecture", config(model_type=None)),
    "code of its own": Bad(
        "needs code of its own, which is not run here",
        config(model_type="own", auto_map={"AutoConfig": "own.C", "AutoModel": "own.M"}),
    ),
    "attention code of the Hub": Bad("the field attn_implementation", config(attn_implementation="evil/kernels")),
    "quantised": Bad("the field quantization_config", config(quantization_config={"quant_method": "gptq"})),
    "weights of another place": Bad("the field transformers_weights", config(transformers_weights="../x.safetensors")),
    "100 GB": Bad("has 100.0 GB of weights in 1 files; here", told=lambda files: {WEIGHTS: 100 * 10**9}),
    "100 GB in secret": Bad(
        r"cut off or damaged: by their header they have 4398.0 GB, the file has",
        file(WEIGHTS, lambda data: header(b"\2\0\0\0\0\0\0\0{}", largest) + b"x" * 500_000),
        weights=2,
    ),
    "more than it said": Bad(
        "sends more of lives/vit than it said",
        file(WEIGHTS, lambda data: data + b"x" * 100),
        told=lambda files: {WEIGHTS: len(files[WEIGHTS]) - 100},
        weights=3,
    ),
    "less than it said": Bad(
        "cut off or damaged", told=lambda files: {WEIGHTS: len(files[WEIGHTS]) + 100}, weights=2
    ),
    "cut off": Bad("cut off or damaged", file(WEIGHTS, lambda data: data[: len(data) // 2]), weights=2),
    "cut off in the header": Bad("are no safetensors", file(WEIGHTS, lambda data: data[:100]), weights=1),
    "a huge header": Bad(
        "would have 1,099,511,627,776 bytes", file(WEIGHTS, lambda data: struct.pack("<Q", 1 << 40) + data), weights=1
    ),
    "a header that is none": Bad("header .* is damaged", file(WEIGHTS, lambda d: d[:8] + b"[" + d[9:]), weights=2),
    "tensors on top of each other": Bad(
        "header .* is damaged",
        file(WEIGHTS, lambda d: header(d, lambda h: h.update({"more": {**h["layernorm.bias"]}}))),
        weights=2,
    ),
    "a negative shape": Bad(
        "header .* is damaged",
        file(WEIGHTS, lambda d: header(d, lambda h: h["layernorm.bias"].update(shape=[-4, -8]))),
        weights=2,
    ),
    "not a number": Bad("weights of lives/vit are not finite", weights(lambda w: w * float("nan")), weights=3),
    "logits that are none": Bad("gives features that are not finite", weights(lambda w: w.sign() * 1e38), weights=3),
    "another shape": Bad("do not fit its config.json", config(hidden_size=64), weights=3),
    "too many parameters": Bad(
        r"has [\d,]+ million parameters; here the limit is 1,000", config(hidden_size=16384, num_hidden_layers=99)
    ),
    "too many layers": Bad("says num_hidden_layers 1e\\+09", config(num_hidden_layers=10**9)),
    "too wide": Bad("says hidden_size 1e\\+12", config(hidden_size=10**12)),
    "too many patches": Bad(r"cuts a view into 1000 x 1000 patches", config(image_size=8000)),
    "no patches": Bad("patches of 0 x 0 px", config(patch_size=0)),
    "too many patches by the processor": Bad(
        r"cuts a view into 12500 x 12500 patches", processor("crop_size"), of="dino"
    ),
    "views that are resized to gigabytes": Bad(
        "makes views of over 4096 px", processor("size"), of="croco"
    ),
    "too many registers": Bad(
        "says num_register_tokens 1e\\+05",
        config(model_type="dinov2_with_registers", num_register_tokens=10**5),
        of="dino",
    ),
    "a config of megabytes": Bad("config.json of lives/vit is over", config(padding="x" * (2 << 20))),
    "a config that is none": Bad("config.json of lives/vit cannot be", file("config.json", lambda data: b"\xff\xfe")),
    "a deep config": Bad("config.json of lives/vit cannot be", file("config.json", lambda data: b"[" * 100_000)),
    "a config of words": Bad("cannot be used|cannot be opened", config(num_attention_heads="many")),
    "no processor": Bad("has no image processor", without("preprocessor_config.json")),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_a_bad_model_is_refused_with_the_reason_and_little_is_fetched(
    case, hub, ask, vit, dino, micro_checkpoint, tmp_path
):
    bad = BAD[case]
    files = bad.files(content({"vit": vit, "dino": dino, "croco": micro_checkpoint}[bad.of]))
    repository = hub.create("lives/vit", "model", **bad.options)
    hub.put(repository, files)
    repository.told_sizes = bad.told(files)
    answer = ask(token=STRANGER, **bad.limits)
    assert answer.error[0] == "VisitorError", answer.error[2]
    assert re.search(bad.message, answer.error[1]), answer.error[1]
    assert downloads(hub) <= bad.weights
    safe_to_show(answer.error[1], tmp_path)
    assert not any(name.endswith(".part") for name in kept(tmp_path))
    assert "own.py" not in str(hub.requests)


def safe_to_show(message: str, *folders: Path) -> None:
    assert len(message) < 700 and "\n" not in message
    for secret in (*map(str, folders), str(Path.home()), "hf_", "Traceback", ".py", "site-packages"):
        assert secret not in message, message


def test_what_is_not_there_is_told(hub, ask, vit):
    hub.put(hub.create("lives/vit", "model"), content(vit))
    assert "There is no model lives/none" in ask("lives/none").error[1]
    assert "lives/vit has no such revision" in ask("lives/vit@nowhere").error[1]


def test_content_that_is_not_what_the_hub_has_is_not_taken(hub, ask, vit, tmp_path):
    repository = hub.create("lives/vit", "model")
    commit = hub.put(repository, content(vit))
    blob = hub.folder / repository.commits[commit][WEIGHTS].sha256
    blob.write_bytes(blob.read_bytes()[:-1] + b"?")
    assert "is not what the Hub has" in ask().error[1]
    assert kept(tmp_path) == []


# A Hub that fails.


def test_a_download_that_breaks_once_goes_on_from_there(hub, ask, vit):
    hub.put(hub.create("lives/vit", "model"), content(vit))
    size = len(content(vit)[WEIGHTS])
    hub.breaks.append(Break("GET", WEIGHTS, after=60_000))
    answer = ask()
    assert answer.error is None, answer.error[2]
    assert hub.sent < 1.5 * size + 60_000


@pytest.mark.parametrize("silent", [0.0, 2.0])
def test_a_hub_that_stops_half_way_ends_with_what_to_do_and_keeps_no_half(silent, hub, ask, vit, tmp_path):
    hub.put(hub.create("lives/vit", "model"), content(vit))
    after = len(content(vit)[WEIGHTS]) // 5
    hub.breaks.append(Break("GET", WEIGHTS, after, times=10**6, silent=silent))
    start = time.monotonic()
    answer = ask(stall_seconds=0.3)
    assert answer.error[0] == "VisitorError" and "The Hub stopped answering about lives/vit" in answer.error[1]
    assert time.monotonic() - start < 60
    assert kept(tmp_path) == []
    safe_to_show(answer.error[1], tmp_path)
    hub.breaks.clear()
    assert ask().error is None


def test_a_hub_that_is_away_or_in_trouble_is_told(hub, ask, vit):
    hub.put(hub.create("lives/vit", "model"), content(vit))
    hub.troubles.append(Trouble("GET", "lives/vit", 503, times=10**6))
    assert "The Hub has trouble right now (status 503)" in ask().error[1]
    hub.dead = True
    assert "The Hub stopped answering" in ask(stall_seconds=1).error[1]


def test_a_visitor_who_gives_up_or_waits_too_long_leaves_nothing(hub, ask, vit, tmp_path):
    hub.put(hub.create("lives/vit", "model"), content(vit))
    for begun in ("Looking", "Downloading"):
        assert ask(cancel=begun).error[:2] == ("Cancelled", "Cancelled.")
        assert kept(tmp_path) == []
    assert "The model was not here within" in ask(download_seconds=1e-6).error[1]
    assert kept(tmp_path) == []


# The cache.


def fill(cache: ModelCache, size: int) -> Callable[[Path], None]:
    def fill(folder: Path) -> None:
        cache.make_room(folder, size, lambda: None)
        (folder / "weights").write_bytes(b"x" * size)

    return fill


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if not path.name.startswith(".")}


def test_what_was_used_longest_ago_makes_room_and_nothing_in_use(tmp_path):
    cache = ModelCache(tmp_path, 100)

    def use(key: str, size: int = 40):
        return cache.use(key, fill(cache, size), lambda: None)

    for number, key in enumerate(("a", "b", "a")):
        with use(key) as folder:
            pass
        os.utime(folder, (number, number))
    with use("c"):
        assert names(tmp_path) == {"a", "c"}
        with use("d"):
            assert names(tmp_path) == {"c", "d"}
            with pytest.raises(VisitorError, match="no room for this model here right now"), use("e"):
                pass
            assert names(tmp_path) == {"c", "d"}
    with pytest.raises(VisitorError, match="no room"), use("f", 101):
        pass


def test_room_is_reserved_before_it_is_filled_and_the_killed_leave_none_of_it(tmp_path):
    cache = ModelCache(tmp_path, 100)
    begun, go_on = threading.Event(), threading.Event()

    def slow(folder: Path) -> None:
        cache.make_room(folder, 80, lambda: None)
        begun.set()
        assert go_on.wait(30)

    def first() -> None:
        with cache.use("a", slow, lambda: None):
            pass

    thread = threading.Thread(target=first)
    thread.start()
    assert begun.wait(30)
    with pytest.raises(VisitorError, match="no room"), cache.use("b", fill(cache, 40), lambda: None):
        pass
    with pytest.raises(Cancelled), cache.use("a", slow, give_up):
        pass
    go_on.set()
    thread.join()

    (tmp_path / "killed.part").mkdir()
    (tmp_path / "killed.part" / "weights").write_bytes(b"x" * 90)
    with cache.use("c", fill(cache, 90), lambda: None):
        assert names(tmp_path) == {"a", "c"}


def give_up() -> None:
    raise Cancelled("Cancelled.")


# Names.


@pytest.mark.parametrize(
    "name",
    [
        "", " ", "vit", "/", "../..", "../../etc/passwd", "/etc/passwd", "lives/../vit", "lives/..", "./lives/vit",
        "lives/vit/", "lives//vit", "lives/vit/config.json", "~/models", "~root/x", "file:///etc/passwd",
        "file:lives/vit", "http://127.0.0.1/x", "https://huggingface.co/lives/vit", "//127.0.0.1/x", "127.0.0.1/x",
        "127.0.0.1:80/x", "localhost:8000/x", "169.254.169.254/latest", "[::1]/x", "user@host/x", "lives\\vit",
        "C:\\models", "lives/vit\n", "lives/vit\0", "lives/vit?x=1", "lives/vit#x", "lives/%2e%2e", "lives/vit.git",
        "lives/a--b", "ｌives/vit", "lives/" + "x" * 200, "untrained:/etc", "untrained:tiny@", "untrained:tiny@-1",
        "untrained:tiny@1e9", "untrained:lives/vit", "untrained:", "untrained:../tiny",
        "untrained:tiny@3", "untrained:tiny@" + "9" * 50, "lives/vit@a@b", "lives@vit/x",
    ],
)  # fmt: skip
def test_what_is_no_name_of_a_model_is_refused_before_anything_is_asked(name, tmp_path, monkeypatch):
    monkeypatch.setenv("SINGLELIFE_CACHE", str(tmp_path))
    if name == "lives/vit\n":
        name = "lives/v\nit"  # around a name, white space is taken off
    for local in (False, True):
        with pytest.raises(VisitorError, match=r"is no name of a model|cannot be opened") as told:
            opened(name, local=local and not Path(name.replace("\0", "")).is_dir())
        safe_to_show(str(told.value).replace(name, ""), tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("revision", ["", "..", "../main", "a/../b", "/main", "main?x", "a b", "x" * 200, "-", "a//b"])
def test_what_is_no_revision_is_refused(revision):
    with pytest.raises(VisitorError, match="is no revision"):
        opened(f"lives/vit@{revision}")


def test_a_folder_is_opened_for_its_owner_alone_and_with_the_same_checks(vit, tmp_path):
    with pytest.raises(VisitorError, match="is no name of a model"):
        opened(str(vit))
    assert opened(str(vit), local=True).revision == load_model(str(vit)).revision
    shutil.copytree(vit, tmp_path / "vit")
    (tmp_path / "vit" / WEIGHTS).write_bytes(content(vit)[WEIGHTS][:-1])
    with pytest.raises(VisitorError, match="cut off or damaged"):
        opened(str(tmp_path / "vit"), local=True)
    with pytest.raises(VisitorError, match=f"The folder {tmp_path} holds no model"):
        opened(str(tmp_path), local=True)


def test_the_models_that_come_with_the_page_have_no_revisions():
    for name, folder in embedded_models().items():
        assert opened(name).name == name and folder.name == name
        with pytest.raises(VisitorError, match="has no revisions"):
            opened(f"{name}@main")


# Search.

SEARCH = f"""{SETUP}
models._search.cache_clear()
models._away_until = -1.0
result = [models.search_models(each) for each in words]
"""


def card(*tags: str) -> Files:
    return {"README.md": f"---\ntags: [{', '.join(tags)}]\n---\n".encode()}


def test_search_finds_what_can_be_compared_and_lives_first(hub, hub_client, tmp_path):
    for name, tags in (
        ("ann/dino_a", ["dinov2", "safetensors"]),
        ("ann/bert_dino", ["bert", "safetensors"]),
        ("ann/pickled_dino", ["dinov2"]),
        ("lives/dino_life", ["singlelife", "croco", "safetensors"]),
        ("ann/vit", ["vit", "safetensors"]),
    ):
        hub.put(hub.create(name, "model"), card(*tags))
    hub.put(hub.create("ann/secret_dino", "model", private=True), card("dinov2", "safetensors"))
    found = hub_client(SEARCH, WRITER, space=str(SPACE), cache=tmp_path, words=["dino", "", "none"])
    assert found == [["lives/dino_life", "ann/dino_a"], ["lives/dino_life"], []]
    assert {token for _, _, token in hub.requests} == {None}


def test_search_finds_nothing_without_a_network_and_asks_no_more_for_a_while(hub, hub_client, tmp_path):
    hub.dead = True
    start = time.monotonic()
    assert hub_client(SEARCH, None, space=str(SPACE), cache=tmp_path, words=["a", "ab", "abc"]) == [[], [], []]
    assert time.monotonic() - start < 20 and len(hub.requests) == 1
    assert search_models("vit") == []  # where HF_HUB_OFFLINE is set


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
    with pytest.raises(VisitorError, match="longer than the 0 s that a request may take"):
        request.check()
    request = Request(Limits())
    with request.within(1e-6, "too late"), pytest.raises(VisitorError, match="too late"):
        request.check()
    request.check()  # that part is over
    with pytest.raises(VisitorError, match="not enough memory for that here right now"):
        Request(Limits(memory=1)).check()
    with pytest.raises(VisitorError, match="not enough memory"):
        request.check(more=10**15)
    with pytest.raises(VisitorError, match="The memory was not enough"), memory_errors_for_visitors():
        torch.empty(1 << 60)
    with pytest.raises(ZeroDivisionError), memory_errors_for_visitors():
        _ = 1 / 0


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
    ours = visitor_message(VisitorError(message))  # with what the visitor typed, be it a path
    assert ours == shown or ("a file here" in shown and ours == message)


def test_folders_of_this_machine_are_not_told(tmp_path, monkeypatch):
    monkeypatch.setenv("SINGLELIFE_CACHE", str(tmp_path))
    for folder in (tmp_path / "space-models" / "x", Path.home() / ".cache", SPACE / "models.py", Path.cwd() / "x"):
        assert visitor_message(SingleLifeError(f"{folder}: broken")) == "a file here: broken"


def test_a_defect_is_a_number_that_the_log_has(caplog):
    try:
        raise KeyError("secret /srv/x")
    except KeyError as error:
        told = visitor_message(error)
    number = re.search(r"this number: ([0-9a-f]{8})\.", told)[1]
    assert "secret" not in told
    assert number in caplog.text and "secret" in caplog.text and "Traceback" in caplog.text
