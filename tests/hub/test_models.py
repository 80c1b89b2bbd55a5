"""Runs as models on the Hub: what is pushed opens anywhere, and a failure says why and loses nothing."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from singlelife.errors import RunError
from singlelife.pretraining.card import public_settings
from singlelife.pretraining.publishing import push_run
from singlelife.pretraining.run_folder import RunFolder
from singlelife.results import ResultRow, append_results

from ..hub_server import READER, STRANGER, WRITER, Break, Trouble

pytestmark = pytest.mark.integration

PUSH = """
from singlelife.pretraining.publishing import push_run
result = push_run(run, repo, **options)
"""
COMMAND = """
from singlelife.cli import main
result = main(words)
"""
ABOUT = {"README.md", "config.yaml", "cross_attention.png", "life.json", "metrics.jsonl", "reconstruction.png"}


def push(client, run, repo="ann/pan", token=WRITER, **options):
    return client.ask(PUSH, token, run=run, repo=repo, options=options)


def pushed(client, hub, run, repo="ann/pan", **options):
    answer = push(client, run, repo, **options)
    assert answer.error is None, answer.error[2]
    assert answer.result == f"{hub.url}/{repo}"
    return hub.repositories["model", repo]


def files(repository, branch="main"):
    return set(repository.commits[repository.branches[branch]]) - {".gitattributes"}


def model_of(run: Path) -> set[str]:
    """The files of a run's model: weights, configs and code."""
    return {path.name for path in run.iterdir() if path.suffix in (".py", ".safetensors")} | {
        "config.json", "preprocessor_config.json"}  # fmt: skip


def card(hub, repository) -> tuple[dict, str]:
    _, header, body = hub.read(repository, "README.md").decode().split("---\n", 2)
    return yaml.safe_load(header), body


# There and back.


