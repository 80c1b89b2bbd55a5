"""The models of an organisation on the Hub, and a collection of them."""

import json

import pytest

from ..hub_server import READER, STRANGER, WRITER, Trouble

COMMAND = """
from singlelife.cli import main
result = main(words)
"""


def publish(hub, name: str, tags: str = "[singlelife]", private: bool = False, **said: object) -> None:
    card = f"---\ntags: {tags}\nsinglelife: {json.dumps(said)}\n---\n# A model\n"
    hub.put(hub.create(name, "model", private=private), {"README.md": card.encode()})


@pytest.fixture
def models(hub):
    publish(hub, "lives/singlelife-wt3", life="wt_3", hours=1.6, steps=100_000, finished=True, cas=0.254)
    publish(hub, "lives/singlelife-ald1", private=True, life="ald_1", hours=34, steps=2000, finished=False)
    publish(hub, "lives/by-hand", life=["no", "name"], hours="long", steps=True, cas="high", finished="yes")
    publish(hub, "lives/another", tags="[croco]", life="wt_4")
    publish(hub, "ann/singlelife-wt4", life="wt_4", hours=1.6, steps=1, finished=True)
    hub.create("lives/empty", "model")
    return hub


def listing(client, *words: str, token: str | None = WRITER):
    answer = client.ask(COMMAND, token, words=["hub", "list", "--org", *words])
    assert answer.error is None, answer.error[2]
    return answer


def test_the_models_of_an_organisation(models, hub_client):
    rows = [line.split() for line in listing(hub_client, "lives").said.splitlines()]
    assert rows == [
        ["model", "life", "hours", "steps", "CAS", "updated", "seen", "by"],
        ["lives/singlelife-ald1", "ald_1", "34.00", "2,000", "so", "far", "2026-01-01", "its", "owner"],
        ["lives/singlelife-wt3", "wt_3", "1.60", "100,000", "0.254", "2026-01-01", "everybody"],
        ["lives/by-hand", "?", "2026-01-01", "everybody"],
    ]
    assert "ald_1" not in listing(hub_client, "lives", token=STRANGER).said
    fields = json.loads(listing(hub_client, "lives", "--json", token=None).said)
    assert [model["life"] for model in fields] == ["wt_3", None] and fields[0]["cas"] == 0.254
    assert fields[1] == {
        "repo_id": "lives/by-hand", "life": None, "hours": None, "steps": None, "finished": None, "cas": None,
        "updated": "2026-01-01", "private": False,
    }  # fmt: skip
    assert "nobody has no model of a life" in listing(hub_client, "nobody").said


def test_a_collection_is_made_once_and_filled(models, hub_client):
    answer = listing(hub_client, "lives", "--collection", "Our lives")
    assert answer.result == 0 and "3 of 3 models added to the collection Our lives: http" in answer.said
    (collection,) = models.collections.values()
    assert collection.private and collection.owner == "lives"
    assert [item["id"] for item in collection.items] == [
        "lives/singlelife-ald1", "lives/singlelife-wt3", "lives/by-hand"
    ]  # fmt: skip
    assert collection.items[1]["note"] == {"text": "The life wt_3"}
    for number in range(3):  # a list of collections shows four items of each
        publish(models, f"lives/more-{number}", life=f"more_{number}")
    for added in (3, 0):
        answer = listing(hub_client, "lives", "--collection", "Our lives")
        assert f"{added} of 6 models added" in answer.said
        assert len(models.collections) == 1 and len(collection.items) == 6
    listing(hub_client, "lives", "--collection", "For all", "--public")
    assert [each.private for each in models.collections.values()] == [True, False]


def test_what_the_hub_refuses_is_told(models, hub_client):
    answer = listing(hub_client, "lives", "--collection", "Our lives", token=READER)
    assert answer.result == 2 and "your token may not do that" in answer.said and not models.collections
    answer = listing(hub_client, "lives", token="hf_wrong")
    assert answer.result == 2 and "does not accept your token" in answer.said
    models.troubles.append(Trouble("GET", "/api/models", 503, times=100))
    answer = listing(hub_client, "lives")
    assert answer.result == 2 and "the Hub has trouble (status 503)" in answer.said
