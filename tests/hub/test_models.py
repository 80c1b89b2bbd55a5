"""Runs as models on the Hub: what is pushed opens anywhere, and a failure says why and loses nothing."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from transformers import AutoModel

from singlelife.errors import RunError
from singlelife.pretraining.publishing import run_publications
from singlelife.results import ResultRow, append_results

from ..hub_server import WRITER
from .conftest import files, push, pushed

pytestmark = pytest.mark.integration

ABOUT = {"README.md", "config.yaml", "cross_attention.png", "life.json", "metrics.jsonl", "reconstruction.png"}


def model_of(run: Path) -> set[str]:
    """The files of a run's model: weights, configs and code."""
    return {path.name for path in run.iterdir() if path.suffix in (".py", ".safetensors")} | {
        "config.json", "preprocessor_config.json"}  # fmt: skip


def card(hub, repository) -> tuple[dict, str]:
    _, header, body = hub.read(repository, "README.md").decode().split("---\n", 2)
    return yaml.safe_load(header), body


# There and back.


def test_a_model_comes_back_with_its_package(hub, hub_client, whole_run):
    repository = pushed(hub, hub_client, whole_run, "lives/pan")
    assert files(repository) == model_of(whole_run) | ABOUT and "modeling_croco.py" in files(repository)
    code = """
import singlelife, torch
from transformers import AutoImageProcessor, AutoModel
views = torch.rand(2, 1, 3, 32, 32)
with torch.no_grad():
    ours, theirs = (AutoModel.from_pretrained(where).eval().cross_attention_logits(*views) for where in (run, repo))
result = [bool(torch.equal(ours, theirs)), type(AutoImageProcessor.from_pretrained(repo)).__module__]
"""
    assert hub_client(code, run=whole_run, repo="lives/pan") == [True, "singlelife.croco.image_processing_croco"]


def test_a_model_comes_back_without_the_package(hub, hub_client, hub_environment, whole_run, tmp_path):
    """As remote code, from the Hub, where `import singlelife` fails."""
    pushed(hub, hub_client, whole_run, "ann/pan")
    code = """
import sys
sys.modules["singlelife"] = None
import torch
from transformers import AutoModel
target, source = torch.linspace(0, 1, 2 * 3 * 32 * 32).reshape(2, 1, 3, 32, 32)
with torch.no_grad():
    model = AutoModel.from_pretrained("ann/pan", trust_remote_code=True).eval()
    print(model(target, source).decoder_last_hidden_state.sum())
"""
    environment = hub_environment | {"HF_TOKEN": WRITER, "HF_MODULES_CACHE": str(tmp_path / "modules")}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    views = torch.linspace(0, 1, 2 * 3 * 32 * 32).reshape(2, 1, 3, 32, 32)
    with torch.no_grad():
        expected = AutoModel.from_pretrained(whole_run).eval()(*views).decoder_last_hidden_state.sum()
    assert done.stdout == f"{expected!s}\n"


def test_nothing_of_this_machine_goes_along(hub, hub_client, whole_run, clip, run_cache):
    """Neither its folders nor, on `main`, the optimiser's moments."""
    settings = yaml.safe_load((whole_run / "config.yaml").read_text())
    assert settings["video"] == [str(clip)] and settings["cache_dir"] == str(run_cache)
    repository = pushed(hub, hub_client, whole_run, "ann/pan", "--training-state")
    theirs = yaml.safe_load(hub.read(repository, "config.yaml"))
    assert theirs.keys() == settings.keys() - {"video", "cache_dir", "output_dir"}
    assert theirs["model"] == "micro.yaml" and theirs["life"] == "my_pan"
    folders = {str(folder).encode() for file in (whole_run, clip, run_cache) for folder in (file, file.parent)}
    for branch in ("main", "training-state"):
        for name in files(repository, branch):
            assert not any(folder in hub.read(repository, name, branch) for folder in folders), name
    assert not [name for name in files(repository) if "training_state" in name or "checkpoint" in name]


def test_the_latest_checkpoint_of_an_unfinished_run_is_pushed(hub, hub_client, broken_off_run):
    repository = pushed(hub, hub_client, broken_off_run, "ann/pan", "--training-state")
    weights = (broken_off_run / "checkpoint-8" / "model.safetensors").read_bytes()
    assert hub.read(repository, "model.safetensors") == weights
    header, body = card(hub, repository)
    assert header["singlelife"]["steps"] == 8 and header["singlelife"]["finished"] is False
    assert "8 of 12 steps" in body
    steps = [json.loads(line)["step"] for line in hub.read(repository, "metrics.jsonl").splitlines()]
    assert max(steps) == 8  # what was measured later is not of this model
    kept = {f"checkpoint-8/{file.name}" for file in (broken_off_run / "checkpoint-8").iterdir()}
    assert files(repository, "training-state") == kept | {"config.yaml", "metrics.jsonl"}


# The card.


