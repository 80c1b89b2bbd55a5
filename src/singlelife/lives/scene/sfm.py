"""Poses and points for a recording that has none: structure from motion with COLMAP, on the CPU.

Work goes on in a folder beside the prepared life whose name ends in `.sfm`. Whatever was done of a stage is kept
there, in COLMAP's database, so one that was killed goes on; only the last, which builds the models, starts again.
"""

import json
import shutil
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from tqdm.auto import tqdm

from singlelife.errors import LifeError
from singlelife.lives.prepared import PreparedLife
from singlelife.lives.scene.geometry import frames_at_rate

_AT_ONCE = 32  # images or, times 16, pairs given to COLMAP between two updates of the progress bar
_NEXT = 5  # of each video's frames, pairs with each of the next 5, then 8, 16, 32 and 64 frames on
_FURTHER = (8, 16, 32, 64)
_KEYFRAMES = 150  # of the whole life, each paired with all others, to find places that are visited again


def reconstruct(life: PreparedLife, *, rate: float = 2.0, progress: bool = True) -> Path:
    """Reconstruct a life from its frames.

    Features are SIFT. Each video is taken to be of one camera, whose focal length is found too. Pairs are matched
    along each video and between keyframes of the whole life.

    Args:
        life: the prepared life.
        rate: frames used per second, in Hz.
        progress: show progress bars on stderr.

    Returns:
        A folder of COLMAP models, for `life_geometry(life, source=...)`. Frames that did not register are in none.

    Raises:
        LifeError: pycolmap is not installed, there are too few frames, or nothing could be reconstructed.
    """
    try:
        import pycolmap
    except ImportError as error:
        raise LifeError(
            'Reconstructing poses needs pycolmap, which is not installed: pip install "singlelife[poses]". Or name '
            "poses that there are with --from FOLDER."
        ) from error
    rows = frames_at_rate(life, rate)
    if len(rows) < 3:
        raise LifeError(
            f"At {rate:g} Hz the life {life.name} gives {len(rows)} frames; 3 are the least. Raise --rate."
        )
    work = life.path.with_name(f"{life.path.name}.sfm")
    described = {"rate": rate, "life": life.metadata["fingerprint"], "pycolmap": pycolmap.__version__}
    settings = work / "settings.json"
    if settings.is_file() and json.loads(settings.read_text(encoding="utf-8")) != described:
        shutil.rmtree(work)  # of another rate, life or version: nothing of it can be used
    work.mkdir(exist_ok=True)
    settings.write_text(json.dumps(described), encoding="utf-8")
    models = work / "models"
    if not models.is_dir():
        quiet, pycolmap.logging.minloglevel = pycolmap.logging.minloglevel, 3
        try:
            names = _export(life, rows, work / "images", progress)
            _extract(pycolmap, work, names, progress)
            _match(pycolmap, work, names, life.video_index[rows], progress)
            _map(pycolmap, work, models, progress)
        finally:
            pycolmap.logging.minloglevel = quiet
    if not any(models.iterdir()):
        raise LifeError(
            f"COLMAP could reconstruct nothing from {len(rows)} frames of the life {life.name}: it needs texture, and "
            "a camera that moves sideways, not one that stands, only turns, or only goes straight on. Other frames "
            "may do better: try --rate with another number."
        )
    return models


def pairs_to_match(video_index: np.ndarray) -> np.ndarray:
    """Which of the thinned frames are matched with which, (number of pairs, 2), each once.

    Args:
        video_index: of the thinned frames, (n,).
    """
    count = len(video_index)
    frames = np.arange(count)
    pairs = set()
    for step in (*range(1, _NEXT + 1), *_FURTHER):
        along = frames[:-step][video_index[:-step] == video_index[step:]] if step < count else frames[:0]
        pairs |= set(zip(along.tolist(), (along + step).tolist(), strict=True))
    keyframes = np.unique(np.linspace(0, count - 1, min(count, _KEYFRAMES)).astype(np.int64)).tolist()
    pairs |= {(first, second) for first in keyframes for second in keyframes if first < second}
    return np.array(sorted(pairs), dtype=np.int64).reshape(-1, 2)


def _export(life: PreparedLife, rows: np.ndarray, folder: Path, progress: bool) -> list[str]:
    """Write the frames as they are stored; their names within `folder`.

    The names are percent-encoded, as COLMAP's lists of pairs have spaces between names and no quotes.
    """
    names = [f"{quote(life.videos[life.video_index[row]])}/{life.frame_index[row]}.jpg" for row in rows]
    images = life.dataset.select_columns("image").with_format("arrow")
    for row, name in zip(rows, tqdm(names, desc="Writing frames", unit=" frames", disable=not progress), strict=True):
        path = folder / name
        if path.is_file():
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_suffix(".tmp")
        aside.write_bytes(images[int(row)]["image"][0]["bytes"].as_py())
        aside.replace(path)
    return names


def _extract(pycolmap: Any, work: Path, names: list[str], progress: bool) -> None:
    path = work / "database.db"
    with pycolmap.Database.open(path) as database:
        whole = database.num_images() == len(names)
        if not whole:
            database.clear_all_tables()
    if not whole:  # all in one call, or each call would make cameras of its own
        pycolmap.import_images(path, work / "images", pycolmap.CameraMode.PER_FOLDER, names)
    with pycolmap.Database.open(path) as database:
        images = database.read_all_images()
        done = {image.name for image in images if database.exists_descriptors(image.image_id)}
    missing = [name for name in names if name not in done]
    done_before = len(names) - len(missing)
    with tqdm(
        desc="Finding features", unit=" frames", total=len(names), initial=done_before, disable=not progress
    ) as bar:
        for start in range(0, len(missing), _AT_ONCE):
            some = missing[start : start + _AT_ONCE]
            pycolmap.extract_features(path, work / "images", image_names=some, device=pycolmap.Device.cpu)
            bar.update(len(some))


def _match(pycolmap: Any, work: Path, names: list[str], video_index: np.ndarray, progress: bool) -> None:
    pairs, listed = pairs_to_match(video_index), work / "pairs.txt"
    options = pycolmap.ImportedPairingOptions()
    options.match_list_path = listed
    with tqdm(desc="Matching pairs", unit=" pairs", total=len(pairs), disable=not progress) as bar:
        for start in range(0, len(pairs), 16 * _AT_ONCE):
            some = pairs[start : start + 16 * _AT_ONCE]
            listed.write_text("".join(f"{names[i]} {names[j]}\n" for i, j in some), encoding="utf-8")
            pycolmap.match_image_pairs(  # passes over pairs that the database has
                work / "database.db", pairing_options=options, device=pycolmap.Device.cpu
            )
            bar.update(len(some))


def _map(pycolmap: Any, work: Path, models: Path, progress: bool) -> None:
    aside = work / "models.partial"
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir()
    options = pycolmap.IncrementalPipelineOptions()
    options.extract_colors, options.random_seed = False, 0
    # Without a total: COLMAP tries several beginnings, and takes up frames anew with each.
    with tqdm(desc="Placing frames", unit=" frames", disable=not progress) as bar:
        pycolmap.incremental_mapping(
            work / "database.db",
            work / "images",
            aside,
            options=options,
            initial_image_pair_callback=lambda: bar.update(2),
            next_image_callback=lambda: bar.update(1),
        )
    aside.rename(models)
