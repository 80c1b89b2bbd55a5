"""`singlelife evaluate all` as a user types it."""

import base64
import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from singlelife.cli import main

BOTH = """\
name: small
version: 3
description: two tasks
tasks:
  depth: {{task: depth, train: {still}, test: {test}, num_train: 12, num_test: 8, seeds: 2, epochs: 1}}
  matches: {{task: correspondence, data: {sequences}}}
"""
MATCHES = "tasks: {{matches: {{task: correspondence, data: {sequences}}}}}\n"


@pytest.fixture
def place(tmp_path, sequences, sim_still, sim_test):
    """A working folder: suites, and a function that runs them into the folder `out`."""

    def suite(template: str = BOTH) -> Path:
        path = tmp_path / "suite.yaml"
        path.write_text(template.format(still=sim_still.path, test=sim_test.path, sequences=sequences))
        return path

    def run(*words: object, template: str = BOTH) -> int:
        options = ["--suite", suite(template), "--output", tmp_path / "out", "--cache-dir", tmp_path / "cache"]
        return main(["evaluate", "all", *map(str, [*words, *options])])

    run.folder, run.suite, run.sequences = tmp_path / "out", suite, sequences
    return run


@pytest.fixture
def twins(checkpoint, tmp_path) -> list[str]:
    """Two models that differ in their seed: runs/walk and runs/walk_seed1."""
    paths = [tmp_path / "runs" / name for name in ("walk", "walk_seed1")]
    for number, path in enumerate(paths):
        shutil.copytree(checkpoint, path)
        weights = load_file(path / "model.safetensors")
        noise = torch.Generator().manual_seed(number)
        changed = {name: value + 0.05 * torch.randn(value.shape, generator=noise) for name, value in weights.items()}
        save_file(changed, path / "model.safetensors", {"format": "pt"})
    return [str(path) for path in paths]


def result(folder: Path, name: str) -> dict:
    return json.loads((folder / f"{name}.json").read_text())


def test_every_model_has_a_file_and_all_of_them_a_table(place, twins, capsys):
    assert place(*twins, "--fold-seeds", "--untrained-seeds", "2") == 0
    said = result(place.folder, "walk")
    assert said["kind"] == "singlelife-evaluation" and said["format_version"] == 1 and said["model"] == twins[0]
    depth, matches = said["tasks"]["depth"], said["tasks"]["matches"]
    assert depth["protocol"]["name"] == "simulated" and depth["protocol"]["version"] == 1 and depth["seeds"] == [0, 1]
    assert matches["protocol"] == {"name": "zero-shot-correspondence", "version": 1}
    for task in (depth, matches):
        assert len(task["data"]["hash"]) == 64 and task["revision"] == said["revision"] and task["version"]
        assert task["images_per_second"] > 0 and task["peak_memory_bytes"] > 1e6
    assert len(depth["metrics"]["delta1"]["per_seed"]) == 2 and depth["data"]["train"]["num_items"] == 12
    aepe = matches["metrics"]["aepe_240"]
    assert aepe["low"] <= aepe["mean"] <= aepe["high"] and {f"aepe_240_{level}" for level in ("I", "V")} <= set(
        matches["metrics"]
    )
    names = {path.stem for path in place.folder.glob("*.json")}
    baselines = {"identity-flow", "mean-depth", "mean-depth-at-each-place"}
    assert names == {"walk", "walk_seed1", "untrained-walk@0", "untrained-walk@1"} | baselines

    out = capsys.readouterr().out
    assert "small 3: two tasks" in out and "11 results computed, 0 kept" in out
    lines = list(csv.DictReader((place.folder / "comparison.csv").read_text().splitlines()))
    (walk,) = (line for line in lines if line["row"] == twins[0] and line["metric"] == "aepe_240")
    each = [result(place.folder, name)["tasks"]["matches"]["metrics"]["aepe_240"]["mean"] for name in
            ("walk", "walk_seed1")]  # fmt: skip
    assert walk["models"].split() == twins
    assert float(walk["mean"]) == pytest.approx(np.mean(each), rel=1e-5)
    assert float(walk["std"]) == pytest.approx(np.std(each, ddof=1), rel=1e-4)
    table = (place.folder / "comparison.md").read_text()
    assert f"{np.mean(each):.2f} ± {np.std(each, ddof=1):.2f}" in table and "AEPE in px of 240×240 by level" in table

    page = (place.folder / "comparison.html").read_text()
    pictures = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    assert len(pictures) == 4 and all(base64.b64decode(each)[:4] == b"\x89PNG" for each in pictures)
    assert not re.search(r'(src|href)="(?!data:)', page)  # one file is all
    for picture in ("charts/depth", "charts/matches", "sheets/depth", "sheets/matches"):
        with Image.open(place.folder / f"{picture}.png") as drawn:
            assert drawn.format == "PNG" and drawn.width > 300
    assert not list(place.folder.rglob("*.tmp"))


