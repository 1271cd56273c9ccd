"""Laws of the descriptor store for every location and layout."""

from pathlib import Path

import numpy as np
import pytest

from difftrack.geometry import TokenGrid
from difftrack.store import DescriptorSpec, StoreError, StoreParams, create_group, open_store, open_writer

__all__ = ["StoreLaws", "spec_of_primes"]

Values = dict[tuple[int, int], dict[str, np.ndarray]]


def spec_of_primes() -> DescriptorSpec:
    """Describe a small group with a different size on every axis."""
    return DescriptorSpec(
        steps=(3, 49),
        timesteps=(961.5, 20.0),
        layers=(0, 4, 7),
        heads=(0, 1, 2, 3, 9),
        num_channels=17,
        grid=TokenGrid(num_latent_frames=7, rows=11, cols=13, stride_px=8, temporal_stride=4),
        frames=(0, 4, 8, 12, 16, 20, 24),
        clip_size=(176, 208),
        size=(88, 104),
        kinds=("query", "key"),
        text_mask=(True,) * 12 + (False,) * 7,
        fingerprint_parts={"backbone": "abc", "clip": "def"},
    )


class StoreLaws:
    """Laws of a store at one location.

    A subclass overrides the fixture `root`, an empty folder or URL. It may also override `params` and `spec` to test
    another layout. `tolerance` is the largest allowed difference between a stored value and the written value, as a
    share of the largest value in its vector.
    """

    tolerance = 0.0

    @pytest.fixture
    def root(self) -> str | Path:
        """The empty location under test."""
        raise NotImplementedError("a subclass of StoreLaws must override the fixture `root`")

    @pytest.fixture
    def params(self) -> StoreParams:
        """Layout of the store."""
        return StoreParams()

    @pytest.fixture
    def spec(self) -> DescriptorSpec:
        """Spec of the stored group."""
        return spec_of_primes()

    @pytest.fixture
    def values(self, spec: DescriptorSpec) -> Values:
        """Integers up to 128, which float16 and bfloat16 represent exactly."""
        rng = np.random.default_rng(0)
        return {
            unit: {entry: rng.integers(-128, 129, spec.entry_shape(entry)).astype(np.float16) for entry in spec.entries}
            for unit in spec.units
        }

    def test_what_was_written_is_read(
        self, root: str | Path, params: StoreParams, spec: DescriptorSpec, values: Values
    ) -> None:
        """Every value is read back under the labels of the spec."""
        write(root, params, spec, values)
        store = open_store(root)
        assert store.groups() == ["clip"]
        assert (store.spec("clip"), store.params("clip")) == (spec, params)
        for (step, layer), arrays in values.items():
            for kind, written in arrays.items():
                read = store.sel(clip="clip", step=step, layer=layer, kind=kind).astype(np.float32)
                peak = np.abs(written.astype(np.float32)).max(axis=-1, keepdims=True)
                assert (np.abs(read - written) <= self.tolerance * peak).all()

    def test_a_frame_and_a_head_are_parts_of_the_whole(
        self, root: str | Path, params: StoreParams, spec: DescriptorSpec, values: Values
    ) -> None:
        """Selecting a part by its label equals indexing the whole."""
        write(root, params, spec, values)
        store = open_store(root)
        whole = store.sel(clip="clip", step=49, layer=4, kind="key")
        for frame in range(7):
            part = store.sel(clip="clip", step=49, layer=4, kind="key", latent_frame=frame)
            np.testing.assert_array_equal(part, whole[:, frame])
        part = store.sel(clip="clip", step=49, layer=4, kind="key", latent_frame=6, head=9)
        np.testing.assert_array_equal(part, whole[4, 6])
        assert store.sel(clip="clip", step=49, layer=4, kind="text_key", head=9).shape == (19, 17)

    def test_the_labelled_dataset_agrees_with_sel(
        self, root: str | Path, params: StoreParams, spec: DescriptorSpec, values: Values
    ) -> None:
        """Selection by xarray labels gives the same numbers."""
        write(root, params, spec, values)
        store = open_store(root)
        query = store.dataset("clip")["query"]
        assert query.dims == ("step", "layer", "head", "latent_frame", "row", "col", "channel")
        for layer in spec.layers:
            read = store.sel(clip="clip", step=3, layer=layer, kind="query")
            np.testing.assert_array_equal(query.sel(step=3, layer=layer), read)

    def test_an_interrupted_writer_is_taken_up_where_it_stopped(
        self, root: str | Path, params: StoreParams, spec: DescriptorSpec, values: Values
    ) -> None:
        """Exactly the unwritten units are missing, and another writer can continue."""
        writer = create_group(root, "clip", spec, params=params)
        done = spec.units[:2]
        for unit in done:
            writer.write(*unit, values[unit])
        assert writer.missing() == [unit for unit in spec.units if unit not in done]
        other = open_writer(root, "clip")
        for unit in other.missing():
            other.write(*unit, values[unit])
        other.finish()
        assert open_store(root).groups() == ["clip"]

    def test_a_label_that_is_not_there_is_refused_in_one_line(
        self, root: str | Path, params: StoreParams, spec: DescriptorSpec, values: Values
    ) -> None:
        """The message lists the available labels."""
        write(root, params, spec, values)
        with pytest.raises(StoreError, match="no layer 8; there are 0, 4, 7") as raised:
            open_store(root).sel(clip="clip", step=3, layer=8, kind="query")
        assert "\n" not in str(raised.value)

    def test_a_value_that_is_not_finite_is_refused_and_nothing_of_it_stays(
        self, root: str | Path, params: StoreParams, spec: DescriptorSpec, values: Values
    ) -> None:
        """The unit is still missing after the error."""
        writer = create_group(root, "clip", spec, params=params)
        unit = spec.units[0]
        bad = {entry: array.copy() for entry, array in values[unit].items()}
        bad["key"][1, 2, 3, 5, 7] = np.nan
        with pytest.raises(StoreError, match="not finite"):
            writer.write(*unit, bad)
        assert unit in writer.missing()


def write(root: str | Path, params: StoreParams, spec: DescriptorSpec, values: Values) -> None:
    """Write a whole group."""
    writer = create_group(root, "clip", spec, params=params)
    for unit in writer.missing():
        writer.write(*unit, values[unit])
    writer.finish()