def test_a_model_comes_back_with_its_package(hub, hub_client, whole_run):
    repository = pushed(hub_client, hub, whole_run, "lives/pan")
    assert repository.private
    assert files(repository) == model_of(whole_run) | ABOUT and "modeling_croco.py" in files(repository)
    assert len(repository.commits) == 2  # the empty repository's, and one for all
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
    pushed(hub_client, hub, whole_run)
    code = """
import sys
sys.modules["singlelife"] = None
import torch
from transformers import AutoModel
target, source = torch.linspace(0, 1, 2 * 3 * 32 * 32).reshape(2, 1, 3, 32, 32)
with torch.no_grad():
    model = AutoModel.from_pretrained(where, trust_remote_code=True).eval()
    print(model(target, source).decoder_last_hidden_state.sum())
"""
    said = []
    for where in ("ann/pan", str(whole_run)):
        environment = hub_environment | {"HF_TOKEN": WRITER, "HF_MODULES_CACHE": str(tmp_path / "modules")}
        done = subprocess.run(
            [sys.executable, "-c", f"where = {where!r}{code}"], env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        said.append(done.stdout)
    assert said[0] == said[1]


def test_nothing_of_this_machine_goes_along(hub, hub_client, whole_run, clip, life_cache):
    """Neither its folders nor, on `main`, the optimiser's moments."""
    settings = yaml.safe_load((whole_run / "config.yaml").read_text())
    assert settings["video"] == [str(clip)] and settings["cache_dir"] == str(life_cache)
    repository = pushed(hub_client, hub, whole_run, training_state=True)
    theirs = yaml.safe_load(hub.read(repository, "config.yaml"))
    assert theirs.keys() == settings.keys() - {"video", "cache_dir", "output_dir"}
    assert theirs["model"] == "micro.yaml" and theirs["life"] == "my_pan"
    folders = {str(folder).encode() for file in (whole_run, clip, life_cache) for folder in (file, file.parent)}
    for branch in ("main", "training-state"):
        for name in files(repository, branch):
            assert not any(folder in hub.read(repository, name, branch) for folder in folders), name
    assert not [name for name in files(repository) if "training_state" in name or "checkpoint" in name]


@pytest.mark.parametrize(
    ("value", "seen"),
    [
        ("/home/me/model.yaml", "model.yaml"),
        ("../runs/a/", "a"),
        (r"C:\me\model.yaml", "model.yaml"),
        ("~/lives/mine", "mine"),
        (["/a/b", "c"], ["b", "c"]),
        ("ann/pan@0123abcd", "ann/pan@0123abcd"),
        ("tiny", "tiny"),
        (None, None),
        (0.5, 0.5),
    ],
)
def test_only_the_last_part_of_a_path_is_seen(value, seen):
    assert public_settings({"model": value, "output_dir": "/a"}) == {"model": seen}


def test_pushing_again_sends_nothing_and_a_change_only_itself(hub, hub_client, whole_run):
    repository = pushed(hub_client, hub, whole_run, training_state=True)
    commits = dict(repository.commits)
    hub.requests.clear()
    pushed(hub_client, hub, whole_run, training_state=True)
    assert repository.commits == commits
    assert not [path for method, path, _ in hub.requests if method == "PUT" or "/commit/" in path]
    (whole_run / "reconstruction.png").unlink()
    pushed(hub_client, hub, whole_run)
    assert not [path for method, path, _ in hub.requests if method == "PUT"]
    assert files(repository) == (model_of(whole_run) | ABOUT) - {"reconstruction.png"}


def test_the_latest_checkpoint_of_an_unfinished_run_is_pushed(hub, hub_client, broken_off_run):
    repository = pushed(hub_client, hub, broken_off_run, training_state=True)
    weights = (broken_off_run / "checkpoint-8" / "model.safetensors").read_bytes()
    assert hub.read(repository, "model.safetensors") == weights
    header, body = card(hub, repository)
    assert header["singlelife"]["steps"] == 8 and header["singlelife"]["finished"] is False
    assert "8 of 12 steps" in body
    steps = [json.loads(line)["step"] for line in hub.read(repository, "metrics.jsonl").splitlines()]
    assert max(steps) == 8  # what was measured later is not of this model
    kept = {f"checkpoint-8/{file.name}" for file in (broken_off_run / "checkpoint-8").iterdir()}
    assert files(repository, "training-state") == kept | {"config.yaml", "metrics.jsonl"}


def test_the_command(hub, hub_client, whole_run, tmp_path):
    answer = hub_client.ask(
        COMMAND, None, words=["push", str(whole_run), "--dry-run", "--card", f"{tmp_path}/card.md"]
    )
    assert answer.result == 0 and "model.safetensors" in answer.said and "Nothing was sent" in answer.said
    assert "YOUR-NAME/singlelife-my-pan" in (tmp_path / "card.md").read_text() and not hub.requests
    answer = hub_client.ask(COMMAND, words=["push", str(whole_run), "lives/pan", "--public"])
    assert answer.result == 0 and f"{hub.url}/lives/pan (public)" in answer.said
    assert 'AutoModel.from_pretrained("lives/pan")' in answer.said
    assert not hub.repositories["model", "lives/pan"].private
    for words in ([], ["pan"]):
        assert hub_client.ask(COMMAND, words=["push", str(whole_run), *words]).result == 0
    assert {name for _, name in hub.repositories} == {"lives/pan", "ann/singlelife-my-pan", "ann/pan"}
    answer = hub_client.ask(COMMAND, None, words=["push", str(whole_run)])
    assert answer.result == 2 and "`hf auth login`" in answer.said and "HF_TOKEN" in answer.said


# The card.


def rows(run: str, other: str = "runs/sim_1") -> list[ResultRow]:
    """What scores and evaluations append: CAS with another model, depth with three seeds of its probe."""
    cas = {"task": "cas", "protocol": "cas/1", "data": "sim_test", "data_hash": "f" * 64, "revision": "r"}
    settings = {"k": 5, "num_patches": 64, "chance": 0.078}
    depth = {"task": "depth", "protocol": "depth/1", "data": "/data/nyu", "data_hash": "d" * 64, "revision": "r"}
    return [
        ResultRow(model=other, reference=run, metric="raw", value=0.45, low=0.4, high=0.5, settings=settings, **cas),
        ResultRow(model=run, reference=other, metric="position_free", value=0.3, settings=settings, **cas),
        *(ResultRow(model=run, metric="delta1", value=0.5 + seed / 100, seed=seed, **depth) for seed in range(3)),
        ResultRow(model=other, metric="delta1", value=0.9, seed=0, **depth),
    ]


def test_the_card_has_what_a_visitor_must_know(hub, hub_client, whole_run):
    repository = pushed(hub_client, hub, whole_run)
    header, body = card(hub, repository)
    assert header["library_name"] == "transformers" and header["pipeline_tag"] == "image-feature-extraction"
    assert {"singlelife", "croco", "egocentric"} <= set(header["tags"])
    assert (header["license"], header["license_name"]) == ("other", "not-stated")
    assert header["singlelife"] == {"life": "my_pan", "hours": 0.0056, "steps": 12, "finished": True}
    (loss,) = header["model-index"][0]["results"][0]["metrics"]
    last = [json.loads(line) for line in (whole_run / "metrics.jsonl").read_text().splitlines() if "val_loss" in line]
    assert loss["value"] == pytest.approx(last[-1]["val_loss"], abs=1e-4)
    for fact in (
        'AutoModel.from_pretrained("ann/pan")', "trust_remote_code=True", "20 s", "200 at 10 Hz", "fingerprint",
        "0.1 to 0.4 s apart", "12 of 12, 8 pairs each", "AdamW, learning rate 0.002", "fp32", "No licence is stated",
        "consent", "(reconstruction.png)", "(cross_attention.png)", "2512.04085", "traces", "training ", "validation ",
        "--life my_pan --video PATH --config config.yaml",
    ):  # fmt: skip
        assert fact in body, fact
    assert "{" + "{" not in body and "{%" not in body
    pushed(hub_client, hub, whole_run, license="CC BY 4.0")
    assert card(hub, repository)[0]["license"] == "cc-by-4.0"


def test_the_card_of_a_registered_life_has_what_the_registry_says(hub, hub_client, whole_run):
    facts = json.loads((whole_run / "life.json").read_text())
    facts |= {"name": "hdepic_2", "license": "CC BY-NC 4.0", "dataset": "HD-EPIC", "hours": 4.4}
    (whole_run / "life.json").write_text(json.dumps(facts))
    header, body = card(hub, pushed(hub_client, hub, whole_run, "ann/singlelife-hdepic2"))
    assert header["license"] == "cc-by-nc-4.0" and header["singlelife"]["life"] == "hdepic_2"
    for fact in ("kitchen of participant P02", "https://hd-epic.github.io", "4 h 24 min", "filmed themselves"):
        assert fact in body, fact


@pytest.mark.parametrize("given", [True, False])
def test_scores_are_in_the_card(hub, hub_client, whole_run, tmp_path, given):
    """Those given with --results, and those that the run folder holds."""
    file = tmp_path / "scores.jsonl" if given else whole_run / "results.jsonl"
    append_results(file, rows(str(whole_run)))
    repository = pushed(hub_client, hub, whole_run, results=[str(file)] if given else [])
    header, body = card(hub, repository)
    metrics = {m["type"]: m for result in header["model-index"][0]["results"] for m in result["metrics"]}
    assert metrics["cas"]["value"] == 0.45 and metrics["cas"]["args"] == {"low": 0.4, "high": 0.5, "chance": 0.078}
    assert metrics["delta1"]["value"] == 0.51 and metrics["delta1"]["args"] == {"std": 0.01}
    assert "| CAS with sim_1, top 5 of 64 | 0.450 (0.400 to 0.500) | sim_test (cas/1) | 0.078 |" in body
    assert "| Position-free CAS with sim_1, top 5 of 64 | 0.300 |" in body
    assert "| delta1 | 0.510 ± 0.010 | nyu (depth/1) |" in body
    assert str(tmp_path) not in hub.read(repository, "README.md").decode()
    RunFolder(whole_run).remove_run()
    assert not (whole_run / "results.jsonl").exists()  # the scores are not those of the run that comes after


def test_scores_of_other_models_are_refused(hub, hub_client, whole_run, tmp_path):
    append_results(tmp_path / "others.jsonl", rows("runs/sim_2"))
    answer = push(hub_client, whole_run, results=[f"{tmp_path}/others.jsonl"])
    assert answer.error[0] == "RunError" and "others.jsonl" in answer.error[1]
    answer = push(hub_client, whole_run, results=[f"{tmp_path}/absent.jsonl"])
    assert answer.error[0] == "SingleLifeError" and "absent.jsonl" in answer.error[1]
    assert not hub.repositories


def test_agreement_measured_while_training_is_in_the_card(hub, hub_client, whole_run, tmp_path):
    scores = {"cas_reference": f"{tmp_path}/sim_2", "cas": 0.41, "cas_position_free": 0.2, "cas_chance": 0.3125}
    with (whole_run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 12, **scores}) + "\n")
    repository = pushed(hub_client, hub, whole_run)
    _, body = card(hub, repository)
    assert "CAS with sim_2 was 0.410, position-free 0.200 (chance 0.312)" in body
    assert json.loads(hub.read(repository, "metrics.jsonl").splitlines()[-1])["cas_reference"] == "sim_2"


