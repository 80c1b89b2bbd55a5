"""Pushing a run to the Hub, as a repository that `AutoModel.from_pretrained` opens.

The branch `main` has the model, its image processor and its code, the run's settings, metrics and pictures, and a
model card; whatever is new of them appears in one commit. The branch `training-state`, if asked for, is a run folder
with one checkpoint: what it takes to go on with the run elsewhere. Nobody who only uses the model downloads it.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, ModelCard, get_token
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError
from huggingface_hub.hf_api import ModelInfo
from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
from huggingface_hub.utils import logging as hub_logging
from huggingface_hub.utils.sha import git_hash

from singlelife.errors import HubError
from singlelife.hub.errors import is_repo_id, translate_hub_errors
from singlelife.hub.repositories import check_token, hub_api, open_repository, retry
from singlelife.pretraining.hub.card import WRITTEN, model_card
from singlelife.pretraining.hub.results import own_results, read_results
from singlelife.pretraining.hub.run import Run, read_run
from singlelife.pretraining.run_folder import MODEL_FILES, RESULTS, write_text

STATE_BRANCH = "training-state"
_CARD = "README.md"
_KEPT = "What was sent is kept; the same command goes on from there."
_TRIES = 5


@dataclass(frozen=True)
class Change:
    """A file that a push changes: what becomes of it (`"new"`, `"changed"` or `"gone"`), and its size in bytes."""

    branch: str
    name: str
    what: str
    size: int
    operation: CommitOperationAdd | CommitOperationDelete


@dataclass(frozen=True)
class Pushed:
    """What a push did, or would do.

    Attributes:
        repo_id, url: of the repository.
        changes: what was not there already.
        unchanged: how many files were.
        notes: for the user.
    """

    repo_id: str
    url: str
    changes: list[Change]
    unchanged: int
    notes: list[str]


def push_run(
    path: str | Path,
    repo_id: str | None = None,
    *,
    org: str | None = None,
    private: bool = True,
    token: str | None = None,
    license: str | None = None,
    results: Sequence[str | Path] = (),
    training_state: bool = False,
    dry_run: bool = False,
    progress: bool = True,
    tries: int | None = _TRIES,
    snapshot: Path | None = None,
) -> Pushed:
    """Push a run, finished or not: then its latest checkpoint.

    What is there already is not sent again, so that a push that was interrupted goes on when it is called again.

    Args:
        path: the run folder.
        repo_id: ORG/NAME of a model, or a name in the user's own namespace; made if it is not there. By default the
            name that goes with the life, such as `singlelife-wt3`.
        org: the organisation, where `repo_id` does not say it; the user by default.
        private: only its owner sees it.
        token: with write access; the one of `hf auth login` or of HF_TOKEN by default.
        license: of the weights; that of the frames by default.
        results: files of `singlelife cas --json` and `singlelife evaluate all` for the card; they are kept in the run
            folder's `results`, whose files every push has in its card.
        training_state: push also what it takes to go on with the run (`--resume hub`).
        dry_run: change nothing, here or there.
        progress: show progress bars, and say why it waits.
        tries: at most so many while the Hub cannot be reached; None for no end.
        snapshot: what the run folder held at a moment, to be pushed in place of what it holds now.

    Raises:
        RunError: the folder is no run, or has no model yet; results are of other models.
        HubError: the name is wrong or taken by something else, there is no token or it may not write there, the
            repository is public and should be private (or the other way round), or the connection breaks.
    """
    run, home = read_run(snapshot or Path(path)), Path(path)
    if not dry_run:
        check_token(token)
    api = hub_api(token)

    def push() -> Pushed:
        name = repository_of(api, run.life.repository_name, repo_id, org, dry_run)
        with translate_hub_errors(name, f"Pushing to {name}", "" if snapshot else _KEPT, "model"), _bars(progress):
            return _push(api, run, home, name, private, license, results, training_state, dry_run)

    return retry(push, tries, print if progress else lambda _: None)


def _push(
    api: HfApi,
    run: Run,
    home: Path,
    repo_id: str,
    private: bool,
    license: str | None,
    results: Sequence[str | Path],
    training_state: bool,
    dry_run: bool,
) -> Pushed:
    notes = []
    scores = {each.name: Path(each) for each in [*own_results(home), *map(Path, results)]}
    found = [read_results(file, home, repo_id) for file in scores.values()]
    there = _there(api, repo_id) if dry_run else _opened(api, repo_id, private)
    card = None
    if there is not None:
        card = _card_there(api, there)
        _check_is_of(card, there, run.life.name)
    files: dict[str, Path | bytes] = run.files()
    if card is None or WRITTEN in card:
        files[_CARD] = model_card(run, repo_id, license, found).encode()
    else:
        notes.append(f"The card of {repo_id} is no longer that of a push, and stays as it is.")
    ours = (*MODEL_FILES, "*.png")
    changes, unchanged = _changes(there, files, "main", lambda name: any(Path(name).match(each) for each in ours))
    if training_state:
        state = run.state_files()
        at_branch = None if there is None else _there(api, repo_id, STATE_BRANCH)
        more, same = _changes(at_branch, state, STATE_BRANCH, lambda name: name.startswith("checkpoint-"))
        changes, unchanged = changes + more, unchanged + same
    if not dry_run:
        for file in map(Path, results):
            _keep(file, home)
        _commit(api, run, repo_id, changes)
    return Pushed(repo_id, f"{api.endpoint}/{repo_id}", changes, unchanged, notes)


def repository_of(api: HfApi, default: str, repo_id: str | None, org: str | None, dry_run: bool = False) -> str:
    """The whole name of the repository that a user means.

    Raises:
        HubError: it cannot be one; or the Hub does not say whose token it is.
    """
    name = repo_id or default
    if "/" not in name:
        name = f"{org or _user(api, dry_run)}/{name}"
    elif org and name.split("/")[0] != org:
        raise HubError(f"{name} is not of the organisation {org}: name one of them.")
    if not is_repo_id(name):
        raise HubError(f"{name!r} is not the name of a model on the Hub; it should look like ORG/NAME.")
    return name


def make_ready(api: HfApi, repo_id: str, life: str, private: bool, training_state: bool) -> None:
    """Create the repository, and make sure that a model of a life can be pushed to it, before hours of training.

    Raises:
        HubError: it cannot; HubUnreachable if it is not known.
    """
    with translate_hub_errors(repo_id, f"Preparing to push to {repo_id}", "", "model"):
        there = _opened(api, repo_id, private)
        if there is not None:
            _check_is_of(_card_there(api, there), there, life)
        role = (api.whoami().get("auth") or {}).get("accessToken", {}).get("role")
        if role == "read":
            raise HubError(
                f"Pushing to {repo_id} needs a token with write access, and yours only reads. Make another one in the "
                "settings of the Hub, then log in with `hf auth login` or set HF_TOKEN."
            )
        if training_state:
            _make_state_branch(api, repo_id)


def _user(api: HfApi, dry_run: bool) -> str:
    if dry_run and not (api.token or get_token()):
        return "YOUR-NAME"
    with translate_hub_errors("your name", "Asking the Hub whose token this is", "", "model"):
        return api.whoami()["name"]


def _opened(api: HfApi, repo_id: str, private: bool) -> ModelInfo | None:
    there = open_repository(api, repo_id, "model", private)
    assert there is None or isinstance(there, ModelInfo)
    return there


def _there(api: HfApi, repo_id: str, revision: str | None = None) -> ModelInfo | None:
    """What the Hub says of a repository and its files; None if it is not there, or not seen."""
    try:
        return api.model_info(repo_id, revision=revision, files_metadata=True)
    except (RepositoryNotFoundError, RevisionNotFoundError):
        return None


def _card_there(api: HfApi, there: ModelInfo) -> str | None:
    if _CARD not in {sibling.rfilename for sibling in there.siblings or []}:
        return None
    with TemporaryDirectory() as scratch:
        file = api.hf_hub_download(there.id, _CARD, revision=there.sha, local_dir=scratch)
        return Path(file).read_text(encoding="utf-8")


def _check_is_of(card: str | None, there: ModelInfo, life: str) -> None:
    """Make sure that what is overwritten is a model of the same life."""
    try:
        said = ModelCard(card or "", ignore_metadata_errors=True).data.get("singlelife")
    except (ValueError, yaml.YAMLError):
        said = None
    names = {sibling.rfilename for sibling in there.siblings or []}
    if isinstance(said, dict) and said.get("life") not in (None, life):
        raise HubError(f"{there.id} holds a model of the life {said['life']}, not of {life}. Choose another name.")
    if not isinstance(said, dict) and names - {".gitattributes", _CARD} and "modeling_croco.py" not in names:
        raise HubError(f"The name {there.id} is taken: it holds files that are no such model. Choose another name.")


def _changes(
    there: ModelInfo | None, files: dict[str, Path | bytes], branch: str, is_ours: Any
) -> tuple[list[Change], int]:
    """What differs between files and a branch; files there that are ours and no longer made go away."""
    siblings = {sibling.rfilename: sibling for sibling in (there.siblings or [] if there else [])}
    changes = []
    for name, content in files.items():
        addition = CommitOperationAdd(name, content if isinstance(content, bytes) else str(content))
        known = siblings.get(name)
        if known is not None and _is_same(known, addition):
            continue
        changes.append(Change(branch, name, "changed" if known else "new", addition.upload_info.size, addition))
    unchanged = len(files) - len(changes)
    for name in siblings:
        if is_ours(name) and name not in files:
            changes.append(Change(branch, name, "gone", 0, CommitOperationDelete(name)))
    return changes, unchanged


def _is_same(there: Any, addition: CommitOperationAdd) -> bool:
    if there.size != addition.upload_info.size:
        return False
    if there.lfs is not None:
        return there.lfs.sha256 == addition.upload_info.sha256.hex()
    with addition.as_file() as file:
        return there.blob_id == git_hash(file.read())


def _commit(api: HfApi, run: Run, repo_id: str, changes: list[Change]) -> None:
    """Commit what changed, the training state first: a run that goes on with it makes the model again."""
    message = f"{run.life.name} after {run.step:,} of {run.settings['max_steps']:,} steps"
    for branch in (STATE_BRANCH, "main"):
        operations = [change.operation for change in changes if change.branch == branch]
        if not operations:
            continue
        if branch == STATE_BRANCH:
            _make_state_branch(api, repo_id)
        api.create_commit(repo_id, operations, commit_message=message, revision=branch)
        if branch == STATE_BRANCH:  # earlier states are of no use, and as large as this one
            api.super_squash_history(repo_id, branch=branch, commit_message=message)


def _make_state_branch(api: HfApi, repo_id: str) -> None:
    try:
        api.create_branch(repo_id, branch=STATE_BRANCH)
    except HfHubHTTPError as error:
        if error.response.status_code != 409:  # it is there
            raise


def _keep(results: Path, run: Path) -> None:
    """Put results into the run folder, so that the next push has them too."""
    kept = run / RESULTS / results.name
    if kept.resolve() != results.resolve():
        kept.parent.mkdir(exist_ok=True)
        write_text(kept, json.dumps(json.loads(results.read_text(encoding="utf-8")), indent=2) + "\n")


@contextmanager
def _bars(shown: bool) -> Iterator[None]:
    """The progress bars of the client, or none; and not what it says of files that have not changed."""
    were_disabled, level = are_progress_bars_disabled(), hub_logging.get_verbosity()
    hub_logging.set_verbosity_error()
    if not shown:
        disable_progress_bars()
    try:
        yield
    finally:
        hub_logging.set_verbosity(level)
        if not were_disabled:
            enable_progress_bars()
