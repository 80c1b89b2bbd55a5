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
from datasets import Array2D, Dataset, Features, Image, List, Value, load_from_disk
from PIL import Image as PILImage

from singlelife.errors import HubError
from singlelife.lives.pairs.dataset import PairDataset
from singlelife.lives.pairs.pairing import TemporalPairing
from singlelife.lives.prepared import COLUMNS, PreparedLife
from singlelife.lives.resolve import resolve_life

from ..hub_server import READER, STRANGER, USERS, WRITER, Break

pytestmark = pytest.mark.integration

PUSH = """
from singlelife.hub.push import publish
from singlelife.lives.prepared import PreparedLife
from singlelife.lives.publishing import life_publication
made = {name: options.pop(name) for name in ("license", "shard_bytes") if name in options}
result = publish(life_publication(PreparedLife.load(life), repo, **made), **options)
"""
RESOLVE = """
from singlelife.lives.resolve import resolve_life
result = str(resolve_life(words, cache_dir=cache).path)
"""
COMMAND = """
from singlelife.cli import main
result = main(words)
"""


def push(client, life, repo="ann/kitchen", token=WRITER, **options):
    return client.ask(PUSH, token, life=life.path, repo=repo, options={"shard_bytes": 1_000_000} | options)


def pushed(client, hub, life, repo="ann/kitchen", **options):
    answer = push(client, life, repo, **options)
    assert answer.error is None, answer.error[2]
    assert answer.result == f"{hub.url}/datasets/{repo}"
    return hub.repositories["dataset", repo]


def files(repository):
    return sorted(set(repository.commits[repository.branches["main"]]) - {".gitattributes"})


def rows(dataset):
    return dataset.with_format("arrow")[:].to_pylist()


# There and back.


def test_a_life_comes_back_bit_for_bit(hub, hub_client, sim_test, tmp_path):
    repository = pushed(hub_client, hub, sim_test, "lives/kitchen.1")
    assert repository.private
    assert len(repository.commits) == 2  # the empty repository's, and one for all
    data = [f"data/train-0000{number}-of-00003.parquet" for number in range(3)]
    assert files(repository) == ["README.md", *data, "metadata.json"]

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
    assert sorted(entry.name for entry in path.parent.iterdir()) == [path.name, f"{path.name}.lock", "refs"]


def test_datasets_opens_it_with_typed_columns(hub, hub_client, sim_test, tmp_path):
    pushed(hub_client, hub, sim_test)
    code = """
from datasets import load_dataset
frames = load_dataset("ann/kitchen", split="train", cache_dir=folder)
frames.save_to_disk(folder + "/copy")
first = next(iter(load_dataset("ann/kitchen", split="train", streaming=True)))
result = [first["image"].size, first["timestamp"], first["pose"]]
"""
    streamed = hub_client(code, folder=tmp_path)
    copy = load_from_disk(str(tmp_path / "copy"))
    assert rows(copy) == rows(sim_test.dataset)
    assert copy.features == sim_test.dataset.features
    assert (copy.features["image"], copy.features["timestamp"]) == (Image(), Value("float64"))
    assert copy.features["pose"] == Array2D((4, 4), "float64")
    assert streamed == [[96, 96], 0.0, sim_test.poses([0])[0].tolist()]


def test_poses_and_points_beside_a_life_come_along(hub, hub_client, small_life, tmp_path):
    life = PreparedLife.load(shutil.copytree(small_life.path, tmp_path / "life"))
    rng = np.random.default_rng(0)
    features = Features(
        {
            "pose": Array2D((4, 4), "float64"),
            "intrinsics": List(Value("float64"), length=4),
            "component": Value("int64"),
            "point_ids": List(Value("int64")),
        }
    )
    geometry = [
        {
            "pose": rng.normal(size=(4, 4)).tolist(),
            "intrinsics": rng.normal(size=4).tolist(),
            "component": 0,
            "point_ids": sorted(rng.choice(1000, row % 5, replace=False).tolist()),
        }
        for row in range(len(life))
    ]
    Dataset.from_list(geometry, features).save_to_disk(life.path / "geometry")
    (life.path / "geometry" / "geometry.json").write_text('{"source": "Aria MPS", "num_registered": 38}')
    repository = pushed(hub_client, hub, life)
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
    card = hub.read(pushed(hub_client, hub, small_life, license="CC BY-NC 4.0"), "README.md").decode()
    _, header, body = card.split("---\n", 2)
    header = yaml.safe_load(header)
    assert header["license"] == "cc-by-nc-4.0"
    assert header["size_categories"] == ["n<1K"]
    assert header["tags"] == ["singlelife", "egocentric"]
    assert header["task_categories"] == ["image-feature-extraction"]
    assert "accelerate launch train.py --life ann/kitchen" in body
    assert "People may be in these frames" in body and "faces" in body
    assert small_life.metadata["fingerprint"] in body and "10 per second" in body
    unstated = hub.read(pushed(hub_client, hub, small_life, "ann/other"), "README.md").decode()
    assert "license_name: not-stated" in unstated and "Ask the owner before any use" in unstated
    simulated = hub.read(pushed(hub_client, hub, sim_test, "ann/sim"), "README.md").decode()
    assert "People may be in these frames" not in simulated and "Freedoom" in simulated


