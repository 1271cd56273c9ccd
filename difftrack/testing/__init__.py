"""Laws for backbones, trackers and stores, as pytest classes: derive a class and provide the object under test.

This room needs pytest, which no other room imports.
"""

import pytest

pytest.register_assert_rewrite(
    "difftrack.testing._backbones", "difftrack.testing._trackers", "difftrack.testing._stores"
)

from difftrack.testing._backbones import BackboneLaws  # noqa: E402 - after register_assert_rewrite
from difftrack.testing._stores import StoreLaws  # noqa: E402
from difftrack.testing._trackers import TrackerLaws, moving_texture  # noqa: E402

__all__ = ["BackboneLaws", "StoreLaws", "TrackerLaws", "moving_texture"]
