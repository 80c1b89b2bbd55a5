"""The loopback Hub does as the real one where tests rely on it: a model's repository, from its making to its bytes."""

import pytest

from ..hub_server import READER, STRANGER

PUBLISH = """
from huggingface_hub import HfApi
api = HfApi()
api.create_repo("lives/croco", private=True)
api.create_repo("lives/croco", exist_ok=True)
api.upload_file(path_or_fileobj=b"{}", path_in_repo="config.json", repo_id="lives/croco")
api.upload_file(path_or_fileobj=weights.encode(), path_in_repo="model.safetensors", repo_id="lives/croco")
result = [api.whoami()["name"], api.model_info("lives/croco").private, sorted(api.list_repo_files("lives/croco"))]
"""
READ = """
import pathlib
from huggingface_hub import hf_hub_download
result = pathlib.Path(hf_hub_download("lives/croco", "model.safetensors", local_dir=folder)).read_text()
"""


def test_a_model_is_published_and_read(hub, hub_client, tmp_path):
    weights = "weights " * 1000
    files = [".gitattributes", "config.json", "model.safetensors"]
    assert hub_client(PUBLISH, weights=weights) == ["ann", True, files]
    assert hub.read(hub.repositories["model", "lives/croco"], "model.safetensors").decode() == weights
    assert hub_client(READ, READER, folder=tmp_path) == weights


@pytest.mark.parametrize(
    ("token", "code", "error"),
    [
        (STRANGER, READ, "RepositoryNotFoundError"),
        (None, READ, "RepositoryNotFoundError"),
        ("hf_wrong", READ, "HfHubHTTPError"),
        (READER, PUBLISH, "HfHubHTTPError"),
        (STRANGER, PUBLISH, "HfHubHTTPError"),
    ],
)
def test_who_may_not_is_refused(hub, hub_client, tmp_path, token, code, error):
    hub.create("lives/croco", "model", private=True)
    answer = hub_client.ask(code, token, folder=tmp_path, weights="")
    assert answer.error[0] == error


def test_a_gated_repository_is_seen_and_not_read(hub, hub_client, tmp_path):
    repository = hub.create("lives/croco", "model", gated=True)
    hub.put(repository, {"model.safetensors": b"weights"})
    info = "from huggingface_hub import HfApi\nresult = HfApi().model_info('lives/croco').gated"
    assert hub_client(info, STRANGER) == "auto"
    assert hub_client.ask(READ, STRANGER, folder=tmp_path).error[0] == "GatedRepoError"
    assert hub_client(READ, READER, folder=tmp_path) == "weights"


def test_a_download_goes_on_where_the_connection_broke(hub, hub_client, tmp_path):
    from ..hub_server import Break

    repository = hub.create("lives/croco", "model")
    weights = "weights " * 100_000
    hub.put(repository, {"model.safetensors": weights.encode()})
    hub.breaks.append(Break("GET", "model.safetensors", after=300_000))
    assert hub_client(READ, None, folder=tmp_path) == weights