def test_a_card_that_its_owner_has_rewritten_stays(hub, hub_client, whole_run):
    repository = pushed(hub_client, hub, whole_run)
    header = "---\nsinglelife:\n  life: my_pan\n---\n"
    hub.put(repository, {"README.md": f"{header}# My own words\n".encode()})
    (whole_run / "reconstruction.png").unlink()
    pushed(hub_client, hub, whole_run)
    assert "My own words" in hub.read(repository, "README.md").decode()
    assert "reconstruction.png" not in files(repository)


# A network that breaks, or is not there.


@pytest.mark.parametrize(  # the client itself tries some of them six times
    ("trouble", "said"),
    [
        (Trouble("POST", "/preupload/", 503, times=7), "status 503"),
        (Trouble("POST", "/commit/", 429, retry_after=7), "Trying again in 7 s"),
        (Trouble("POST", "/api/repos/create", 502), "status 502"),
        (Break("POST", "/commit/", after=0, times=3), "the connection to the Hub broke"),
        (Break("PUT", "/lfs/", after=20_000, times=20), "the connection to the Hub broke"),
    ],
    ids=str,
)
def test_a_push_goes_on_where_it_failed(hub, hub_client, whole_run, trouble, said):
    (hub.troubles if isinstance(trouble, Trouble) else hub.breaks).append(trouble)
    answer = push(hub_client, whole_run)
    assert answer.error is None, answer.error[2]
    assert said in answer.said and "Trying again in" in answer.said
    repository = hub.repositories["model", "ann/pan"]
    assert files(repository) == model_of(whole_run) | ABOUT and len(repository.commits) == 2