def test_no_token_is_written_anywhere(hub, hub_client, small_life, tmp_path):
    answer = push(hub_client, small_life)
    path = Path(hub_client(RESOLVE, words="ann/kitchen", cache=tmp_path))
    content = [file.read_bytes() for folder in (hub.folder, path) for file in folder.rglob("*") if file.is_file()]
    for token in USERS:
        assert not any(token.encode() in file for file in content)
        assert token not in answer.said


def test_pushing_again_changes_nothing_and_a_new_form_replaces_the_old(hub, hub_client, sim_test, tmp_path):
    repository = pushed(hub_client, hub, sim_test)
    commits = dict(repository.commits)
    hub.requests.clear()
    pushed(hub_client, hub, sim_test)
    assert repository.commits == commits
    assert not [path for method, path, _ in hub.requests if method == "PUT"]
    before = Path(hub_client(RESOLVE, words="ann/kitchen", cache=tmp_path))

    pushed(hub_client, hub, sim_test, shard_bytes=2_000_000)
    assert [name for name in files(repository) if name.startswith("data/")] == [
        "data/train-00000-of-00002.parquet",
        "data/train-00001-of-00002.parquet",
    ]
    after = Path(hub_client(RESOLVE, words="ann/kitchen", cache=tmp_path))
    assert hub_client(PUSH, life=after, repo="ann/kitchen", options={})  # the life is the same, its name here another
    assert before != after and before.is_dir()  # a run that began with the old one can go on
    assert hub_client(RESOLVE, words=f"ann/kitchen@{before.name}", cache=tmp_path) == str(before)


def test_a_branch_is_pushed_to_and_read(hub, hub_client, small_life, tmp_path):
    repository = pushed(hub_client, hub, small_life, revision="v2")
    assert files(repository) == []
    path = Path(hub_client(RESOLVE, words="ann/kitchen@v2", cache=tmp_path))
    assert path.name == repository.branches["v2"]
    answer = hub_client.ask(RESOLVE, words="ann/kitchen@v3", cache=tmp_path)
    assert answer.error[0] == "HubError" and "no such revision" in answer.error[1]


# The command line.


def test_the_commands(hub, hub_client, small_life, tmp_path):
    words = ["push", str(small_life.path), "lives/small", "--public", "--license", "CC BY 4.0"]
    answer = hub_client.ask(COMMAND, words=[*words, "--dry-run", "--card", str(tmp_path / "card.md")])
    assert answer.result == 0 and "data/train-*.parquet" in answer.said and not hub.requests
    answer = hub_client.ask(COMMAND, words=words)
    assert answer.result == 0 and "(public)" in answer.said and "--life lives/small" in answer.said
    repository = hub.repositories["dataset", "lives/small"]
    assert not repository.private
    assert hub.read(repository, "README.md").decode() == (tmp_path / "card.md").read_text()
    assert hub_client.ask(COMMAND, words=["push", str(small_life.path)]).result == 0
    assert hub.repositories["dataset", "ann/life-small"].private  # the default name, and nobody else sees it
    answer = hub_client.ask(COMMAND, None, words=["push", "my_day"])
    assert answer.result == 2 and "takes a token" in answer.said  # before anything is prepared
    answer = hub_client.ask(COMMAND, words=["push", str(small_life.path), "--training-state"])
    assert answer.result == 2 and "--training-state" in answer.said


def test_a_description_fetches_little(hub, hub_client, sim_test):
    pushed(hub_client, hub, sim_test, license="CC BY 4.0")
    hub.sent = 0
    code = "from singlelife.lives.download import describe_remote_life\nresult = describe_remote_life('ann/kitchen')"
    said = hub_client(code)
    assert said["life"] == "sim_test" and said["frames"].startswith("500 at ") and "1 video(s)" in said["length"]
    assert said["licence"] == "CC BY 4.0" and said["access"] == "private"
    assert said["commit"] == hub.repositories["dataset", "ann/kitchen"].branches["main"]
    assert hub.sent < 10_000


