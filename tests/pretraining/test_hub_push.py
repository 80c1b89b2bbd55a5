"""Publishing a run: what is pushed opens anywhere, and what goes wrong is told and loses nothing."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from singlelife.errors import RunError
from singlelife.pretraining.hub.push import push_run
from singlelife.pretraining.hub.run import public_settings
from singlelife.pretraining.run_folder import RunFolder

from ..croco.test_auto_croco import WITHOUT_THE_PACKAGE
from ..hub_server import READER, STRANGER, WRITER, Break, Trouble

PUSH = """
from dataclasses import asdict
from singlelife.pretraining.hub.push import push_run
done = push_run(run, repo, **options)
result = {"url": done.url, "unchanged": done.unchanged, "notes": done.notes,
          "changes": [[each.branch, each.what, each.name] for each in done.changes]}
"""
COMMAND = """
from singlelife.cli import main
result = main(words)
"""
MODEL = {
    "config.json", "configuration_croco.py", "image_processing_croco.py", "layers_croco.py", "model.safetensors",
    "modeling_croco.py", "positions_croco.py", "preprocessor_config.json",
}  # fmt: skip
ABOUT = {"README.md", "config.yaml", "cross_attention.png", "life.json", "metrics.jsonl", "reconstruction.png"}


def push(client, run, repo="ann/pan", token=WRITER, **options):
    return client.ask(PUSH, token, run=run, repo=repo, options=options)


def pushed(client, hub, run, repo="ann/pan", **options):
    answer = push(client, run, repo, **options)
    assert answer.error is None, answer.error[2]
    return hub.repositories["model", repo], answer.result


def files(repository, branch="main"):
    return set(repository.commits[repository.branches[branch]]) - {".gitattributes"}


def card(hub, repository) -> tuple[dict, str]:
    _, header, body = hub.read(repository, "README.md").decode().split("---\n", 2)
    return yaml.safe_load(header), body


# There and back.


def test_a_model_comes_back_with_its_package(hub, hub_client, whole_run):
    repository, result = pushed(hub_client, hub, whole_run, "lives/pan")
    assert result["url"] == f"{hub.url}/lives/pan"
    assert repository.private
    assert files(repository) == MODEL | ABOUT
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
    expect = """
import torch
from safetensors.torch import save_file
from transformers import AutoModel
import singlelife
target, source = torch.rand(2, 1, 3, 32, 32)
with torch.no_grad():
    decoded = AutoModel.from_pretrained(run).eval()(target, source).decoder_last_hidden_state
save_file({"target": target.clone(), "source": source.clone(), "decoded": decoded}, f"{folder}/expected.safetensors")
"""
    hub_client(expect, run=whole_run, folder=tmp_path)
    code = (
        WITHOUT_THE_PACKAGE.replace('load_file(f"{folder}/', f'load_file(f"{tmp_path}/')
        .replace("from_pretrained(folder,", "from_pretrained('ann/pan',")
        .replace('f"{folder}/again"', f'"{tmp_path}/again"')
    )
    environment = hub_environment | {"HF_TOKEN": WRITER, "HF_MODULES_CACHE": str(tmp_path / "modules")}
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], env=environment, capture_output=True, text=True, cwd=tmp_path
    )
    assert done.stdout.strip() == "loaded", done.stderr


def test_nothing_of_this_machine_goes_along(hub, hub_client, whole_run, clip, cache):
    """Neither its folders nor the optimiser's moments."""
    settings = yaml.safe_load((whole_run / "config.yaml").read_text())
    assert settings["video"] == [str(clip)] and settings["cache_dir"] == str(cache)
    repository, _ = pushed(hub_client, hub, whole_run, training_state=True)
    theirs = yaml.safe_load(hub.read(repository, "config.yaml"))
    assert theirs.keys() == settings.keys() - {"video", "cache_dir", "output_dir"}
    assert theirs["model"] == "micro.yaml" and theirs["life"] == "my_pan"
    folders = {str(folder).encode() for file in (whole_run, clip, cache) for folder in (file, file.parent)}
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
def test_of_a_path_only_the_last_part_is_seen(value, seen):
    assert public_settings({"model": value, "output_dir": "/a"}) == {"model": seen}


