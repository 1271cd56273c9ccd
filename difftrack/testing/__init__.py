"""Laws that backbones, trackers and stores obey, as pytest classes: derive from one, and give it the thing under test.

Needs pytest, which nothing else of the library imports.
"""

import pytest

pytest.register_assert_rewrite(
    "difftrack.testing._backbones", "difftrack.testing._trackers", "difftrack.testing._stores"
)

from difftrack.testing._backbones import BackboneLaws  # noqa: E402 - after its asserts are made to speak
from difftrack.testing._stores import StoreLaws  # noqa: E402
from difftrack.testing._trackers import TrackerLaws, moving_texture  # noqa: E402

__all__ = ["BackboneLaws", "StoreLaws", "TrackerLaws", "moving_texture"]
