"""What is the same for whatever is pushed: one commit, nothing twice, no half of anything, no token anywhere."""

from fnmatch import fnmatch
from pathlib import Path

import pytest
import yaml

from ..hub_server import READER, STRANGER, USERS, WRITER, Fault
from .conftest import files, push, pushed

pytestmark = pytest.mark.integration


@pytest.fixture(params=["life", "model", "pairs"])
def thing(request, small_life, sim_test, tmp_path) -> Path:
    """What can be pushed."""
    if request.param == "life":
        return small_life.path
    if request.param == "model":
        return request.getfixturevalue("whole_run")
    from singlelife.alignment.pair_sets import make_pair_set

    make_pair_set(sim_test, num_pairs=6).save(tmp_path / "pairs")
    return tmp_path / "pairs"


def test_one_private_commit_nothing_sent_twice_and_no_token_anywhere(hub, hub_client, thing, tmp_path):
    hub.dead = True  # a dry run asks nobody
    answer = push(hub_client, thing, "lives/thing", "--dry-run", "--card", tmp_path / "card.md", token=None)
    assert answer.result == 0 and not hub.requests, answer
    listed = {line.split()[0] for line in answer.said.splitlines() if line.endswith(("bytes", "kB", "MB"))}
    hub.dead = False
    repository = pushed(hub, hub_client, thing, "lives/thing")
    assert repository.private and len(repository.commits) == 2  # the empty repository's, and one for all
    assert all(any(fnmatch(name, each) for each in listed) for name in files(repository) - {"README.md"}), listed
    card = hub.read(repository, "README.md").decode()
    assert (tmp_path / "card.md").read_text() == card
    assert yaml.safe_load(card.split("---\n")[1])["tags"][0] == "singlelife"
    commits = dict(repository.commits)
    hub.requests.clear()
    pushed(hub, hub_client, thing, "lives/thing")
    assert repository.commits == commits
    assert not [path for method, path, _ in hub.requests if method == "PUT"]
    written = [file.read_bytes() for place in (hub.folder, thing) for file in place.rglob("*") if file.is_file()]
    assert not [token for token in USERS if any(token.encode() in content for content in written)]


def test_names_and_licences(hub, hub_client, thing):
    answer = push(hub_client, thing, "lives/thing", "--public", "--license", "CC BY-NC 4.0")
    assert answer.result == 0 and "(public)" in answer.said and "lives/thing" in answer.said.splitlines()[-1]
    (repository,) = hub.repositories.values()
    assert not repository.private and "license: cc-by-nc-4.0" in hub.read(repository, "README.md").decode()
    assert push(hub_client, thing).result == push(hub_client, thing, "mine").result == 0
    names = {name for _, name in hub.repositories}
    assert names >= {"lives/thing", "ann/mine"} and len(names) == 3
    unstated = hub.read(next(r for (_, name), r in hub.repositories.items() if name == "ann/mine"), "README.md")
    assert b"Ask the owner before any use" in unstated or b"Freedoom" in unstated


@pytest.mark.parametrize(  # the client itself tries some of them six times
    ("trouble", "said"),
    [
        (Fault("POST", "/preupload/", status=503, times=7), "status 503"),
        (Fault("POST", "/commit/", status=429, retry_after=7), "Trying again in 7 s"),
        (Fault("POST", "/commit/", after=0, times=3), "the connection to the Hub broke"),
        (Fault("PUT", "/lfs/", after=20_000, times=20), "the connection to the Hub broke"),
    ],
    ids=str,
)
def test_a_push_goes_on_where_it_failed(hub, hub_client, whole_run, trouble, said):
    hub.faults.append(trouble)
    answer = push(hub_client, whole_run, "ann/pan")
    assert answer.result == 0 and said in answer.said and "Trying again in" in answer.said
    repository = hub.repositories["model", "ann/pan"]
    assert "model.safetensors" in files(repository) and len(repository.commits) == 2


def test_a_push_that_gave_up_is_finished_by_the_next(hub, hub_client, sim_test):
    hub.faults.append(Fault("PUT", "/lfs/", after=900_000, times=1000))  # the second file is the first as large
    answer = push(hub_client, sim_test.path, "ann/kitchen")
    assert answer.result == 2 and "run the same command again" in answer.said
    repository = hub.repositories["dataset", "ann/kitchen"]
    assert files(repository) == set()  # nobody sees half a life
    hub.dead = True
    answer = push(hub_client, sim_test.path, "ann/kitchen")
    assert answer.result == 2 and answer.said.count("Trying again in") == 4
    hub.dead = False
    hub.faults.clear()
    hub.requests.clear()
    assert len(files(pushed(hub, hub_client, sim_test.path, "ann/kitchen"))) == 5
    assert len([path for method, path, _ in hub.requests if method == "PUT"]) == 2


@pytest.mark.parametrize(
    ("repo", "token", "words", "message"),
    [
        ("ann/thing", None, [], "HF_TOKEN"),
        ("ann/thing", "hf_wrong", [], "does not accept your token"),
        ("ann/thing", READER, [], "your token does not allow it"),
        ("nobody/thing", WRITER, [], "no user or organisation nobody"),
        ("ann/../thing", WRITER, [], "ORG/NAME"),
        ("ann/public", WRITER, [], "is public, not private"),
        ("ann/private", STRANGER, [], "your token does not allow it"),
        ("ann/taken", WRITER, [], "ann/taken is taken"),
        ("ann/other", WRITER, [], "holds a model of the life wt_3"),
        ("ann/odd", WRITER, [], "holds something else"),
        ("ann/bathroom", WRITER, [], "holds the life bathroom"),
    ],
)
def test_what_cannot_be_pushed(hub, hub_client, whole_run, small_life, repo, token, words, message):
    what, kind = (small_life.path, "dataset") if repo == "ann/bathroom" else (whole_run, "model")
    for name, private, content in [
        ("ann/public", False, {}),
        ("ann/private", True, {}),
        ("ann/taken", True, {"pytorch_model.bin": b"weights"}),
        ("ann/other", True, {"config.yaml": b"life: wt_3\n"}),
        ("ann/odd", True, {"config.yaml": b"[]"}),
        ("ann/bathroom", True, {"metadata.json": b'{"name": "bathroom"}'}),
    ]:
        hub.put(hub.create(name, kind, private=private), content)
    before = {name: repository.branches["main"] for name, repository in hub.repositories.items()}
    answer = push(hub_client, what, repo, *words, token=token)
    assert answer.result == 2 and message in answer.said, answer
    assert token is None or token not in answer.said
    assert {name: repository.branches["main"] for name, repository in hub.repositories.items()} == before
