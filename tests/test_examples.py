"""The examples run, each in a few steps on a few seconds of life."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from .micro import save_micro_model

pytestmark = pytest.mark.integration
EXAMPLES = Path(__file__).parents[1] / "examples"

NOTEBOOK = """
import json, sys
parameters, names = json.loads(sys.argv[2]), {}
for cell in json.load(open(sys.argv[1]))["cells"]:
    if cell["cell_type"] == "code":
        exec("".join(cell["source"]), names)
        if "parameters" in cell["metadata"].get("tags", ()):
            assert parameters.keys() <= names.keys()
            names |= parameters
print(json.dumps([names["run"].metrics["loss"].notna().sum().item(), float(names["score"].raw.cas)]))
"""


def run(*words: object, cwd: Path) -> str:
    done = subprocess.run([sys.executable, *map(str, words)], capture_output=True, text=True, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("name", ["quickstart", "your_own_video"])
def test_a_notebook_runs_from_top_to_bottom(name, sim_test, clip, tmp_path, monkeypatch):
    monkeypatch.setenv("SINGLELIFE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("MPLBACKEND", "agg")
    changes = {"LIFE": str(sim_test.path)} if name == "quickstart" else {"VIDEO": str(clip)}
    said = run("-c", NOTEBOOK, EXAMPLES / f"{name}.ipynb", json.dumps(changes | {"STEPS": 2}), cwd=tmp_path)
    losses, score = json.loads(said.splitlines()[-1])
    assert losses > 0 and 0 < score < 1


def test_fine_tuning_for_depth_changes_the_encoder_too_unless_it_is_frozen(sim_test, tmp_path):
    from transformers import pipeline

    from singlelife import CroCoForDepthEstimation, CroCoModel

    model = save_micro_model(tmp_path / "model")
    words = ["--model", model, "--train", sim_test.path, "--test", sim_test.path, "--steps", 2, "--batch-size", 4]
    before = CroCoModel.from_pretrained(model).encoder.state_dict()
    for flags, changed in (([], True), (["--freeze"], False)):
        output = tmp_path / f"depth_{changed}"
        assert "δ1" in run(EXAMPLES / "finetune_depth.py", *words, "--output", output, *flags, cwd=tmp_path)
        after = CroCoForDepthEstimation.from_pretrained(output).croco.encoder.state_dict()
        assert any((after[name] != value).any() for name, value in before.items()) == changed
    depth = pipeline("depth-estimation", model=str(tmp_path / "depth_True"))
    assert depth(sim_test.dataset[0]["image"])["predicted_depth"].std() > 0