def test_pushing_again_sends_nothing_and_a_change_only_itself(hub, hub_client, whole_run):
    repository, _ = pushed(hub_client, hub, whole_run, training_state=True)
    commits = dict(repository.commits)
    hub.requests.clear()
    _, result = pushed(hub_client, hub, whole_run, training_state=True)
    assert result["changes"] == [] and result["unchanged"] > 20
    assert repository.commits == commits
    assert not [path for method, path, _ in hub.requests if method == "PUT" or "/commit/" in path]
    shutil.copyfile(whole_run / "reconstruction.png", whole_run / "cross_attention.png")
    (whole_run / "reconstruction.png").unlink()
    _, result = pushed(hub_client, hub, whole_run)
    changed = [["main", "changed", "cross_attention.png"], ["main", "changed", "README.md"]]
    assert result["changes"] == [*changed, ["main", "gone", "reconstruction.png"]]
    assert files(repository) == (MODEL | ABOUT) - {"reconstruction.png"}


def test_of_an_unfinished_run_the_latest_checkpoint_is_pushed(hub, hub_client, broken_off_run):
    repository, _ = pushed(hub_client, hub, broken_off_run, training_state=True)
    weights = (broken_off_run / "checkpoint-8" / "model.safetensors").read_bytes()
    assert hub.read(repository, "model.safetensors") == weights
    header, body = card(hub, repository)
    assert header["singlelife"]["steps"] == 8 and header["singlelife"]["finished"] is False
    assert "**Its training is not finished:** 8 of 12 steps" in body
    steps = [json.loads(line)["step"] for line in hub.read(repository, "metrics.jsonl").splitlines()]
    assert max(steps) == 8  # what was measured later is not of this model
    kept = {f"checkpoint-8/{file.name}" for file in (broken_off_run / "checkpoint-8").iterdir()}
    assert files(repository, "training-state") == kept | {"config.yaml", "metrics.jsonl"}


def test_a_dry_run_lists_and_changes_nothing(hub, hub_client, whole_run):
    before = {file: file.read_bytes() for file in whole_run.rglob("*") if file.is_file()}
    answer = hub_client.ask(COMMAND, None, words=["push", str(whole_run), "--dry-run", "--training-state"])
    assert answer.result == 0 and "YOUR-NAME/singlelife-my-pan" in answer.said and "Nothing was sent" in answer.said
    for name in (MODEL | ABOUT) | {"checkpoint-12/training_state.safetensors"}:
        assert name in answer.said
    assert not hub.repositories
    pushed(hub_client, hub, whole_run)
    (whole_run / "reconstruction.png").unlink()
    hub.requests.clear()
    answer = hub_client.ask(COMMAND, words=["push", str(whole_run), "ann/pan", "--dry-run"])
    assert "gone" in answer.said and "12 are there already" in answer.said and "model.safetensors" not in answer.said
    assert {method for method, _, _ in hub.requests} <= {"GET", "HEAD"}
    assert {file: data for file, data in before.items() if file.name != "reconstruction.png"} == {
        file: file.read_bytes() for file in whole_run.rglob("*") if file.is_file()
    }


def test_the_command_says_where_the_model_is(hub, hub_client, whole_run):
    answer = hub_client.ask(COMMAND, words=["push", str(whole_run), "--org", "lives", "--public"])
    assert answer.result == 0
    assert f"{hub.url}/lives/singlelife-my-pan (public)" in answer.said
    assert 'import singlelife; AutoModel.from_pretrained("lives/singlelife-my-pan")' in answer.said
    assert not hub.repositories["model", "lives/singlelife-my-pan"].private
    answer = hub_client.ask(COMMAND, words=["push", str(whole_run), "pan"])
    assert answer.result == 0 and ("model", "ann/pan") in hub.repositories
    answer = hub_client.ask(COMMAND, words=["push", str(whole_run), "pan"])
    assert answer.result == 0 and "Nothing new; 14 are there already" in answer.said
    answer = hub_client.ask(COMMAND, None, words=["push", str(whole_run)])
    assert answer.result == 2 and "log in with `hf auth login` or set HF_TOKEN" in answer.said


