"""What a user's words for a life stand for."""

import shutil
from pathlib import Path

import pytest

from singlelife.alignment.pair_sets.resolve import resolve_pair_set
from singlelife.cli import main
from singlelife.errors import LifeError
from singlelife.lives.registry import registered_life
from singlelife.lives.resolve import LifeReference, life_reference, resolve_life, training_recipe

from ..micro import write_clip


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("words", "reference"),
    [
        ("sim_1", LifeReference("named", "sim_1", "sim_1")),
        ("ann/kitchen", LifeReference("hub", "kitchen", "ann/kitchen")),
        ("ann/_my.kitchen_", LifeReference("hub", "my-kitchen_", "ann/_my.kitchen_")),
        ("ann/...", LifeReference("hub", "life", "ann/...")),
        ("ann/kitchen@refs/pr/1", LifeReference("hub", "kitchen", "ann/kitchen", "refs/pr/1")),
    ],
)
def test_words_for_a_life(words, reference):
    assert life_reference(words) == reference


def test_a_folder_of_a_prepared_life(small_life, tmp_path):
    assert life_reference(str(small_life.path)) == LifeReference("folder", "small", str(small_life.path))
    assert resolve_life(str(small_life.path)).path == small_life.path
    # Of the form ORG/NAME, it is a folder if it is there.
    shutil.copytree(small_life.path, tmp_path / "ann" / "kitchen")
    assert life_reference("ann/kitchen").kind == "folder"
    assert len(resolve_life("ann/kitchen")) == 40
    (tmp_path / "ann" / "kitchen" / "metadata.json").write_text('{"name": "../../out"}')
    assert life_reference("ann/kitchen").name == "kitchen"
    (tmp_path / "ann" / "kitchen" / "metadata.json").write_text("[")
    with pytest.raises(LifeError, match="is not a prepared life"):
        resolve_life("ann/kitchen")


def test_with_videos_it_is_a_recording_of_ones_own(small_life):
    assert life_reference("sim_1", ["day.mp4"]).kind == "named"
    with pytest.raises(LifeError, match="'ann/kitchen' cannot be the name of a life"):
        resolve_life("ann/kitchen", videos=[small_life.path.parent])


@pytest.mark.parametrize("words", ["./kitchen", "../kitchen", "a/b/c", "~/kitchen", "runs/empty"])
def test_a_path_to_no_life_is_refused(words, tmp_path):
    (tmp_path / "runs" / "empty").mkdir(parents=True)
    with pytest.raises(LifeError, match=r"is not a life: .*(does not exist|has no metadata.json)"):
        life_reference(words)
    assert not Path("kitchen").exists()


def test_a_prepared_life_is_known_by_its_name_everywhere(tmp_path, monkeypatch, capsys):
    """Its recording is gone, and a folder of its name stands in the working directory."""
    monkeypatch.setenv("SINGLELIFE_CACHE", str(tmp_path / "cache"))
    clips = [write_clip(tmp_path / "card" / f"{seconds}.mp4", seconds=seconds) for seconds in (2, 3)]
    first = resolve_life("courtyard", videos=clips[:1], progress=False)
    assert resolve_life("courtyard", progress=False).path == first.path and not capsys.readouterr().err
    second = resolve_life("courtyard", videos=clips[1:], progress=False)
    assert set((tmp_path / "cache" / "lives").glob("courtyard-*")) == {first.path, second.path}  # and no lock
    shutil.rmtree(tmp_path / "card")
    (tmp_path / "courtyard").mkdir()
    assert resolve_life("courtyard", progress=False).path == second.path
    said = capsys.readouterr().err
    assert f"newest, {second.path.name}." in said and str(first.path) in said and "20 frames" in said
    shuffled = resolve_life("shuffled-courtyard", progress=False)
    assert len(shuffled) == 30 and shuffled.metadata["shuffled"]["fingerprint"] == second.metadata["fingerprint"]
    assert training_recipe("courtyard") == "tiny"
    assert len(resolve_pair_set("courtyard", views="plain", num_pairs=4, seed=0, image_size=32)) == 4
    for words in (["pairs", "show", "courtyard", "--pairing", "temporal"], ["lives", "show", "courtyard"], ["lives"]):
        assert main(words) == 0
    lines = capsys.readouterr().out.splitlines()
    assert (tmp_path / "cache" / "pictures" / "courtyard-pairs.png").is_file() and not list(tmp_path.glob("*.png"))
    assert ["courtyard", "prepared"] in [line.split()[:2] for line in lines]
    assert main(["prepare", "courtyrad"]) == 2 and "courtyard" in capsys.readouterr().err


def test_the_recipe_is_that_of_the_name(small_life):
    assert training_recipe("ann/wt_3") == registered_life("wt_3").train == "base"
    assert training_recipe("ann/kitchen") == training_recipe(str(small_life.path)) == "tiny"
    with pytest.raises(LifeError, match="There is no life 'sim_l'"):
        training_recipe("sim_l")
