"""The part of the loopback Hub that lists models and keeps collections of them."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import yaml

_SHOWN_IN_A_LIST = 4  # items of a collection, in a list of collections


@dataclass
class Collection:
    slug: str
    title: str
    owner: str
    private: bool
    description: str | None = None
    items: list[dict[str, Any]] = field(default_factory=list)

    def to_dict(self, shown: int | None = None) -> dict[str, Any]:
        return {
            "slug": self.slug, "title": self.title, "description": self.description, "private": self.private,
            "owner": {"name": self.owner}, "items": self.items[:shown], "theme": "blue", "upvotes": 0, "position": 0,
            "lastUpdated": "2026-01-01T00:00:00.000Z",
        }  # fmt: skip


class ListingEndpoints:
    """For the server's handler, whose repositories and permissions it uses."""

    hub: Any
    query: dict[str, list[str]]
    token: str | None
    _json: Callable[..., None]
    _member: Callable[[str], bool]
    refuse: Callable[..., Exception]
    writer: str

    def models(self, body: bytes) -> None:
        author, words = (self.query.get(name, [""])[0] for name in ("author", "search"))
        tags = set(self.query.get("filter", []))
        page, size = int(self.query.get("page", ["0"])[0]), 2
        found = []
        for (kind, name), repository in sorted(self.hub.repositories.items()):
            seen = not repository.private or self._member(name.split("/")[0])
            asked = author in ("", name.split("/")[0]) and words.lower() in name.lower()
            if kind == "model" and asked and seen:
                card = self.card_of(repository)
                if tags <= set(card.get("tags", [])):
                    found.append(
                        {"id": name, "private": repository.private, "cardData": card, "tags": card.get("tags", []),
                         "lastModified": "2026-01-01T00:00:00.000Z"}
                    )  # fmt: skip
        more = f"{self.hub.url}/api/models?author={author}&page={page + 1}" + "".join(f"&filter={tag}" for tag in tags)
        link = {"Link": f'<{more}>; rel="next"'} if found[(page + 1) * size :] else {}
        self._json(found[page * size : (page + 1) * size], 200, link)

    def card_of(self, repository: Any) -> dict[str, Any]:
        """The header of a model's card, without its model-index, which the Hub keeps apart."""
        if "README.md" not in repository.commits[repository.branches["main"]]:
            return {}
        _, header, _ = self.hub.read(repository, "README.md").decode().split("---\n", 2)
        return {name: value for name, value in yaml.safe_load(header).items() if name != "model-index"}

    def list_collections(self, body: bytes) -> None:
        owner = self.query.get("owner", [""])[0]
        found = [each for each in self.hub.collections.values() if each.owner == owner]
        found = [each for each in found if not each.private or self._member(owner)]
        self._json([{k: v for k, v in each.to_dict(_SHOWN_IN_A_LIST).items() if k != "position"} for each in found])

    def create_collection(self, body: bytes) -> None:
        asked = json.loads(body)
        self._check_writer(asked["namespace"])
        words = "-".join(asked["title"].lower().split())
        number = hashlib.sha1(f"{words}{len(self.hub.collections)}".encode()).hexdigest()[:24]
        slug = f"{asked['namespace']}/{words}-{number}"
        made = Collection(slug, asked["title"], asked["namespace"], asked["private"], asked.get("description"))
        self.hub.collections[slug] = made
        self._json(made.to_dict())

    def collection(self, body: bytes, slug: str) -> None:
        self._json(self._collection(slug).to_dict())

    def add_to_collection(self, body: bytes, slug: str) -> None:
        collection, asked = self._collection(slug), json.loads(body)
        self._check_writer(collection.owner)
        item = asked["item"]
        if (item["type"], item["id"]) not in self.hub.repositories:
            raise self.refuse(404, "", "no such item")
        if any(each["id"] == item["id"] for each in collection.items):
            raise self.refuse(409, "", "Item already in collection")
        number = hashlib.sha1(item["id"].encode()).hexdigest()[:24]
        note = {"text": asked["note"]} if asked.get("note") else None
        collection.items.append({"_id": number, **item, "position": len(collection.items), "note": note})
        self._json(collection.to_dict())

    def _collection(self, slug: str) -> Collection:
        collection = self.hub.collections.get(slug)
        if collection is None or (collection.private and not self._member(collection.owner)):
            raise self.refuse(404, "", "Collection not found")
        return collection

    def _check_writer(self, namespace: str) -> None:
        if not self._member(namespace) or self.token != self.writer:
            raise self.refuse(403, "", f"You may not write collections of {namespace}")