def test_a_push_that_gave_up_is_finished_by_the_next(hub, hub_client, whole_run):
    hub.breaks.append(Break("PUT", "/lfs/", after=20_000, times=1000))  # the pictures and the weights are larger
    answer = push(hub_client, whole_run)
    assert answer.error[0] == "HubUnreachable" and "the same command" in answer.error[1]
    assert files(hub.repositories["model", "ann/pan"]) == set()  # nobody sees half a model
    hub.dead = True
    answer = push(hub_client, whole_run)
    assert answer.error[0] == "HubUnreachable" and answer.said.count("Trying again in") == 4
    hub.dead = False
    hub.breaks.clear()
    assert files(pushed(hub_client, hub, whole_run)) == model_of(whole_run) | ABOUT


# What cannot be pushed.


@pytest.mark.parametrize(
    ("repo", "token", "options", "message"),
    [
        ("ann/pan", None, {}, "HF_TOKEN"),
        ("ann/pan", "hf_wrong", {}, "does not accept your token"),
        ("ann/pan", READER, {}, "your token may not do that"),
        ("ann/pan", STRANGER, {}, "write access to ann"),
        ("nobody/pan", WRITER, {}, "no user or organisation nobody"),
        ("ann/p an", WRITER, {}, "ORG/NAME"),
        ("ann/pan/cake", WRITER, {}, "ORG/NAME"),
        ("ann/public", WRITER, {}, "is public, not private"),
        ("ann/private", WRITER, {"private": False}, "is private, not public"),
        ("ann/private", STRANGER, {}, "your token may not do that"),
        ("ann/taken", WRITER, {}, "ann/taken is taken"),
        ("ann/other", WRITER, {}, "the life wt_3, not of my_pan"),
    ],
)
def test_what_cannot_be_pushed(hub, hub_client, whole_run, repo, token, options, message):
    hub.create("ann/public", "model")
    hub.create("ann/private", "model", private=True)
    hub.put(hub.create("ann/taken", "model", private=True), {"pytorch_model.bin": b"weights"})
    theirs = b"---\nsinglelife:\n  life: wt_3\n---\n# A walk\n"
    hub.put(hub.create("ann/other", "model", private=True), {"README.md": theirs, "modeling_croco.py": b""})
    before = {name: repository.branches["main"] for name, repository in hub.repositories.items()}
    answer = push(hub_client, whole_run, repo, token, **options)
    assert answer.error is not None and answer.error[0] == "HubError", answer
    assert message in answer.error[1]
    assert token is None or token not in answer.error[1]
    assert {name: repository.branches["main"] for name, repository in hub.repositories.items()} == before


def test_what_is_no_run_is_refused(tmp_path, broken_off_run, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", WRITER)
    with pytest.raises(RunError, match=r"config\.yaml"):
        push_run(tmp_path, "ann/pan")
    shutil.rmtree(broken_off_run / "checkpoint-8")
    with pytest.raises(RunError, match="no checkpoint yet"):
        push_run(broken_off_run, "ann/pan")
    (broken_off_run / "config.yaml").write_text("life: my_pan\n")
    with pytest.raises(RunError, match="crop_area_max"):
        push_run(broken_off_run, "ann/pan")
