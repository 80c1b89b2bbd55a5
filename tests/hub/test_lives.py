"""Lives on the Hub: what is pushed comes back bit for bit, and a failure says why and loses nothing."""

import io
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from datasets import Dataset, Features, Value, load_from_disk
from PIL import Image as PILImage

from singlelife.errors import HubError
from singlelife.lives.pairs.dataset import PairDataset
from singlelife.lives.pairs.pairing import TemporalPairing
from singlelife.lives.prepared import COLUMNS, GEOMETRY_COLUMNS, PreparedLife
from singlelife.lives.resolve import resolve_life

from ..hub_server import READER, STRANGER, WRITER, Fault
from .conftest import files, push, pushed

pytestmark = pytest.mark.integration

RESOLVE = """
from singlelife.lives.resolve import resolve_life
result = str(resolve_life(words, cache_dir=cache).path)
"""


def rows(dataset):
    return dataset.with_format("arrow")[:].to_pylist()


# There and back.


def test_a_life_comes_back_bit_for_bit(hub, hub_client, sim_test, tmp_path):
    repository = pushed(hub, hub_client, sim_test.path, "lives/kitchen.1")
    data = [f"data/train-0000{number}-of-00003.parquet" for number in range(3)]
    assert files(repository) == {"README.md", *data, "metadata.json"}

    path = Path(hub_client(RESOLVE, words="lives/kitchen.1", cache=tmp_path))
    life = PreparedLife.load(path)
    assert rows(life.dataset) == rows(sim_test.dataset)
    assert life.dataset.features == sim_test.dataset.features
    assert life.name == "kitchen-1"
    assert life.metadata["fingerprint"] == sim_test.metadata["fingerprint"]
    assert life.metadata["hub"] == {"repo_id": "lives/kitchen.1", "revision": repository.branches["main"]}
    everywhere = np.arange(len(life))
    np.testing.assert_array_equal(life.poses(everywhere), sim_test.poses(everywhere))
    np.testing.assert_array_equal(life.depth(everywhere), sim_test.depth(everywhere))
    options = {"seed": 3, "num_pairs": 64, "image_size": 64, "patch_size": 8, "mask_ratio": 0.9}
    ours, theirs = (
        PairDataset(x, TemporalPairing(x.timestamps, x.video_index, 0.1, 1.0), **options) for x in (life, sim_test)
    )
    for name, values in ours.__getitems__(range(64)).items():
        assert torch.equal(values, theirs.__getitems__(range(64))[name])
    assert sorted(entry.name for entry in path.parent.iterdir()) == [".locks", path.name, "refs"]
    streamed = """
from datasets import load_dataset
first = next(iter(load_dataset("lives/kitchen.1", split="train", streaming=True)))
result = [first["image"].size, first["timestamp"], first["pose"]]
"""
    assert hub_client(streamed) == [[96, 96], 0.0, sim_test.poses([0])[0].tolist()]


def test_poses_and_points_beside_a_life_come_along(hub, hub_client, small_life, tmp_path):
    life = PreparedLife.load(shutil.copytree(small_life.path, tmp_path / "life"))
    poses = np.random.default_rng(0).normal(size=(len(life), 4, 4)).tolist()
    rest = {"intrinsics": 4 * [1.5], "component": 0}
    geometry = [{"pose": pose, "point_ids": [row, 2 * row + 1], **rest} for row, pose in enumerate(poses)]
    Dataset.from_list(geometry, GEOMETRY_COLUMNS).save_to_disk(life.path / "geometry")
    (life.path / "geometry" / "geometry.json").write_text('{"source": "Aria MPS", "num_registered": 38}')
    repository = pushed(hub, hub_client, life.path, "ann/kitchen")
    card = hub.read(repository, "README.md").decode()
    assert "Aria MPS" in card and "38 of 40 frames" in card

    path = Path(hub_client(RESOLVE, words="ann/kitchen", cache=tmp_path))
    assert rows(load_from_disk(str(path / "geometry"))) == geometry
    assert (path / "geometry" / "geometry.json").read_text() == '{"source": "Aria MPS", "num_registered": 38}'
    load = (
        "from datasets import load_dataset\nresult = load_dataset('ann/kitchen', 'geometry', split='train')[7]['pose']"
    )
    assert hub_client(load) == geometry[7]["pose"]


def test_the_card_says_what_a_visitor_must_know(hub, hub_client, small_life, sim_test):
    card = hub.read(pushed(hub, hub_client, small_life.path, "ann/kitchen"), "README.md").decode()
    _, header, body = card.split("---\n", 2)
    header = yaml.safe_load(header)
    assert (header["license_name"], header["size_categories"]) == ("not-stated", ["n<1K"])
    assert header["tags"] == ["singlelife", "egocentric"]
    assert "accelerate launch train.py --life ann/kitchen" in body and "10 per second" in body
    assert "People may be in these frames" in body and small_life.metadata["fingerprint"] in body
    simulated = hub.read(pushed(hub, hub_client, sim_test.path, "ann/sim"), "README.md").decode()
    assert "People may be in these frames" not in simulated and "Freedoom" in simulated