# A network that breaks, or is not there.


def test_a_push_that_broke_goes_on_with_what_is_missing(hub, hub_client, sim_test):
    hub.breaks.append(Break("PUT", "/lfs/", after=900_000, times=100))  # the second file is the first as large
    answer = push(hub_client, sim_test)
    assert answer.error[0] == "HubUnreachable"
    assert "the connection to the Hub broke" in answer.error[1]
    assert "the same command sends the rest" in answer.error[1]
    repository = hub.repositories["dataset", "ann/kitchen"]
    assert files(repository) == []  # nobody sees half a life
    hub.breaks.clear()
    hub.requests.clear()
    pushed(hub_client, hub, sim_test)
    assert len([path for method, path, _ in hub.requests if method == "PUT"]) == 2
    assert len(files(repository)) == 5


def test_a_download_that_broke_goes_on_with_what_is_missing(hub, hub_client, sim_test, tmp_path):
    repository = pushed(hub_client, hub, sim_test)
    hub.breaks.append(Break("GET", "train-00001", after=100_000, times=100))
    answer = hub_client.ask(RESOLVE, words="ann/kitchen", cache=tmp_path)
    assert answer.error[0] == "HubUnreachable"
    assert "the same command goes on" in answer.error[1]
    folder = tmp_path / "lives" / "hub" / "ann--kitchen"
    sha = repository.branches["main"]
    assert not (folder / sha).exists()
    assert [file.name for file in (folder / f"{sha}.partial").glob("*.arrow")] == ["data-00000-of-00003.arrow"]
    hub.breaks.clear()
    hub.requests.clear()
    life = PreparedLife.load(hub_client(RESOLVE, words="ann/kitchen", cache=tmp_path))
    assert rows(life.dataset) == rows(sim_test.dataset)
    assert not (folder / f"{sha}.partial").exists()
    assert not [path for method, path, _ in hub.requests if method == "HEAD" and "train-00000" in path]


def test_what_was_downloaded_needs_no_network(hub, hub_client, small_life, tmp_path, capsys):
    pushed(hub_client, hub, small_life)
    path = Path(hub_client(RESOLVE, words="ann/kitchen", cache=tmp_path))
    hub.requests.clear()
    assert hub_client(RESOLVE, words=f"ann/kitchen@{path.name}", cache=tmp_path) == str(path)
    assert not hub.requests  # a commit never changes
    hub.breaks.append(Break("GET", "/api/", after=0, times=100))
    answer = hub_client.ask(RESOLVE, words="ann/kitchen", cache=tmp_path)
    assert answer.result == str(path) and f"as it was kept, commit {path.name[:12]}" in answer.said
    # This process is told not to ask the Hub.
    assert resolve_life("ann/kitchen", cache_dir=tmp_path).path == path
    assert "HF_HUB_OFFLINE" in capsys.readouterr().err
    for other in ("ann/kitchen@v2", "ann/bathroom"):
        with pytest.raises(HubError, match="HF_HUB_OFFLINE"):
            resolve_life(other, cache_dir=tmp_path)


# What cannot be pushed.


@pytest.mark.parametrize(
    ("repo", "token", "options", "message"),
    [
        ("ann/kit chen", WRITER, {}, "should look like ORG/NAME"),
        ("ann/../chen", WRITER, {}, "should look like ORG/NAME"),
        ("ann/kitchen", None, {}, "HF_TOKEN"),
        ("ann/kitchen", READER, {}, "your token may not do that"),
        ("ann/public", WRITER, {}, "is public, not private"),
        ("ann/taken", WRITER, {}, "ann/taken is taken"),
        ("ann/bathroom", WRITER, {}, "another life than small"),
        ("ann/odd", WRITER, {}, "another life than small"),
    ],
)
def test_what_cannot_be_pushed(hub, hub_client, small_life, repo, token, options, message):
    hub.create("ann/public")
    hub.create("ann/private", private=True)
    for name, file, content in [
        ("ann/taken", "data.csv", b"a,b"),
        ("ann/bathroom", "metadata.json", b'{"name": "bathroom"}'),
        ("ann/odd", "metadata.json", b"[]"),
    ]:
        hub.put(hub.create(name, private=True), {file: content})
    before = {name: repository.branches["main"] for name, repository in hub.repositories.items()}
    answer = push(hub_client, small_life, repo, token, **options)
    assert answer.error is not None and answer.error[0] == "HubError", answer
    assert message in answer.error[1]
    assert token is None or token not in answer.error[1]
    assert {name: repository.branches["main"] for name, repository in hub.repositories.items()} == before


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