def rows(run: str, other: str = "runs/sim_1") -> list[ResultRow]:
    """What scores and evaluations append: CAS with another model, depth with three seeds of its probe."""
    cas = {"task": "cas", "protocol": "cas/1", "data": "sim_test", "data_hash": "f" * 64, "revision": "r"}
    settings = {"k": 5, "num_patches": 64, "chance": 0.078}
    depth = {"task": "depth", "protocol": "depth/1", "data": "/data/nyu", "data_hash": "d" * 64, "revision": "r"}
    return [
        ResultRow(model=other, reference=run, metric="raw", value=0.45, low=0.4, high=0.5, settings=settings, **cas),
        ResultRow(model=run, reference=other, metric="centred", value=0.3, settings=settings, **cas),
        *(ResultRow(model=run, metric="delta1", value=0.5 + seed / 100, seed=seed, **depth) for seed in range(3)),
        ResultRow(model=other, metric="delta1", value=0.9, seed=0, **depth),
    ]


def test_the_card_has_what_a_visitor_must_know(hub, hub_client, whole_run):
    repository = pushed(hub, hub_client, whole_run, "ann/pan")
    header, body = card(hub, repository)
    assert header["library_name"] == "transformers" and header["pipeline_tag"] == "image-feature-extraction"
    assert {"singlelife", "croco", "egocentric"} <= set(header["tags"])
    assert (header["license"], header["license_name"]) == ("other", "not-stated")
    assert header["singlelife"] == {"life": "my_pan", "hours": 0.0056, "steps": 12, "finished": True}
    for fact in (
        'AutoModel.from_pretrained("ann/pan")', "20 s", "200 at 10 Hz", "0.1 to 0.4 s apart", "12 of 12, 8 pairs each",
        "learning rate 0.002", "fp32", "No licence is stated", "consent", "(reconstruction.png)", "2512.04085",
        "--life my_pan --video PATH --config config.yaml",
    ):  # fmt: skip
        assert fact in body, fact
    assert "{" + "{" not in body and "{%" not in body
    pushed(hub, hub_client, whole_run, "ann/pan", "--license", "CC BY 4.0")
    assert card(hub, repository)[0]["license"] == "cc-by-4.0"


def test_the_card_of_a_registered_life_has_what_the_registry_says(hub, hub_client, whole_run):
    facts = json.loads((whole_run / "life.json").read_text())
    facts |= {"name": "hdepic_2", "license": "CC BY-NC 4.0", "dataset": "HD-EPIC", "hours": 4.4}
    (whole_run / "life.json").write_text(json.dumps(facts))
    header, body = card(hub, pushed(hub, hub_client, whole_run, "ann/singlelife-hdepic2"))
    assert header["license"] == "cc-by-nc-4.0" and header["singlelife"]["life"] == "hdepic_2"
    for fact in ("kitchen of participant P02", "https://hd-epic.github.io", "4 h 24 min", "filmed themselves"):
        assert fact in body, fact


def test_scores_are_in_the_card(hub, hub_client, whole_run, tmp_path):
    """Those given with --results, and those that the run folder holds."""
    scores = rows(str(whole_run))
    append_results(tmp_path / "scores.jsonl", scores[:2])
    append_results(whole_run / "results.jsonl", scores[2:])
    repository = pushed(hub, hub_client, whole_run, "ann/pan", "--results", str(tmp_path / "scores.jsonl"))
    header, body = card(hub, repository)
    values = [metric["value"] for result in header["model-index"][0]["results"] for metric in result["metrics"]]
    assert sorted(values) == [0.3, 0.45, 0.51]
    assert "| Raw CAS with sim_1, top 5 of 64 | 0.450 (0.400 to 0.500) | sim_test (cas/1) | 0.078 |" in body
    assert "| Centred CAS with sim_1, top 5 of 64 | 0.300 |" in body
    assert "| delta1 | 0.510 ± 0.010 | nyu (depth/1) |" in body
    assert str(tmp_path) not in hub.read(repository, "README.md").decode()


def test_scores_of_other_models_are_refused(hub, hub_client, whole_run, tmp_path):
    append_results(tmp_path / "others.jsonl", rows("runs/sim_2"))
    for file in ("others", "absent"):
        answer = push(hub_client, whole_run, "ann/pan", "--results", tmp_path / f"{file}.jsonl")
        assert answer.result == 2 and f"{file}.jsonl" in answer.said
    assert not hub.repositories


def test_a_card_that_its_owner_has_rewritten_stays(hub, hub_client, whole_run):
    repository = pushed(hub, hub_client, whole_run, "ann/pan")
    header = "---\nsinglelife:\n  life: my_pan\n---\n"
    hub.put(repository, {"README.md": f"{header}# My own words\n".encode()})
    (whole_run / "reconstruction.png").unlink()
    hub.requests.clear()
    pushed(hub, hub_client, whole_run, "ann/pan")
    assert "My own words" in hub.read(repository, "README.md").decode()
    assert files(repository) == (model_of(whole_run) | ABOUT) - {"reconstruction.png"}
    assert not [path for method, path, _ in hub.requests if method == "PUT"]


def test_what_is_no_run_is_refused(tmp_path, broken_off_run):
    with pytest.raises(RunError, match=r"config\.yaml"):
        run_publications(tmp_path)
    shutil.rmtree(broken_off_run / "checkpoint-8")
    with pytest.raises(RunError, match="no checkpoint yet"):
        run_publications(broken_off_run)
    (broken_off_run / "config.yaml").write_text("life: my_pan\n")
    with pytest.raises(RunError, match="max_steps"):
        run_publications(broken_off_run)
