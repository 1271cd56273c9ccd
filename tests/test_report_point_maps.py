import base64
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny_results as tiny

import difftrack as dt
from difftrack.correspondence import CORRECTED
from difftrack.media import read_image
from difftrack.reports._examples import ExampleClip, stored_example
from difftrack.reports._point_maps import MapChoices, choices_within, point_maps, write_point_maps
from difftrack.store import open_store

CHOICES = MapChoices(tiny.STEPS, tiny.LAYERS, tiny.HEADS, (1, 2))
POINTS = np.asarray([(12, 12), (44, 36)], np.float32)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> dt.Store:
    root = tmp_path_factory.mktemp("store")
    tiny.write_store(root)
    return open_store(str(root))


@pytest.fixture(scope="module")
def example(store: dt.Store) -> ExampleClip:
    return stored_example(store, tiny.clip(), POINTS, truth=tiny.tracks())


def test_maps_of_every_choice_are_those_of_dt_match(store: dt.Store, example: ExampleClip) -> None:
    maps, best = point_maps(example, CHOICES, CORRECTED)
    assert maps.shape == (3, 2, 3, 2, 2, 5, 7)
    for step, layer, head in ((0, 1, 0), (2, 0, 1), (1, 1, 2)):
        heads = None if head == 0 else [tiny.HEADS[head - 1]]
        found = dt.match(store, POINTS, step=tiny.STEPS[step], layer=tiny.LAYERS[layer], heads=heads)
        for point in range(len(POINTS)):
            expected = found.probabilities(point).values
            scaled = expected / expected.max(axis=(1, 2), keepdims=True)
            assert np.abs(maps[step, layer, head, point] / 255 - scaled).max() <= 0.5 / 255 + 1e-6
            at = found.dataset.isel(point=point).sel(frame=[1, 2])
            np.testing.assert_allclose(best[step, layer, head, point, :, :2], at["xy_px"].values, atol=1e-4)
            np.testing.assert_allclose(best[step, layer, head, point, :, 2], at["probability"].values, rtol=1e-5)


def test_what_takes_too_much_loses_its_heads_first_and_then_every_other_step(example: ExampleClip) -> None:
    whole = CHOICES.num_bytes(example)
    assert whole == 3 * 2 * 3 * 2 * 2 * 35 * 4 // 3
    assert choices_within(example, (1, 2), whole) == CHOICES
    without_heads = choices_within(example, (1, 2), whole - 1)
    assert without_heads == replace(CHOICES, heads=())
    thinned = choices_within(example, (1, 2), without_heads.num_bytes(example) - 1)
    assert thinned == replace(CHOICES, heads=(), steps=(0, 49))
    assert choices_within(example, (1, 2), 1).steps == (49,)


def test_the_script_holds_what_the_page_draws(example: ExampleClip, tmp_path: Path) -> None:
    write_point_maps(example, CHOICES, CORRECTED, 'a "name"', tmp_path / "maps.js", tmp_path / "maps.png")
    text = (tmp_path / "maps.js").read_text()
    head, _, rest = text.partition(" = ")
    assert head == '(window.difftrackMaps ??= {})["a \\"name\\""]'
    said = json.loads(rest.rstrip().removesuffix(";"))
    maps = point_maps(example, CHOICES, CORRECTED)[0]
    assert base64.b64decode(said["maps"]) == maps.tobytes()
    assert len(base64.b64decode(said["colors"])) == 768
    assert said["truth"][0] == [[12.0, 12.0], [20.0, 12.0], [28.0, 12.0]]
    frames = read_image(tmp_path / "maps.png")
    np.testing.assert_array_equal(frames, np.concatenate(list(tiny.clip().frames), axis=1))
