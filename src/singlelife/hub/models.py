"""The models of single lives that an organisation has on the Hub, and a collection of them."""

from dataclasses import asdict, dataclass
from typing import Any

from huggingface_hub import HfApi
from huggingface_hub.hf_api import ModelInfo

from singlelife.hub.errors import translate_hub_errors
from singlelife.hub.repositories import hub_api

TAG = "singlelife"  # in the card of every model that is pushed, by which it is found


@dataclass(frozen=True)
class PublishedModel:
    """A model as its repository and its card describe it; None where the card does not say.

    Attributes:
        repo_id: ORG/NAME.
        life: the name of the life.
        hours: of video, in the life.
        steps: optimiser steps made.
        finished: whether these were all.
        cas: mean position-free CAS with other models, adjusted for chance.
        updated: the day of the last commit, as YYYY-MM-DD.
        private: whether only its owner sees it.
    """

    repo_id: str
    life: str | None
    hours: float | None
    steps: int | None
    finished: bool | None
    cas: float | None
    updated: str | None
    private: bool

    def to_dict(self) -> dict[str, Any]:
        """All fields, as JSON has them."""
        return asdict(self)

    def row(self) -> tuple[str, ...]:
        """The cells of a table."""
        steps = "" if self.steps is None else f"{self.steps:,}{'' if self.finished else ' so far'}"
        return (
            self.repo_id,
            self.life or "?",
            "" if self.hours is None else f"{self.hours:.2f}",
            steps,
            "" if self.cas is None else f"{self.cas:.3f}",
            self.updated or "",
            "its owner" if self.private else "everybody",
        )


def models_of(org: str, token: str | None = None) -> list[PublishedModel]:
    """The models of an organisation or user that carry the tag, by the names of their lives.

    Raises:
        HubError: the Hub cannot be reached, or does not accept the token.
    """
    with translate_hub_errors(org, f"Listing the models of {org}", kind="model"):
        found = hub_api(token).list_models(
            author=org, filter=TAG, expand=["cardData", "lastModified", "private", "tags"]
        )
        models = [_published(info) for info in found]
    return sorted(models, key=lambda model: (model.life or "~", model.repo_id))


def collect(
    models: list[PublishedModel], org: str, title: str, *, private: bool = True, token: str | None = None
) -> tuple[str, int]:
    """Put models into an organisation's collection, made if it is not there.

    Returns:
        Its URL, and how many were not in it before.

    Raises:
        HubError: the token may not write there, or the Hub cannot be reached.
    """
    api = hub_api(token)
    with translate_hub_errors(
        f"{org}/{title}", f"Filling the collection {title}", "The same command goes on.", "model"
    ):
        slug = _collection(api, org, title, private)
        before = {item.item_id for item in api.get_collection(slug).items if item.item_type == "model"}
        added = [model for model in models if model.repo_id not in before]
        for model in added:
            note = f"The life {model.life}" if model.life else None
            api.add_collection_item(slug, model.repo_id, "model", note=note, exists_ok=True)
        return api.get_collection(slug).url, len(added)


def _collection(api: HfApi, org: str, title: str, private: bool) -> str:
    """The slug of the collection of a title. The Hub would make a second one of the same title."""
    for collection in api.list_collections(owner=org):
        if collection.title == title:
            return collection.slug
    about = "Vision models, each pretrained on the video of one life"
    return api.create_collection(title, namespace=org, description=about, private=private).slug


def _published(info: ModelInfo) -> PublishedModel:
    """What a card says, which anyone may have written."""
    said: Any = info.card_data.get("singlelife") if info.card_data else None
    said = said if isinstance(said, dict) else {}

    def number(name: str) -> Any:
        value = said.get(name)
        return value if isinstance(value, int | float) and not isinstance(value, bool) else None

    life, finished = said.get("life"), said.get("finished")
    return PublishedModel(
        repo_id=info.id,
        life=life[:64] if isinstance(life, str) else None,
        hours=number("hours"),
        steps=number("steps"),
        finished=finished if isinstance(finished, bool) else None,
        cas=number("cas"),
        updated=info.last_modified.date().isoformat() if info.last_modified else None,
        private=bool(info.private),
    )