def test_a_new_form_replaces_the_old_which_its_commit_still_names(hub, hub_client, sim_test, tmp_path):
    repository = pushed(hub, hub_client, sim_test.path, "ann/kitchen")
    before = Path(hub_client(RESOLVE, words="ann/kitchen", cache=tmp_path))
    pushed(hub, hub_client, sim_test.path, "ann/kitchen", shard_bytes=2_000_000)
    assert {f"data/train-0000{number}-of-00002.parquet" for number in range(2)} == {
        name for name in files(repository) if name.startswith("data/")
    }
    after = Path(hub_client(RESOLVE, words="ann/kitchen", cache=tmp_path))
    assert push(hub_client, after, "ann/kitchen").result == 0  # the life is the same, its name here another
    assert before != after and before.is_dir()  # a run that began with the old one can go on
    repository.branches["v2"] = before.name
    for revision in (before.name, "v2"):
        assert hub_client(RESOLVE, words=f"ann/kitchen@{revision}", cache=tmp_path) == str(before)
    answer = hub_client.ask(RESOLVE, words="ann/kitchen@v3", cache=tmp_path)
    assert answer.error[0] == "HubError" and "no such revision" in answer.error[1]


# A network that breaks, or is not there.


def test_a_download_that_broke_goes_on_with_what_is_missing(hub, hub_client, sim_test, tmp_path):
    repository = pushed(hub, hub_client, sim_test.path, "ann/kitchen")
    hub.faults.append(Fault("GET", "train-00001", after=100_000, times=100))
    answer = hub_client.ask(RESOLVE, words="ann/kitchen", cache=tmp_path)
    assert answer.error[0] == "HubUnreachable" and "run the same command again" in answer.error[1]
    folder = tmp_path / "lives" / "hub" / "ann--kitchen" / repository.branches["main"]
    assert not folder.exists()
    hub.faults.clear()
    hub.requests.clear()
    life = PreparedLife.load(hub_client(RESOLVE, words="ann/kitchen", cache=tmp_path))
    assert rows(life.dataset) == rows(sim_test.dataset)
    assert not folder.with_name(f"{folder.name}.partial").exists()
    assert not [path for method, path, _ in hub.requests if method == "GET" and "train-00000" in path]


def test_what_was_downloaded_needs_no_network(hub, hub_client, small_life, tmp_path, capsys):
    pushed(hub, hub_client, small_life.path, "ann/kitchen")
    path = Path(hub_client(RESOLVE, words="ann/kitchen", cache=tmp_path))
    hub.requests.clear()
    assert hub_client(RESOLVE, words=f"ann/kitchen@{path.name}", cache=tmp_path) == str(path)
    assert not hub.requests  # a commit never changes
    hub.faults.append(Fault("GET", "/api/", after=0, times=100))
    answer = hub_client.ask(RESOLVE, words="ann/kitchen", cache=tmp_path)
    assert answer.result == str(path) and f"earlier download of ann/kitchen, commit {path.name[:12]}" in answer.said
    # This process is told not to ask the Hub.
    assert resolve_life("ann/kitchen", cache_dir=tmp_path).path == path
    assert "HF_HUB_OFFLINE" in capsys.readouterr().err
    for other in ("ann/kitchen@v2", "ann/bathroom"):
        with pytest.raises(HubError, match="HF_HUB_OFFLINE"):
            resolve_life(other, cache_dir=tmp_path)


# What cannot be used.

METADATA = {
    "format_version": 1, "name": "kitchen", "fingerprint": "f" * 64, "kind": "video", "dataset": "own recording",
    "license": "", "frame_rate": 10.0, "frame_size": 48, "simulation": None, "depth_scale": None, "depth_error": None,
    "num_frames": 2, "videos": [{"video": "a.mp4", "num_frames": 2, "seconds": 0.1, "damage": None}], "left_out": [],
}  # fmt: skip
FRAMES = "data/train-00000-of-00001.parquet"


def parquet(features: Features = COLUMNS, said: bytes | None = None, **changes: list) -> bytes:
    """Two frames, with columns changed, or left out if None, and `said` of them in place of their features."""
    encoded = io.BytesIO()
    PILImage.new("RGB", (64, 48)).save(encoded, "JPEG")
    columns = {
        "image": 2 * [{"bytes": encoded.getvalue(), "path": None}],
        "timestamp": [0.0, 0.1],
        "video": 2 * ["a.mp4"],
        "frame_index": [0, 1],
    } | changes
    kept = {name: values for name, values in columns.items() if values is not None}
    table = pa.table(kept, schema=Features({name: features[name] for name in kept}).arrow_schema)
    if said is not None:
        table = table.replace_schema_metadata({b"huggingface": said})
    sink = io.BytesIO()
    pq.write_table(table, sink)
    return sink.getvalue()