def test_what_is_the_same_is_kept_and_what_is_not_is_computed_again(place, twins, capsys):
    def counts(*words, template=MATCHES):
        assert place(*words, template=template) == 0
        said = re.search(r"(\d+) results computed, (\d+) kept", capsys.readouterr().out)
        return int(said[1]), int(said[2])

    one = [twins[0], "--no-baselines"]
    assert counts(*one) == (1, 0)
    before = (place.folder / "walk.json").read_bytes()
    assert counts(*one) == (0, 1)
    assert (place.folder / "walk.json").read_bytes() == before
    assert counts(*twins, "--no-baselines") == (1, 1)  # one more model is one more run
    assert counts(*one, template=MATCHES.replace("{sequences}", "{sequences}, temperature: 0.1")) == (1, 0)
    assert counts(*one) == (1, 0)  # other settings
    image = place.sequences / "v_one/2.ppm"
    picture = np.asarray(Image.open(image)).copy()
    picture[0, 0] ^= 1
    Image.fromarray(picture).save(image)
    assert counts(*one) == (1, 0)  # other data
    weights = load_file(Path(twins[0]) / "model.safetensors")
    save_file({name: value + 0.01 for name, value in weights.items()}, Path(twins[0]) / "model.safetensors")
    assert counts(*one) == (1, 0)  # other weights
    assert counts(*one) == (0, 1)


def test_a_run_that_was_killed_goes_on(place, twins, tmp_path, capsys):
    words = [*twins, "--suite", place.suite(), "--output", place.folder, "--cache-dir", tmp_path / "cache"]
    command = [sys.executable, "-m", "singlelife.cli", "evaluate", "all", *map(str, words)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ)
    try:
        until = time.monotonic() + 100
        while not (place.folder / "walk.json").exists() and time.monotonic() < until:
            assert process.poll() is None
            time.sleep(0.01)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    first = result(place.folder, "walk")["tasks"]["depth"]
    assert not (place.folder / "comparison.md").exists()
    assert place(*twins) == 0
    kept = int(re.search(r"(\d+) kept", capsys.readouterr().out)[1])
    assert kept >= 1 and result(place.folder, "walk")["tasks"]["depth"] == first
    assert set(result(place.folder, "walk_seed1")["tasks"]) == {"depth", "matches"}


