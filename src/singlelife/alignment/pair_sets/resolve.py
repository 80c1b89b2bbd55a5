"""Find the pair set that a user names.

A name can be, in this order:
1. LIFE/held-out: the stretches of a life that training by its recipe holds out; LIFE as below;
2. a folder with a pair_set.json: a stored pair set; a folder with a metadata.json: a prepared life; any other folder,
   unless a prepared life has its name: pairs of image files;
3. a pair set that comes with the package, in hub_configs/pairs;
4. ORG/NAME or ORG/NAME@REVISION, if there is no such folder: a pair set or a life on the Hub;
5. anything else: the name of a life.
"""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from singlelife.alignment.pair_sets.drawing import make_pair_set
from singlelife.alignment.pair_sets.pair_set import PairSet
from singlelife.alignment.pair_sets.storage import DESCRIPTION, ROWS, VIEW_NAMES, pair_set_card, read_description
from singlelife.errors import LifeError, PairSetError
from singlelife.files import hub_configs, read_yaml, shipped_pair_set
from singlelife.hub.errors import HubUnreachable
from singlelife.hub.pull import fetch, kept_without_network, look_up
from singlelife.hub.push import Publication
from singlelife.lives.pairs.dataset import center_crop_box, crop_and_resize
from singlelife.lives.pairs.motion import with_gaps
from singlelife.lives.pairs.pairing import PairSettings
from singlelife.lives.pairs.segments import HELD_OUT, hold_out
from singlelife.lives.prepared import METADATA, PreparedLife
from singlelife.lives.registry import prepared_folders
from singlelife.lives.resolve import life_reference, resolve_life, training_recipe
from singlelife.pictures import read_picture

_STORED_FILES = (DESCRIPTION, ROWS, "dataset_dict.json", "test/state.json", "test/dataset_info.json")
_HELD_OUT = "/held-out"
_IMAGES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".ppm", ".tif", ".tiff")


def resolve_pair_set(
    pairs: str, *, views: str, num_pairs: int, seed: int, image_size: int | None, cache_dir: Path | None = None
) -> PairSet:
    """The pair set that `pairs` names (see above).

    Args:
        pairs: the user's name for it.
        views, num_pairs, seed: how to draw from a life, see `make_pair_set`; an existing set is used as it is.
        image_size: side of the views in pixels; a stored set has its own. None takes the size of the life's frames, so
            that views of whole frames are not resized, or 224 for images in folders.
        cache_dir: where prepared lives are kept.

    Raises:
        SingleLifeError: nothing has that name, or it cannot be used.
    """
    stored = stored_pair_set(pairs, image_size or 224, cache_dir)
    if stored is not None:
        return stored
    life, rows = resolve_stretch(pairs, cache_dir=cache_dir)
    side = image_size or life.metadata["frame_size"]
    drawn = make_pair_set(life, views=views, num_pairs=num_pairs, seed=seed, image_size=side, rows=rows)
    return drawn if rows is None else replace(drawn, name=f"{life.name}{_HELD_OUT}/{views}")


def stored_pair_set(pairs: str, image_size: int = 224, cache_dir: Path | None = None) -> PairSet | None:
    """As `resolve_pair_set`, but only for existing pair sets; None if `pairs` may name a life.

    Raises:
        SingleLifeError: a folder holds neither pairs nor a life, or a pair set cannot be used.
    """
    path = Path(pairs).expanduser()
    if not path.exists():
        path = shipped_pair_set(pairs) or path
    if (path / DESCRIPTION).is_file():
        return PairSet.load(path, progress=True)
    if path.is_dir():
        a_life = (path / METADATA).is_file() or prepared_folders(pairs, cache_dir)
        return None if a_life else load_image_pairs(path, image_size)
    if pairs.endswith(_HELD_OUT) or (reference := life_reference(pairs)).kind != "hub":
        return None
    return hub_pair_set(reference.where, reference.revision)


def resolve_stretch(words: str, *, cache_dir: Path | None = None) -> tuple[PreparedLife, np.ndarray | None]:
    """The life that `words` names, and the rows of its held-out stretches if it ends in /held-out, otherwise None.

    Raises:
        SingleLifeError: there is no such life, or none of it is held out.
    """
    if not words.endswith(_HELD_OUT) or Path(words).expanduser().is_dir():
        return resolve_life(words, cache_dir=cache_dir), None
    name = words.removesuffix(_HELD_OUT)
    life = resolve_life(name, cache_dir=cache_dir)
    recipe = read_yaml(hub_configs() / "train" / f"{training_recipe(name, cache_dir=cache_dir)}.yaml")
    gaps = {name: recipe[name] for name in ("min_gap", "max_gap") if name in recipe}
    max_gap = with_gaps(PairSettings(**gaps), life).max_gap
    _, rows = hold_out(life.timestamps, life.video_index, recipe.get("validation_fraction", HELD_OUT), max_gap)
    if not len(rows):
        raise LifeError(f"Training on the life {life.name} holds nothing out. Name the life without /held-out.")
    return life, rows