# The card.

SCORE = {"cas": 0.3, "low": 0.28, "high": 0.32, "chance": 0.078, "adjusted": 0.24}


def results(path: Path, *models: str, **changes: object) -> Path:
    said = {
        "models": models, "pairs": "sim_test", "pairs_hash": "f" * 64, "num_pairs": 384, "k": 5, "grid": [8, 8],
        "raw": SCORE | {"cas": 0.45, "adjusted": 0.4}, "position_free": SCORE,
    }  # fmt: skip
    path.write_text(json.dumps({name: value for name, value in (said | changes).items() if value is not ...}))
    return path


def test_the_card_says_what_a_visitor_must_know(hub, hub_client, whole_run):
    repository, _ = pushed(hub_client, hub, whole_run)
    header, body = card(hub, repository)
    assert header["library_name"] == "transformers" and header["pipeline_tag"] == "image-feature-extraction"
    assert {"singlelife", "croco", "egocentric"} <= set(header["tags"])
    assert (header["license"], header["license_name"]) == ("other", "not-stated")
    assert header["singlelife"] == {"life": "my_pan", "hours": 0.0056, "steps": 12, "finished": True}
    assert body.startswith("\n<!-- Written by singlelife") and "\n## Results\n" in body
    (loss,) = header["model-index"][0]["results"][0]["metrics"]
    last = [json.loads(line) for line in (whole_run / "metrics.jsonl").read_text().splitlines() if "val_loss" in line]
    assert loss["value"] == pytest.approx(last[-1]["val_loss"], abs=1e-4)
    for said in (
        'AutoModel.from_pretrained("ann/pan")', "trust_remote_code=True", "20 s", "200 at 10 Hz", "fingerprint",
        "0.1 to 0.4 s apart", "12 of 12, 8 pairs each", "AdamW, learning rate 0.002", "fp32", "No licence is stated",
        "answers for the consent of those who are seen", "(reconstruction.png)", "(cross_attention.png)", "2512.04085",
        "may hold traces of what was seen", "training ", "validation ",
    ):  # fmt: skip
        assert said in body, said
    pushed(hub_client, hub, whole_run, license="CC BY 4.0")
    assert card(hub, repository)[0]["license"] == "cc-by-4.0"


def test_the_card_of_a_registered_life_says_what_the_registry_says(hub, hub_client, whole_run):
    facts = json.loads((whole_run / "life.json").read_text())
    facts |= {"name": "hdepic_2", "license": "CC BY-NC 4.0", "dataset": "HD-EPIC", "hours": 4.4}
    (whole_run / "life.json").write_text(json.dumps(facts))
    answer = hub_client.ask(COMMAND, words=["push", str(whole_run)])
    assert answer.result == 0 and "ann/singlelife-hdepic2" in answer.said
    header, body = card(hub, hub.repositories["model", "ann/singlelife-hdepic2"])
    assert header["license"] == "cc-by-nc-4.0" and header["singlelife"]["life"] == "hdepic_2"
    for said in ("kitchen of participant P02", "https://hd-epic.github.io", "4 h 24 min", "filmed themselves"):
        assert said in body, said