def scrambled(content: bytes) -> bytes:
    """The same with its first page overwritten, and its end, which describes it, as it was."""
    return content[:4] + 40 * b"\xff" + content[44:]


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
        ({FRAMES: parquet(timestamp=None)}, r"timestamp \(missing\)"),
        ({FRAMES: parquet(Features(COLUMNS | {"timestamp": Value("float32")}))}, "float32.* instead of .*float64"),
        ({FRAMES: parquet(Features(COLUMNS | {"image": Value("string")}), image=["a", "b"])}, "image .* of Image"),
        ({FRAMES: parquet(image=2 * [{"bytes": None, "path": "/etc/passwd"}])}, "The image in row 0 of .* is missing"),
        ({FRAMES: parquet(timestamp=[0.0, None])}, "The timestamp in row 1 of .* is missing"),
        ({FRAMES: b"PAR1 nothing PAR1"}, "train-00000-of-00001.parquet of ann/kitchen cannot be read"),
        ({FRAMES: scrambled(parquet())}, "train-00000-of-00001.parquet of ann/kitchen cannot be read"),
        ({FRAMES: parquet(said=b'{"info": {"features": {"image": {"_type": "No"}}}}')}, "columns .* cannot be read"),
        ({FRAMES: None}, "has a metadata.json and no frames"),
        ({"metadata.json": described(num_frames=3)}, "is not whole: data/ holds 2 .* metadata.json says 3"),
        ({"metadata.json": described(format_version=2)}, "format 2; .* reads 1.* pip install -U singlelife"),
        ({"metadata.json": described(format_version=0)}, "format 0; .* push it again"),
        ({"metadata.json": described(frame_rate="fast")}, "not that of a prepared life: frame_rate missing"),
        ({"metadata.json": described(fingerprint=...)}, "not that of a prepared life: fingerprint missing"),
        ({"metadata.json": described(frame_rate=0)}, "not that of a prepared life: frame_rate"),
        ({"metadata.json": described(videos=[1])}, "not that of a prepared life: videos"),
        ({"metadata.json": b"[]"}, "not that of a prepared life"),
        ({"metadata.json": b"{"}, "metadata.json of ann/kitchen cannot be read"),
        ({"metadata.json": None}, "has no metadata.json, .* and no Video column.* image, timestamp, video"),
        ({"metadata.json": None, FRAMES: None, "kitchen.py": b"import os"}, "cannot be read: Dataset scripts"),
        ({"metadata.json": None, FRAMES: None}, "ann/kitchen cannot be read"),
    ],
)  # fmt: skip
def test_what_is_no_life_is_refused_and_leaves_nothing(hub, hub_client, tmp_path, content, message):
    hub.put(hub.create("ann/kitchen"), {FRAMES: parquet(), "metadata.json": described()} | content)
    answer = hub_client.ask(RESOLVE, None, words="ann/kitchen", cache=tmp_path)
    assert answer.error is not None and answer.error[0] == "HubError", answer
    assert re.search(message, answer.error[1]), answer.error[1]
    hub.put(hub.repositories["dataset", "ann/kitchen"], {FRAMES: parquet(), "metadata.json": described()})
    path = Path(hub_client(RESOLVE, None, words="ann/kitchen", cache=tmp_path))
    assert {entry.name for entry in path.parent.iterdir() if entry.is_dir()} == {path.name, "refs"}


@pytest.mark.parametrize(
    ("words", "token", "message"),
    [
        ("ann/nobody", WRITER, "There is no data set ann/nobody on the Hub, or none that you may see"),
        ("ann/private", None, "if it is private, log in with `hf auth login`"),
        ("ann/private", STRANGER, "if it is private, log in with `hf auth login`"),
        ("ann/gated", STRANGER, "is gated: its owner gives access on request. Ask for it at http"),
        ("ann/gated", None, "is gated"),
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


def test_a_data_set_of_videos_is_prepared(hub, hub_client, clip_folder, small_life, tmp_path):
    video = (clip_folder / "small.mp4").read_bytes()
    repository = hub.create("ann/clips")
    hub.put(repository, {"clips/small.mp4": video})
    life = PreparedLife.load(hub_client(RESOLVE, words="ann/clips", cache=tmp_path))
    assert rows(life.dataset) == rows(small_life.dataset)
    hub.breaks.append(Break("GET", "/api/", after=0, times=100))
    assert hub_client(RESOLVE, words="ann/clips", cache=tmp_path) == str(life.path)