def load_image_pairs(path: Path, image_size: int) -> PairSet:
    """The pairs of image files in a folder: `NAME_target.png` and `NAME_source.png`, or files of equal names in the
    folders `target` and `source`. PNG, JPEG, WebP, BMP, PPM or TIFF.

    Args:
        path: the folder.
        image_size: side of the views in pixels; the middle square of each image is resized to it.

    Raises:
        PairSetError: there are none, one lacks its partner, or one cannot be read; the message names it.
    """
    files = _pairs_of_files(path)
    names = [[str(file.relative_to(path)) for file in pair] for pair in files]
    images = ((_read_image(target), _read_image(source)) for target, source in files)
    return pair_set_of_images(path.name, images, len(files), image_size, {"folder": path.name, "files": names})


def pair_set_of_images(
    name: str,
    images: Iterable[tuple[torch.Tensor, torch.Tensor]],
    count: int,
    image_size: int,
    provenance: dict[str, Any] | None = None,
) -> PairSet:
    """A pair set of the middle squares of images.

    Args:
        name: for people.
        images: target and source of each pair, uint8 (3, H, W) of any size; read one pair at a time.
        count: the number of pairs.
        image_size: side of the views in pixels; the squares are resized to it.
        provenance: where the images come from.
    """
    views = torch.empty((2, count, 3, image_size, image_size), dtype=torch.uint8)
    boxes = np.zeros((count, 2, 4), dtype=np.int64)
    for index, pair in enumerate(images):
        for number, image in enumerate(pair):
            boxes[index, number] = box = center_crop_box(*image.shape[-2:])
            views[number, index] = crop_and_resize(image, box, image_size)
    return PairSet(name, views[0], views[1], provenance or {}, boxes)


def _pairs_of_files(path: Path) -> list[tuple[Path, Path]]:
    found: dict[str, dict[str, Path]] = {view: {} for view in VIEW_NAMES}
    for file in sorted(each for view in ("", *VIEW_NAMES) for each in (path / view).glob("[!.]*")):
        if file.suffix.lower() not in _IMAGES:
            continue
        view, name = file.parent.name, file.stem
        if file.parent == path:
            name, _, view = file.stem.rpartition("_")
        if view not in found or not name:
            raise PairSetError(
                f"{file} belongs to no pair: the images of a pair are NAME_target.png and NAME_source.png, or have "
                "the same name in the folders target and source."
            )
        if name in found[view]:
            raise PairSetError(f"{file} and {found[view][name].name} are both the {view} of {name}: keep one of them.")
        found[view][name] = file
    for view, other in (VIEW_NAMES, VIEW_NAMES[::-1]):
        if alone := sorted(set(found[view]) - set(found[other])):
            raise PairSetError(f"{found[view][alone[0]]} has no partner: its {other} is missing in {path}.")
    if not found["target"]:
        raise PairSetError(
            f"The folder {path} holds no pairs: neither a stored pair set ({DESCRIPTION}), nor a prepared life "
            f"({METADATA}), nor images NAME_target.png and NAME_source.png, nor images of the same name in the "
            "folders target and source."
        )
    return [(found["target"][name], found["source"][name]) for name in sorted(found["target"])]


def _read_image(file: Path) -> torch.Tensor:
    """The pixels of an image file, upright, uint8 (3, height, width)."""
    try:
        return torch.from_numpy(np.array(read_picture(file))).permute(2, 0, 1)
    except ValueError as error:
        raise PairSetError(f"The image {error}.") from error


def pair_set_publication(path: Path, repo_id: str, *, license: str | None = None) -> Publication:
    """A stored pair set to `publish`. Views of a life may show people who were not asked.

    Args:
        path: its folder, which is verified.
        repo_id: ORG/NAME of a data set, or a NAME in the user's own namespace.
        license: of the views; by default the licences of the lives.

    Raises:
        PairSetError: the pair set cannot be used.
    """
    pairs, described = PairSet.load(path), read_description(path)
    return Publication(
        repo_id=repo_id,
        kind="dataset",
        what=f"the pair set {pairs.name}",
        message=f"The pair set {pairs.name}, {len(pairs):,} pairs, {pairs.hash[:12]}",
        files=lambda: [(name, path / name) for name in _STORED_FILES],
        card=lambda repo_id: pair_set_card(pairs, described, repo_id=repo_id, license=license),
        sizes={name: (path / name).stat().st_size for name in _STORED_FILES},
        marker=DESCRIPTION,
    )


def hub_pair_set(repo_id: str, revision: str | None = None) -> PairSet | None:
    """The pair set of a repository, downloaded unless the Hub's cache has it; None if the repository holds none.

    Raises:
        HubError: the data set does not exist, you have no access to it, or the connection breaks.
        LifeError: the disk has no room.
        PairSetError: the pair set is damaged.
    """
    try:
        remote = look_up(repo_id, "dataset", revision)
    except HubUnreachable as error:
        try:
            folder = kept_without_network(repo_id, "dataset", DESCRIPTION, revision, error)
        except HubUnreachable:
            return None  # it may be a life, which is kept elsewhere
        return PairSet.load(folder, progress=True)
    if DESCRIPTION not in remote.sizes:
        return None
    read_description(fetch(remote, [DESCRIPTION]))  # its format may be too new: check before the download
    return PairSet.load(fetch(remote, [name for name in (DESCRIPTION, ROWS) if name in remote.sizes]), progress=True)
