"""Screens, the controls that are drawn: the same each time, and of the kind that they say."""

import dataclasses

import numpy as np
import pytest

from singlelife.lives.prepare import life_fingerprint, prepare_life
from singlelife.lives.registry import get_life
from singlelife.lives.simulation import SCREENS, ScreenSource
from singlelife.lives.simulation.simulated import draw_screen


def frames(screen: str, count: int, seed: int = 1) -> np.ndarray:
    return np.stack(list(draw_screen(ScreenSource(screen, seed, count), 64)))


@pytest.mark.parametrize("screen", SCREENS)
def test_the_same_source_gives_the_same_frames(screen):
    first = frames(screen, 40)
    assert first.shape == (40, 64, 64, 3) and first.dtype == np.uint8
    assert np.array_equal(first, frames(screen, 40)) and np.array_equal(first[:25], frames(screen, 25))
    assert not np.array_equal(first, frames(screen, 40, seed=2))
    assert first.std() > 20  # something is on it


def test_slides_stand_still_and_then_change_at_once():
    shown = frames("slides", 1000)
    changes = np.flatnonzero((shown[1:] != shown[:-1]).any((1, 2, 3)))
    assert 3 <= len(changes) <= 15  # 57 s, 4 to 15 s each
    assert (np.diff(changes) >= 70).all()


def test_a_desktop_moves_in_parts():
    shown = frames("desktop", 400).astype(int)
    changed = (np.abs(np.diff(shown, axis=0)).max(-1) > 8).mean((1, 2))
    assert (changed > 0).mean() > 0.2 and np.median(changed[changed > 0]) < 0.5


@pytest.mark.integration
def test_a_screen_is_prepared_as_any_life(tmp_path):
    life = get_life("sim_desktop")
    short = dataclasses.replace(life, simulation=dataclasses.replace(life.simulation, num_frames=30))
    prepared = prepare_life(short, cache_dir=tmp_path, progress=False)
    assert len(prepared) == 30 and prepared.poses([0]) is None and prepared.depth([0]) is None
    assert prepared.timestamps[-1] == pytest.approx(29 / 17.5)
    assert life_fingerprint(short) != life_fingerprint(life)