def described(**changes: object) -> bytes:
    return json.dumps({name: value for name, value in (METADATA | changes).items() if value is not ...}).encode()


def test_a_repository_made_by_hand_is_a_life(hub, hub_client, tmp_path):
    """The ground on which those below differ by one thing each."""
    features = Features(COLUMNS | {"caption": Value("string")})
    content = {FRAMES: parquet(features, caption=["one", "two"]), "metadata.json": described()}
    hub.put(hub.create("ann/kitchen"), content)
    life = PreparedLife.load(hub_client(RESOLVE, None, words="ann/kitchen", cache=tmp_path))
    assert len(life) == 2 and life.frames([0, 1]).shape == (2, 3, 48, 64)
    assert life.dataset.column_names == list(COLUMNS)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({FRAMES: parquet(timestamp=None)}, "timestamp is None"),
        ({FRAMES: parquet(Features(COLUMNS | {"image": Value("string")}), image=["a", "b"])}, "image is .*string"),
        ({FRAMES: parquet(image=2 * [{"bytes": None, "path": "/etc/passwd"}])}, "has no image"),
        ({FRAMES: parquet()[:4] + 40 * b"\xff" + parquet()[44:]}, "data/ of ann/kitchen cannot be read"),
        ({FRAMES: parquet(said=b'{"info": {"features": {"image": {"_type": "No"}}}}')}, "data/ of .* cannot be read"),
        ({FRAMES: None}, "has a metadata.json but no frames"),
        ({"metadata.json": described(num_frames=3)}, "data/ of .* is incomplete: it holds 2 .* metadata.json says 3"),
        ({"metadata.json": described(format_version=2)}, "format 2; .* reads 1.* pip install -U singlelife"),
        ({"metadata.json": described(frame_rate="fast")}, "not a life's metadata: frame_rate missing"),
        ({"metadata.json": b"{"}, "metadata.json of ann/kitchen cannot be read"),
        ({"metadata.json": None}, "has no metadata.json.* --video"),
    ],
)  # fmt: skip
def test_what_is_no_life_is_refused_and_leaves_nothing(hub, hub_client, tmp_path, content, message):
    hub.put(hub.create("ann/kitchen"), {FRAMES: parquet(), "metadata.json": described()} | content)
    answer = hub_client.ask(RESOLVE, None, words="ann/kitchen", cache=tmp_path)
    assert answer.error is not None and answer.error[0] == "HubError", answer
    assert re.search(message, answer.error[1]), answer.error[1]
    hub.put(hub.repositories["dataset", "ann/kitchen"], {FRAMES: parquet(), "metadata.json": described()})
    path = Path(hub_client(RESOLVE, None, words="ann/kitchen", cache=tmp_path))
    assert {entry.name for entry in path.parent.iterdir() if entry.is_dir()} == {".locks", path.name, "refs"}


@pytest.mark.parametrize(
    ("words", "token", "message"),
    [
        ("ann/nobody", WRITER, "There is no data set ann/nobody on the Hub, or you cannot see it"),
        ("ann/private", STRANGER, "if it is private, log in with `hf auth login`"),
        ("ann/gated", STRANGER, "is gated: its owner gives access on request. Ask for it at http"),
        ("ann/private", "hf_wrong", "does not accept your token"),
    ],
)
def test_what_is_not_for_you(hub, hub_client, tmp_path, words, token, message):
    for name, closed in (("ann/private", {"private": True}), ("ann/gated", {"gated": True})):
        hub.put(hub.create(name, **closed), {FRAMES: parquet(), "metadata.json": described()})
    answer = hub_client.ask(RESOLVE, token, words=words, cache=tmp_path)
    assert answer.error is not None and answer.error[0] == "HubError", answer
    assert message in answer.error[1]
    if words != "ann/nobody":
        assert hub_client(RESOLVE, READER, words=words, cache=tmp_path)


def test_a_disk_without_room_is_told_before_a_download(hub, hub_client, tmp_path):
    repository = hub.create("ann/kitchen")
    hub.put(repository, {FRAMES: parquet(), "metadata.json": described()})
    repository.told_sizes[FRAMES] = 10**18
    answer = hub_client.ask(RESOLVE, None, words="ann/kitchen", cache=tmp_path)
    assert answer.error[0] == "LifeError" and "--cache-dir" in answer.error[1]
    assert not [path for _, path, _ in hub.requests if path.endswith(".parquet")]
