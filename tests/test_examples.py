"""The examples run, each in a few steps on a few seconds of life."""

import json
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest

from .micro import save_micro_model

pytestmark = pytest.mark.integration
EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture(autouse=True)
def fresh_process(tmp_path, monkeypatch, fresh_accelerate):
    """A folder, a cache and an Accelerate of its own for each example, which runs in this process."""
    monkeypatch.setenv("SINGLELIFE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("MPLBACKEND", "agg")
    monkeypatch.chdir(tmp_path)


def run_notebook(name: str, parameters: dict[str, Any]) -> dict[str, Any]:
    """Run the cells of code from top to bottom, with other parameters. Returns the variables."""
    names: dict[str, Any] = {}
    for cell in json.loads((EXAMPLES / f"{name}.ipynb").read_text())["cells"]:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), names)
            if "parameters" in cell["metadata"].get("tags", ()):
                assert parameters.keys() <= names.keys()
                names |= parameters
    return names


@pytest.mark.parametrize("name", ["quickstart", "your_own_video"])
def test_a_notebook_runs_from_top_to_bottom(name, sim_test, clip):
    changes = {"LIFE": str(sim_test.path)} if name == "quickstart" else {"VIDEO": str(clip)}
    names = run_notebook(name, changes | {"STEPS": 2})
    assert names["run"].metrics["loss"].notna().any()
    assert 0 < names["score"].raw.cas < 1


def test_fine_tuning_for_depth_changes_the_encoder_too_unless_it_is_frozen(sim_test, tmp_path, monkeypatch, capsys):
    from transformers import pipeline

    from singlelife import CroCoForDepthEstimation, CroCoModel

    model = save_micro_model(tmp_path / "model")
    words = ["--model", model, "--train", sim_test.path, "--test", sim_test.path, "--steps", 2, "--batch-size", 4]
    before = CroCoModel.from_pretrained(model).encoder.state_dict()
    for flags, changed in (([], True), (["--freeze"], False)):
        output = tmp_path / f"depth_{changed}"
        monkeypatch.setattr(sys, "argv", ["finetune_depth.py", *map(str, words), "--output", str(output), *flags])
        runpy.run_path(str(EXAMPLES / "finetune_depth.py"), run_name="__main__")
        assert "δ1" in capsys.readouterr().out
        after = CroCoForDepthEstimation.from_pretrained(output).croco.encoder.state_dict()
        assert any((after[name] != value).any() for name, value in before.items()) == changed
    depth = pipeline("depth-estimation", model=str(tmp_path / "depth_True"))
    assert depth(sim_test.dataset[0]["image"])["predicted_depth"].std() > 0