def test_scores_stand_in_the_card_of_every_push_after(hub, hub_client, whole_run, tmp_path):
    file = results(tmp_path / "cas.json", "runs/sim_1", str(whole_run))
    repository, _ = pushed(hub_client, hub, whole_run, results=[str(file)])
    file.unlink()
    for _ in range(2):
        header, body = card(hub, repository)
        assert header["singlelife"]["cas"] == 0.24 and header["singlelife"]["cas_with"] == ["sim_1"]
        metrics = {m["type"]: m for result in header["model-index"][0]["results"] for m in result["metrics"]}
        assert metrics["cas"]["value"] == 0.45 and metrics["cas_position_free"]["value"] == 0.3
        assert "CAS with sim_1 (top 5 of 64, chance 0.078)" in metrics["cas"]["name"]
        assert "| sim_1 | 384 of sim_test | 0.450 (0.280 to 0.320) | 0.300 (0.280 to 0.320) |" in body
        pushed(hub_client, hub, whole_run)
    assert str(tmp_path) not in hub.read(repository, "README.md").decode()
    RunFolder(whole_run).remove_run()
    assert not list(whole_run.rglob("*.json"))  # the scores are not those of the run that comes after


def transfer(path: Path, of: str, **changes: object) -> Path:
    """What `singlelife evaluate all` writes of a model: a depth task and one of correspondence."""

    def measure(title: str, mean: float, seeds: int = 1) -> dict:
        each = {"mean": mean, "std": 0.0125, "low": mean - 0.05, "high": mean + 0.05}
        return each | {"per_seed": [mean] * seeds, "title": title, "higher_is_better": title != "AEPE px"}

    data = {"name": f"{path.parent}/nyu (test)", "hash": "d" * 64, "num_items": 654}
    depth = {
        "task": "depth", "protocol": {"name": "nyu", "version": 1}, "data": data, "first_metrics": ["delta1"],
        "metrics": {"delta1": measure("δ1", 0.512, seeds=3), "rmse": measure("RMSE m", 1.5, seeds=3)},
    }  # fmt: skip
    matches = {
        "task": "correspondence", "protocol": {"name": "zero-shot-correspondence", "version": 1},
        "data": {"name": "sim_test/plain", "hash": "e" * 64, "num_items": 384}, "first_metrics": ["aepe_original"],
        "metrics": {"aepe_original": measure("AEPE px", 18.25)},
    }  # fmt: skip
    said = {"kind": "singlelife-evaluation", "format_version": 1, "model": of, "revision": "f" * 64,
            "tasks": {"depth": depth, "matches": matches}}  # fmt: skip
    path.write_text(json.dumps({name: value for name, value in (said | changes).items() if value is not ...}))
    return path


def test_what_it_does_in_other_tasks_stands_in_the_card_beside_its_scores(hub, hub_client, whole_run, tmp_path):
    given = [transfer(tmp_path / "pan.json", str(whole_run)), results(tmp_path / "cas.json", "runs/sim_1", "my_pan")]
    repository, _ = pushed(hub_client, hub, whole_run, results=[str(file) for file in given])
    header, body = card(hub, repository)
    found = {each["task"]["type"]: each for each in header["model-index"][0]["results"] if each["dataset"].get(
        "revision") in ("d" * 64, "e" * 64)}  # fmt: skip
    (depth,) = found["depth-estimation"]["metrics"]
    assert (depth["type"], depth["value"], depth["name"]) == ("delta1", 0.512, "δ1 (depth, protocol nyu 1)")
    assert depth["args"] == {"std": 0.0125, "low": 0.462, "high": 0.562}
    assert found["depth-estimation"]["dataset"]["name"] == "654 of nyu (test)"
    (matches,) = found["image-feature-extraction"]["metrics"]
    assert matches["type"] == "aepe_original" and matches["value"] == 18.25 and "std" not in matches["args"]
    assert "| depth | δ1 0.512 ± 0.013 on 654 of nyu (test) (protocol nyu 1) |" in body
    assert "| matches | AEPE px 18.250 on 384 of sim_test/plain" in body and "| sim_1 | 384 of sim_test |" in body
    assert "validation " in body and header["singlelife"]["cas"] == 0.24
    assert str(tmp_path) not in hub.read(repository, "README.md").decode()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "runs/sim_1"}, "is about runs/sim_1, which is neither"),
        ({"tasks": ...}, "is not what `singlelife evaluate all` writes"),
        ({"tasks": {"depth": {"task": "cooking"}}}, "there is no task cooking"),
        ({"tasks": {"depth": []}}, "is not what `singlelife evaluate all` writes"),
    ],
)
def test_what_another_model_does_is_refused(hub, hub_client, whole_run, tmp_path, changes, message):
    file = transfer(tmp_path / "pan.json", str(whole_run), **changes)
    answer = push(hub_client, whole_run, results=[str(file)])
    assert answer.error[0] == "RunError" and message in answer.error[1]
    assert not hub.repositories


