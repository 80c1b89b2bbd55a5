"""Videos of a `datasets` column: the same life as from files."""

from pathlib import Path

import datasets
import pytest
from datasets import Dataset, DatasetDict, Features, Value, Video, load_dataset

from singlelife.errors import LifeError
from singlelife.lives.prepare import life_fingerprint, plan_preparation, prepare_life
from singlelife.lives.prepared import PreparedLife
from singlelife.lives.registry import get_life
from singlelife.lives.video.reader import VideoReader
from singlelife.lives.video.sources import EmbeddedVideo, videos_of

from .conftest import write_clip

pytestmark = pytest.mark.integration

FEATURES = Features({"clip": Video(), "who": Value("string")})


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> list[Path]:
    folder = tmp_path_factory.mktemp("clips")
    return [write_clip(folder / f"{number}.mp4", seconds=1 + number) for number in range(3)]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")


def embedded(clips: list[Path], folder: Path, names: list[str | None] | None = None) -> Dataset:
    """A data set of a parquet file that holds the videos' bytes, memory-mapped."""
    names = names or [path.name for path in clips]
    rows = [{"bytes": path.read_bytes(), "path": name} for path, name in zip(clips, names, strict=True)]
    dataset = Dataset.from_dict({"clip": rows, "who": ["me"] * len(clips)}, features=FEATURES)
    folder.mkdir(exist_ok=True)
    dataset.to_parquet(folder / "data.parquet")
    return load_dataset("parquet", data_files=str(folder / "data.parquet"), split="train")


def prepare(videos: list, cache: Path, **arguments) -> PreparedLife:
    return prepare_life(get_life("walk", videos=videos), cache_dir=cache, progress=False, **arguments)


@pytest.mark.parametrize("num_workers", [1, 2])
def test_embedded_videos_make_the_life_that_their_files_make(clips, tmp_path, num_workers):
    dataset = embedded(clips, tmp_path / "parquet")
    assert dataset.cache_files  # on disk, as those of the Hub
    videos = videos_of(dataset)
    assert [type(video) for video in videos] == 3 * [EmbeddedVideo]
    of_rows, of_files = get_life("walk", videos=videos), get_life("walk", videos=clips)
    assert life_fingerprint(of_rows) == life_fingerprint(of_files)
    a = prepare(videos, tmp_path / "rows", num_workers=num_workers)
    b = prepare(clips, tmp_path / "files", num_workers=1)
    assert a.dataset.data.table.equals(b.dataset.data.table)
    assert a.metadata == b.metadata
    assert a.videos == ["0.mp4", "1.mp4", "2.mp4"]


def test_a_folder_of_videos_gives_its_files(clips):
    dataset = load_dataset("videofolder", data_dir=str(clips[0].parent), split="train")
    videos = videos_of(dataset)
    assert life_fingerprint(get_life("walk", videos=videos)) == life_fingerprint(get_life("walk", videos=clips))


def test_rows_without_a_path_or_of_the_same_are_told_apart(clips, tmp_path):
    dataset = embedded([*clips, clips[0]], tmp_path / "parquet", ["a.mp4", "a.mp4", None, "b.mp4"])
    life = prepare(videos_of(dataset), tmp_path / "cache", num_workers=1)
    assert life.videos == ["row-000000/a.mp4", "row-000001/a.mp4", "row-000002", "b.mp4"]


def test_damaged_and_missing_rows_are_named_and_the_others_go_in(clips, tmp_path):
    rows = [
        {"bytes": clips[0].read_bytes(), "path": "good.mp4"},
        {"bytes": b"hello" * 100, "path": "text.mp4"},
        {"bytes": b"", "path": "empty.mp4"},
        None,
    ]
    videos = videos_of(Dataset.from_dict({"clip": rows, "who": ["me"] * 4}, features=FEATURES))
    plan = plan_preparation(get_life("walk", videos=videos))
    assert [video["video"] for video in plan if "error" in video] == ["text.mp4", "empty.mp4", "row-000003"]
    with pytest.warns(UserWarning) as warned:
        life = prepare(videos, tmp_path, num_workers=1)
    assert len(warned) == 3
    assert len(life) == 10


def test_a_playlist_in_a_row_opens_no_file(clips, tmp_path):
    """Of the machine that prepares it, such as a video that its owner did not mean to publish."""
    content = f"#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\n{clips[0]}\n#EXT-X-ENDLIST\n".encode()
    dataset = Dataset.from_dict({"clip": [{"bytes": content, "path": "a.mp4"}], "who": ["me"]}, features=FEATURES)
    with pytest.raises(LifeError, match=r"a\.mp4: (not a video|holds no video)"):
        VideoReader(videos_of(dataset)[0], 10, 48)


def test_what_is_no_column_of_videos_is_refused(clips, tmp_path):
    dataset = embedded(clips, tmp_path / "parquet")
    twice = dataset.add_column("other", dataset.data.column("clip").to_pylist(), feature=Video())
    assert len(videos_of(twice, "other")) == 3
    for unclear, column, message in (
        (dataset, "who", "clip.*clip, who"),
        (twice, None, "clip.*other"),
        (dataset.remove_columns("clip"), None, "none among its columns who"),
        (DatasetDict(train=dataset), None, "one split"),
        (dataset.to_iterable_dataset(), None, "not streamed"),
        (dataset.select([]), None, "has no rows"),
    ):
        with pytest.raises(LifeError, match=message):
            videos_of(unclear, column)
