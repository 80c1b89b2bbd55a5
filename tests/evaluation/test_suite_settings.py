"""Suites: the shipped ones, and what is said of one that is not as it should be."""

import pytest
import yaml

from singlelife.errors import SingleLifeError
from singlelife.evaluation.suite.settings import CorrespondenceTask, DepthTask, read_suite
from singlelife.files import config_names

FOLDERS = {"paper": {"hpatches": "/h", "nyu": "/n", "scannet": "/s"}, "photos": {"opencv": "/o"}}


@pytest.mark.parametrize("name", config_names("evaluations"))
def test_a_shipped_suite_can_be_read(name):
    suite = read_suite(name, FOLDERS.get(name))
    assert suite.name == name and suite.version >= 1 and suite.description and suite.tasks and not suite.left_out


def test_models_of_the_simulated_lives_are_tested_on_maps_that_they_have_not_seen():
    """Neither the maps of the probe nor that of the test are those of the lives that docs compare."""
    for task in read_suite("simulated").tasks.values():
        used = {*task.train, *task.test} if isinstance(task, DepthTask) else set(task.data)
        assert not used & {"sim_1", "sim_2", "sim_still"}
        if isinstance(task, DepthTask):
            assert not set(task.train) & set(task.test)


def test_tasks_of_folders_that_are_not_given_are_left_out():
    suite = read_suite("paper", {"nyu": "/data/nyu"})
    assert list(suite.tasks) == ["nyu", "nyu-linear"] and suite.tasks["nyu"].train == ("/data/nyu",)
    assert suite.left_out == {"hpatches": "hpatches", "hpatches-features": "hpatches", "scannet": "scannet"}
    split = read_suite("paper", {"scannet": "/s"}).tasks["scannet"]
    assert isinstance(split, DepthTask) and split.train_split == "/s/scannetv2_train.txt"
    with pytest.raises(SingleLifeError, match=r"hpatches needs a folder: --data hpatches=FOLDER"):
        suite.only(["hpatches"])
    with pytest.raises(SingleLifeError, match="has no task 'nyv'; it has nyu, nyu-linear, hpatches"):
        suite.only(["nyv"])
    assert list(suite.only(["nyu-linear"]).tasks) == ["nyu-linear"]


def test_where_data_are_is_not_among_the_settings_of_a_result():
    task = CorrespondenceTask(data=("/somewhere/a.png", "/somewhere/b.png"), homography="/somewhere/h.txt")
    assert "/somewhere" not in str(task.settings()) and task.settings()["temperature"] == 1e-4


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("tasks: {a: {task: correspondence}}", "task a: data is missing"),
        ("tasks: {a: {task: match, data: x}}", "it should have `task: depth or correspondence or classification`"),
        ("tasks: {a: {task: correspondence, data: x, view: plain}}", "has no setting 'view'; it has data, homography"),
        ("tasks: {a: {task: correspondence, data: x, views: odd}}", "views should be plain or zoomed or shifted"),
        ("tasks: {a: {task: depth, train: x, test: y, seeds: 0}}", "seeds should be a whole number from 1, not 0"),
        ("tasks: {a: {task: depth, train: x, test: 3}}", "test should be text, or a list of texts, not 3"),
        ("tasks: {a: {task: depth, train: x, test: y, learning_rate: -1}}", "learning_rate should be a number above"),
        ("tasks: {a: {task: correspondence, data: x, reciprocal: 1}}", "reciprocal should be true or false"),
        ("tasks: {a: {task: correspondence, data: x, layers: 2}}", "layers should be a list of whole numbers"),
        ("tasks: {a/b: {task: correspondence, data: x}}", "'a/b' cannot be the name of a task"),
        ("tasks: {}", "at least one task"),
        ("tasks: {a: [x]}", "it should have `task"),
        ("version: new\ntasks: {a: {task: correspondence, data: x}}", "a version, which is a whole number"),
        ("task: {a: {}}", "and no task"),
        ("tasks: {a: {task: correspondence, data: '{here}'}}", "needs folders, at least one of: --data here=FOLDER"),
        ("- a", "should hold a mapping"),
        ("tasks: {", "not valid YAML"),
    ],
)
def test_what_is_wrong_with_a_suite_is_said(tmp_path, content, message):
    path = tmp_path / "suite.yaml"
    path.write_text(content)
    with pytest.raises(SingleLifeError) as caught:
        read_suite(str(path))
    assert message in str(caught.value)


def test_a_suite_or_folder_that_is_not_known(tmp_path):
    with pytest.raises(SingleLifeError, match="There is no suite 'papers': shipped are paper, photos, simulated"):
        read_suite("papers")
    with pytest.raises(SingleLifeError, match="has no folder nyv: it takes hpatches, nyu, scannet"):
        read_suite("paper", {"nyv": "/data"})
    path = tmp_path / "own.yaml"
    path.write_text(yaml.safe_dump({"tasks": {"a": {"task": "correspondence", "data": "sim_test"}}}))
    assert read_suite(str(path)).name == "own"