def test_how_far_it_came_to_agree_as_it_learnt_stands_in_the_card(hub, hub_client, whole_run, tmp_path):
    scores = {"cas_reference": f"{tmp_path}/sim_2", "cas": 0.41, "cas_position_free": 0.2, "cas_chance": 0.3125}
    with (whole_run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 12, **scores}) + "\n")
    repository, _ = pushed(hub_client, hub, whole_run)
    header, body = card(hub, repository)
    assert "its CAS with sim_2 came to 0.410, position-free 0.200 (chance 0.312)" in body
    values = [m["value"] for result in header["model-index"][0]["results"] for m in result["metrics"]]
    assert {0.41, 0.2} <= set(values)
    assert json.loads(hub.read(repository, "metrics.jsonl").splitlines()[-1])["cas_reference"] == "sim_2"


@pytest.mark.parametrize(
    ("models", "changes", "message"),
    [
        (("runs/sim_1", "runs/sim_2"), {}, "compares runs/sim_1 and runs/sim_2, none of which is"),
        (("runs/sim_1", "my_pan"), {"grid": ...}, "is not what `singlelife cas A B --json FILE` writes"),
        (("runs/sim_1", "my_pan"), {"raw": {"cas": "high"}}, "is not what `singlelife cas A B --json FILE` writes"),
        (("my_pan",), {}, "compares my_pan, none of which"),
    ],
)
def test_scores_of_something_else_are_refused(hub, hub_client, whole_run, tmp_path, models, changes, message):
    answer = push(hub_client, whole_run, results=[str(results(tmp_path / "cas.json", *models, **changes))])
    assert answer.error[0] == "RunError" and message in answer.error[1]
    assert not hub.repositories and not (whole_run / "results").exists()
    answer = push(hub_client, whole_run, results=[str(tmp_path / "absent.json")])
    assert answer.error[0] == "RunError" and "absent.json cannot be read" in answer.error[1]


def test_a_card_that_its_owner_has_rewritten_stays(hub, hub_client, whole_run):
    repository, _ = pushed(hub_client, hub, whole_run)
    header = "---\nsinglelife:\n  life: my_pan\n---\n"
    hub.put(repository, {"README.md": f"{header}# My own words\n".encode()})
    (whole_run / "reconstruction.png").unlink()
    _, result = pushed(hub_client, hub, whole_run)
    assert "My own words" in hub.read(repository, "README.md").decode()
    assert "stays as it is" in result["notes"][0]
    assert result["changes"] == [["main", "gone", "reconstruction.png"]]


# A network that breaks, or is not there.


@pytest.mark.parametrize(  # the client itself tries some of them six times
    ("trouble", "said"),
    [
        (Trouble("POST", "/preupload/", 503, times=7), "the Hub has trouble (status 503)"),
        (Trouble("POST", "/commit/", 429, retry_after=7), "asked too much (status 429).*Trying again in 7 s"),
        (Trouble("POST", "/commit/", 500, times=2), "the Hub has trouble (status 500)"),
        (Trouble("POST", "/api/repos/create", 502), "the Hub has trouble (status 502)"),
        (Break("POST", "/commit/", after=0, times=3), "the connection to the Hub broke"),
        (Break("PUT", "/lfs/", after=20_000, times=20), "the connection to the Hub broke"),
    ],
    ids=str,
)
def test_a_push_goes_on_where_it_failed(hub, hub_client, whole_run, trouble, said):
    (hub.troubles if isinstance(trouble, Trouble) else hub.breaks).append(trouble)
    answer = push(hub_client, whole_run)
    assert answer.error is None, answer.error[2]
    for part in said.split(".*"):
        assert part in answer.said
    assert "Trying again in" in answer.said
    repository = hub.repositories["model", "ann/pan"]
    assert files(repository) == MODEL | ABOUT and len(repository.commits) == 2


