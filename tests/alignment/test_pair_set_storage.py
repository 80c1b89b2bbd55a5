"""Pair sets that are stored: the same to the bit, opened by `datasets`, verified, and never half there."""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from datasets import Value, load_dataset, load_from_disk
from PIL import Image as PILImage

from singlelife.alignment.pair_sets import PairSet, make_balanced_pair_set, make_pair_set, resolve_pair_set, storage
from singlelife.alignment.pair_sets.resolve import load_image_pairs, resolve_stretch
from singlelife.errors import LifeError, PairSetError
from singlelife.lives.prepared import PreparedLife

pytestmark = pytest.mark.integration
ROWS = "test/data-00000-of-00001.arrow"
DRAW = {"views": "plain", "num_pairs": 8, "seed": 0, "image_size": 64}


@pytest.fixture(scope="module", params=["plain", "zoomed", "shifted"])
def pairs(request, sim_test) -> PairSet:
    return make_pair_set(sim_test, views=request.param, num_pairs=24, seed=3)


@pytest.fixture(scope="module")
def stored_once(sim_test, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("stored") / "pairs"
    make_pair_set(sim_test, num_pairs=8).save(folder)
    return folder


@pytest.fixture
def stored(stored_once, tmp_path) -> Path:
    return Path(shutil.copytree(stored_once, tmp_path / "pairs"))


def same(first: PairSet, second: PairSet) -> None:
    assert first.hash == second.hash and first.name == second.name
    assert torch.equal(first.target, second.target) and torch.equal(first.source, second.source)
    assert first.provenance == second.provenance
    for grid in ((8, 8), (14, 14), (3, 5)):
        assert torch.equal(first.true_match(grid), second.true_match(grid))
    for name in ("gap", "overlap"):
        ours, theirs = getattr(first, name), getattr(second, name)
        assert (ours is None) == (theirs is None)
        if ours is not None:
            assert ours.dtype == theirs.dtype
            np.testing.assert_array_equal(ours, theirs)


# There and back.


def test_a_stored_set_is_the_same_to_the_bit(pairs, tmp_path):
    pairs.save(tmp_path / "pairs")
    same(PairSet.load(tmp_path / "pairs"), pairs)
    same(resolve_pair_set(str(tmp_path / "pairs"), **DRAW | {"image_size": 32}), pairs)
    assert not (tmp_path / "pairs.tmp").exists()


def test_so_is_one_of_several_lives_of_which_one_has_no_geometry(sim_test, tmp_path):
    blind = PreparedLife(
        tmp_path / "nowhere",
        sim_test.metadata | {"name": "blind", "fingerprint": "another"},
        sim_test.dataset.remove_columns(["pose", "intrinsics", "depth"]),
    )
    pairs = make_balanced_pair_set([sim_test, blind], by="gap", bins=[0.1, 0.5], num_pairs=9, image_size=32)
    pairs.save(tmp_path / "pairs")
    same(PairSet.load(tmp_path / "pairs"), pairs)


def test_datasets_opens_it_from_disk_and_as_a_data_set(stored, sim_test, tmp_path):
    pairs = PairSet.load(stored)
    from_disk = load_from_disk(str(stored))["test"]
    loaded = load_dataset(str(stored), split="test", cache_dir=str(tmp_path / "cache"))
    assert loaded.features == from_disk.features and loaded.features["overlap"] == Value("float32")
    for rows in (from_disk, loaded):
        row = rows[5]
        assert len(rows) == 8 and np.array(row["source_depth"]).shape == (96, 96)
        assert np.array_equal(np.array(row["target"]), pairs.target[5].permute(1, 2, 0).numpy())
        assert [row["target_row"], row["source_row"]] == pairs.provenance["frames"][5]
        assert (row["life"], row["life_fingerprint"]) == ("sim_test", sim_test.metadata["fingerprint"])
        # Another test may have found this life's overlaps before.
        overlap = np.nan if pairs.overlap is None else pairs.overlap[5]
        assert row["gap"] == pairs.gap[5]
        assert row["overlap"] == (None if np.isnan(overlap) else pytest.approx(overlap))


# What is wrong.


def test_a_changed_file_is_named(stored):
    content = bytearray((stored / ROWS).read_bytes())
    content[len(content) // 2] ^= 1
    (stored / ROWS).write_bytes(content)
    with pytest.raises(PairSetError, match=r"pairs/test/data-\S+ does not match its checksum in pair_set.json"):
        PairSet.load(stored)


def describe_anew(stored: Path, **changes) -> None:
    described = json.loads((stored / "pair_set.json").read_text())
    (stored / "pair_set.json").write_text(json.dumps(described | changes))


def rewritten(stored: Path, change) -> None:
    """Another Arrow file, of which `pair_set.json` says the right digest."""
    with pa.memory_map(str(stored / ROWS)) as file, pa.ipc.open_stream(file) as stream:
        table = change(stream.read_all())
    with pa.OSFile(str(stored / "new.arrow"), "wb") as file, pa.ipc.new_stream(file, table.schema) as out:
        out.write_table(table)
    (stored / "new.arrow").replace(stored / ROWS)
    describe_anew(stored, files={ROWS: hashlib.sha256((stored / ROWS).read_bytes()).hexdigest()})


def with_column(name: str, change):
    """A table of which a column has other values."""

    def changed(table: pa.Table) -> pa.Table:
        index = table.schema.get_field_index(name)
        field = table.schema.field(index)
        return table.set_column(index, field, pa.array([change(value.as_py()) for value in table[name]], field.type))

    return changed


@pytest.mark.parametrize(
    ("change", "facts"),
    [
        (with_column("source_pose", lambda pose: [value + 1e-9 for value in pose]), "have the hash"),
        (lambda table: table.set_column(0, table.schema.field(0), table["source"]), "have the hash"),
        (with_column("target", lambda view: {"bytes": None, "path": "/etc/hostname"}), "a view is missing"),
        (with_column("source", lambda view: {"bytes": b"GIF89a", "path": None}), "a view is damaged"),
        (lambda table: table.drop_columns(["target_box"]), "target_box"),
        (lambda table: table.slice(0, 7), "7 pairs instead of 8"),
    ],
)
def test_pairs_that_are_not_those_of_the_hash_are_refused(stored, change, facts):
    rewritten(stored, change)
    with pytest.raises(PairSetError, match=facts) as error:
        PairSet.load(stored)
    assert str(stored) in str(error.value)


@pytest.mark.parametrize(
    ("changes", "facts"),
    [
        ({"hash": "0" * 64}, "000000000000"),
        ({"format_version": 2}, "has format 2, newer than format 1, .* pip install -U singlelife"),
        ({"num_pairs": "8"}, "num_pairs"),
        ({"num_pairs": 10**12}, "8 pairs instead of 1000000000000"),
        ({"image_size": 10**6}, "out of range"),
        ({"image_size": 32}, r"a view has \(64, 64\) pixels"),
        ({"files": {"../elsewhere.arrow": ""}}, "files"),
        ({"provenance": {"lives": [{"name": "other", "fingerprint": "x"}]}}, "cannot be read"),
    ],
)
def test_a_changed_description_is_refused(stored, changes, facts):
    describe_anew(stored, **changes)
    with pytest.raises(PairSetError, match=facts):
        PairSet.load(stored)


def test_what_is_there_is_never_overwritten(stored):
    with pytest.raises(PairSetError, match="exists already"):
        PairSet.load(stored).save(stored)
    assert len(PairSet.load(stored)) == 8


def test_a_set_that_is_not_written_to_the_end_is_not_there(stored, tmp_path, monkeypatch):
    pairs = PairSet.load(stored)
    monkeypatch.setattr(storage, "pair_set_card", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        pairs.save(tmp_path / "half")
    assert not (tmp_path / "half").exists()
    monkeypatch.undo()
    pairs.save(tmp_path / "half")
    assert len(PairSet.load(tmp_path / "half")) == 8 and not (tmp_path / "half.tmp").exists()


# Folders of images.


def picture(folder: Path, name: str, size: tuple[int, int] = (64, 48), mode: str = "RGB") -> np.ndarray:
    folder.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(len(name) + size[0]).integers(256, size=(size[1], size[0], 3), dtype=np.uint8)
    image = PILImage.fromarray(values).convert(mode)
    image.save(folder / name)
    return np.array(image.convert("RGB"))


def test_images_are_pairs_by_their_names(tmp_path):
    shown = {name: picture(tmp_path, name) for name in ("b_target.png", "b_source.png", "a_1_target.png")}
    shown["a_1_source.bmp"] = picture(tmp_path, "a_1_source.bmp", (100, 48))
    (tmp_path / "notes.txt").write_text("no image")
    pairs = resolve_pair_set(str(tmp_path), **DRAW | {"image_size": 48})
    assert pairs.provenance["files"] == [["a_1_target.png", "a_1_source.bmp"], ["b_target.png", "b_source.png"]]
    assert np.array_equal(pairs.target[1].permute(1, 2, 0), shown["b_target.png"][:, 8:56])  # the middle square
    assert np.array_equal(pairs.source[0].permute(1, 2, 0), shown["a_1_source.bmp"][:, 26:74])
    assert pairs.gap is None and pairs.overlap is None and (pairs.true_match((4, 4)) == -1).all()
    resized = resolve_pair_set(str(tmp_path), **DRAW | {"image_size": 24})
    assert resized.target.shape == (2, 3, 24, 24) and resized.hash != pairs.hash

    pairs.save(tmp_path / "stored")
    same(PairSet.load(tmp_path / "stored"), pairs)


@pytest.mark.parametrize(
    ("damage", "facts"),
    [
        (lambda folder: (folder / "a_target.png").write_bytes(b"cut"), r"\S+/a_target.png: .*can be read"),
        (lambda folder: (folder / "a_source.png").unlink(), "a_target.png has no partner: its source"),
        (lambda folder: picture(folder, "holiday.png"), "holiday.png .* NAME_target.png and NAME_source.png"),
        (lambda folder: picture(folder, "a_target.jpg"), "a_target.png and a_target.jpg"),
        (lambda folder: picture(folder / "source", "a.png"), "/source/a.png and a_source.png|a_source.png and a.png"),
    ],
)
def test_images_that_are_no_pairs_are_named(damage, facts, tmp_path):
    for view in ("target", "source"):
        picture(tmp_path, f"a_{view}.png")
    damage(tmp_path)
    with pytest.raises(PairSetError, match=facts):
        load_image_pairs(tmp_path, 32)


def test_folders_of_targets_and_sources_are_pairs_too(tmp_path):
    for view in ("target", "source"):
        for name in ("a.png", "b.jpg"):
            picture(tmp_path / view, name)
    assert load_image_pairs(tmp_path, 32).provenance["files"][1] == ["target/b.jpg", "source/b.jpg"]


# What words stand for.


def test_pairs_come_from_a_name_or_the_folder_of_a_prepared_life(sim_test, tmp_path):
    assert resolve_pair_set(str(sim_test.path), **DRAW).hash == make_pair_set(sim_test, num_pairs=8).hash
    with pytest.raises(LifeError, match="sim_test"):
        resolve_pair_set("sim_tets", **DRAW)
    with pytest.raises(PairSetError, match="holds no pairs: neither a stored pair set"):
        resolve_pair_set(str(tmp_path), **DRAW)


def test_held_out_pairs_are_of_frames_that_training_does_not_see(sim_test):
    from singlelife.pretraining.arguments import parse_arguments
    from singlelife.pretraining.batches import pairings

    training, _ = pairings(sim_test, parse_arguments(["--life", str(sim_test.path)]).pairs, progress=False)
    seen = set(training.pairs(0, np.arange(5000)).ravel().tolist())
    life, rows = resolve_stretch(f"{sim_test.path}/held-out")
    assert life.name == "sim_test" and rows is not None and not seen & set(rows.tolist())
    pairs = resolve_pair_set(f"{sim_test.path}/held-out", **DRAW)
    assert pairs.name == "sim_test/held-out/plain"
    assert set(np.ravel(pairs.provenance["frames"]).tolist()) <= set(rows.tolist())
