"""The one way from what a user names to a pair set.

What is named is, in this order:
1. LIFE/held-out: the stretches of a life that training by its recipe holds out; LIFE as below;
2. a folder with a pair_set.json: a stored pair set; a folder with a metadata.json: a prepared life; any other folder
   of image files: pairs of images;
3. ORG/NAME or ORG/NAME@REVISION, where there is no such folder: a pair set or a life on the Hub;
4. anything else: the name of a life.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np

from singlelife.alignment.pair_sets.drawing import make_pair_set
from singlelife.alignment.pair_sets.hub import hub_pair_set
from singlelife.alignment.pair_sets.image_folder import is_image_folder, load_image_pairs
from singlelife.alignment.pair_sets.pair_set import PairSet
from singlelife.alignment.pair_sets.storage import DESCRIPTION
from singlelife.errors import LifeError, PairSetError
from singlelife.files import hub_configs, read_yaml
from singlelife.lives.pairs.pairing import PairSettings
from singlelife.lives.pairs.segments import HELD_OUT, hold_out
from singlelife.lives.prepared import METADATA, PreparedLife
from singlelife.lives.resolve import life_reference, resolve_life, training_recipe

_HELD_OUT = "/held-out"


def resolve_pair_set(
    pairs: str, *, views: str, num_pairs: int, seed: int, image_size: int | None, cache_dir: Path | None = None
) -> PairSet:
    """The pair set that `pairs` stand for (see above).

    Args:
        pairs: what a user calls it.
        views, num_pairs, seed: of the draw from a life, see `make_pair_set`; a set that is there is taken as it is.
        image_size: side of the views in pixels, for all but a stored set, which has its own. None for that of the
            life's frames, so that views of whole frames are not resized (of images in folders, 224).
        cache_dir: where prepared lives are kept.

    Raises:
        SingleLifeError: there is nothing of that name, or it cannot be used.
    """
    stored = stored_pair_set(pairs, image_size or 224)
    if stored is not None:
        return stored
    life, rows = resolve_stretch(pairs, cache_dir=cache_dir)
    side = image_size or life.metadata["frame_size"]
    drawn = make_pair_set(life, views=views, num_pairs=num_pairs, seed=seed, image_size=side, rows=rows)
    return drawn if rows is None else replace(drawn, name=f"{life.name}{_HELD_OUT}/{views}")


def stored_pair_set(pairs: str, image_size: int = 224) -> PairSet | None:
    """The same of what is a pair set already; None of what may be a life.

    Raises:
        SingleLifeError: a folder holds neither pairs nor a life, or a pair set cannot be used.
    """
    path = Path(pairs).expanduser()
    if path.is_dir():
        if (path / DESCRIPTION).is_file():
            return PairSet.load(path, progress=True)
        if (path / METADATA).is_file():
            return None
        if is_image_folder(path):
            return load_image_pairs(path, image_size)
        raise PairSetError(
            f"The folder {pairs} holds no pairs: neither a stored pair set ({DESCRIPTION}), nor a prepared life "
            f"({METADATA}), nor images NAME_target.png and NAME_source.png, or of the same name in the folders target "
            "and source."
        )
    if pairs.endswith(_HELD_OUT) or (reference := life_reference(pairs)).kind != "hub":
        return None
    return hub_pair_set(reference.where, reference.revision)


def resolve_stretch(words: str, *, cache_dir: Path | None = None) -> tuple[PreparedLife, np.ndarray | None]:
    """The life that `words` stand for, and the rows of its held-out stretches where they end in /held-out, else None.

    Raises:
        SingleLifeError: there is no such life, or nothing of it is held out.
    """
    if not words.endswith(_HELD_OUT) or Path(words).expanduser().is_dir():
        return resolve_life(words, cache_dir=cache_dir), None
    name = words.removesuffix(_HELD_OUT)
    life = resolve_life(name, cache_dir=cache_dir)
    recipe = read_yaml(hub_configs() / "train" / f"{training_recipe(name)}.yaml")
    fraction, max_gap = recipe.get("validation_fraction", HELD_OUT), recipe.get("max_gap", PairSettings.max_gap)
    _, rows = hold_out(life.timestamps, life.video_index, fraction, max_gap)
    if not len(rows):
        raise LifeError(f"Training on the life {life.name} holds nothing out. Name the life alone.")
    return life, rows