def test_a_push_that_gave_up_is_finished_by_the_next(hub, hub_client, whole_run):
    hub.breaks.append(Break("PUT", "/lfs/", after=20_000, times=1000))  # the pictures are larger, the weights are too
    answer = push(hub_client, whole_run)
    assert answer.error[0] == "HubUnreachable" and "What was sent is kept; the same command goes on" in answer.error[1]
    assert files(hub.repositories["model", "ann/pan"]) == set()  # nobody sees half a model
    hub.dead = True
    answer = push(hub_client, whole_run)
    assert answer.error[0] == "HubUnreachable" and answer.said.count("Trying again in") == 4
    hub.dead = False
    hub.breaks.clear()
    repository, _ = pushed(hub_client, hub, whole_run)
    assert files(repository) == MODEL | ABOUT


# What cannot be pushed.


@pytest.mark.parametrize(
    ("repo", "token", "options", "message"),
    [
        ("ann/pan", None, {}, "log in with `hf auth login` or set HF_TOKEN"),
        ("ann/pan", "hf_wrong", {}, "does not accept your token"),
        ("ann/pan", READER, {}, "your token may not do that"),
        ("ann/pan", STRANGER, {}, "Take one with write access to ann"),
        ("nobody/pan", WRITER, {}, "There is no user or organisation nobody on the Hub"),
        ("ann/p an", WRITER, {}, "should look like ORG/NAME"),
        ("ann/pan/cake", WRITER, {}, "should look like ORG/NAME"),
        ("ann/pan", WRITER, {"org": "lives"}, "is not of the organisation lives"),
        ("ann/public", WRITER, {}, "is there already and is public, not private as asked"),
        ("ann/private", WRITER, {"private": False}, "is there already and is private, not public as asked"),
        ("ann/private", STRANGER, {}, "your token may not do that"),
        ("ann/taken", WRITER, {}, "is taken: it holds files that are no such model"),
        ("ann/other", WRITER, {}, "holds a model of the life wt_3, not of my_pan"),
    ],
)
def test_what_cannot_be_pushed(hub, hub_client, whole_run, repo, token, options, message):
    hub.create("ann/public", "model")
    hub.create("ann/private", "model", private=True)
    hub.put(hub.create("ann/taken", "model", private=True), {"pytorch_model.bin": b"weights"})
    card = b"---\nsinglelife:\n  life: wt_3\n---\n# A walk\n"
    hub.put(hub.create("ann/other", "model", private=True), {"README.md": card, "modeling_croco.py": b""})
    before = {name: repository.branches["main"] for name, repository in hub.repositories.items()}
    answer = push(hub_client, whole_run, repo, token, **options)
    assert answer.error is not None and answer.error[0] == "HubError", answer
    assert message in answer.error[1]
    assert token is None or token not in answer.error[1]
    assert {name: repository.branches["main"] for name, repository in hub.repositories.items()} == before


def test_what_is_no_run_is_refused(tmp_path, broken_off_run):
    with pytest.raises(RunError, match=r"is no run folder: it has no config\.yaml"):
        push_run(tmp_path, "ann/pan")
    shutil.rmtree(broken_off_run / "checkpoint-8")
    with pytest.raises(RunError, match="has no checkpoint yet: there is nothing to push"):
        push_run(broken_off_run, "ann/pan")
    (broken_off_run / "config.yaml").write_text("life: my_pan\n")
    with pytest.raises(RunError, match=r"is not what a run writes: it does not say .*crop_area_max"):
        push_run(broken_off_run, "ann/pan")
    (broken_off_run / "config.yaml").write_text("- a\n")
    with pytest.raises(Exception, match="should hold a mapping"):
        push_run(broken_off_run, "ann/pan")