def test_what_fails_is_in_the_table_and_all_else_is_kept(place, twins, tmp_path, capsys):
    broken = Path(shutil.copytree(twins[0], tmp_path / "runs" / "broken"))
    weights = load_file(broken / "model.safetensors")
    for name in weights:
        if "decoder.layers.0.cross_attention.q_proj" in name:
            weights[name].fill_(1e38)  # finite, but what it computes is not
    save_file(weights, broken / "model.safetensors", {"format": "pt"})
    template = BOTH + "  gone: {{task: correspondence, data: no/such/folder}}\n"
    groups = "--groups", f"lives={twins[0]},{tmp_path / 'nowhere'}"  # one of which will have no results
    assert place(twins[0], broken, tmp_path / "nowhere", "--no-baselines", *groups, template=template) == 1
    said = capsys.readouterr()
    assert f"{tmp_path / 'nowhere'}: " in said.err and "no such folder" in said.err
    assert f"{broken} in matches: " in said.err and "all models in gone: " in said.err
    assert set(result(place.folder, "walk")["tasks"]) == {"depth", "matches"}
    assert set(result(place.folder, "broken")["tasks"]) == {"depth"}  # whose encoder is well
    table = (place.folder / "comparison.md").read_text()
    assert "## What failed" in table and f"{broken} in matches: " in table
    assert re.search(r"\| broken \|.*\| – \|$", table, flags=re.MULTILINE)
    assert place(twins[0], template=template.replace("no/such/folder", "other/folder")) == 1
    assert not result(place.folder, "identity-flow")["tasks"].keys() & {"gone"}
    assert set(result(place.folder, "walk")["tasks"]) == {"depth", "matches"}


def test_an_item_that_cannot_be_read_is_named_and_the_others_count(place, twins, capsys):
    (place.sequences / "v_two/4.ppm").unlink()
    assert place(twins[0], "--no-baselines", template=MATCHES) == 0
    task = result(place.folder, "walk")["tasks"]["matches"]
    assert task["data"]["num_items"] == 9 and "4.ppm: no such file" in task["failures"]["v_two 1-4"]
    assert "1 item could not be used: v_two 1-4" in capsys.readouterr().out


def test_nothing_to_compare_is_an_error(place, tmp_path, capsys):
    assert place(tmp_path / "nowhere", template=MATCHES) == 2
    assert "There are no results to compare" in capsys.readouterr().err
    assert main(["evaluate", "all", "--output", str(tmp_path / "empty")]) == 2
    assert "There are no results to compare" in capsys.readouterr().err


def test_without_models_the_folder_is_compared_anew(place, twins, capsys):
    assert place(*twins, "--no-baselines", template=MATCHES) == 0
    before = (place.folder / "walk.json").read_bytes()
    capsys.readouterr()
    words = ["--output", str(place.folder), "--groups", f"lives={twins[0]}", f"controls={twins[1]}"]
    assert main(["evaluate", "all", *words]) == 0
    assert "0 results computed, 0 kept" in capsys.readouterr().out
    table = (place.folder / "comparison.md").read_text()
    assert "| walk | lives | 1 |" in table and "| walk_seed1 | controls | 1 |" in table
    assert (place.folder / "walk.json").read_bytes() == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--groups", "lives"], "--groups takes NAME=MODEL,MODEL"),
        (["--groups", "lives=absent"], "--groups lives: absent is none of the models"),
        (["--data", "nyu"], "--data takes NAME=FOLDER"),
        (["--data", "nyu=/data"], "has no folder nyu: it takes none"),
        (["--tasks", "depth"], "has no task 'depth'; it has matches"),
        (["--device", "nowhere"], "--device nowhere cannot be used here"),
        (["untrained:tiny@2..0"], "seeds go from the lower to the higher one"),
        (["untrained:tiny@0..1", "untrained:tiny@1"], "Named twice: untrained:tiny@1"),
        (["--suite", "papers"], "There is no suite 'papers'"),
    ],
)
def test_usage_that_is_wrong_is_told(place, checkpoint, words, message, capsys):
    options = [] if words[0].startswith("untrained") else [str(checkpoint)]
    options += ["--suite", str(place.suite(MATCHES)), "--output", str(place.folder), "--no-baselines"]
    assert main(["evaluate", "all", *options, *words]) == 2
    assert message in capsys.readouterr().err


def test_other_files_in_the_folder_are_not_written_over(place, checkpoint, capsys):
    place.folder.mkdir()
    (place.folder / "model.json").write_text('{"mine": 1}')
    assert place(checkpoint, template=MATCHES) == 2
    assert "model.json is no results file of `singlelife evaluate all`" in capsys.readouterr().err
    assert (place.folder / "model.json").read_text() == '{"mine": 1}'
