"""Finds what comes with the package: the workspace template, its prompts, and the backbone that ships.

These files lie at the top of a checkout and in the folder `shipped` of an installed package, in the same layout.
"""

from pathlib import Path
from typing import Final

__all__ = ["shipped"]


_PACKAGE: Final = Path(__file__).resolve().parent


def shipped(relative: str) -> Path:
    """Return the path of a file or folder that comes with the package.

    Args:
        relative: Its place in a workspace, such as `params.yaml` or `data/prompts`.

    Raises:
        FileNotFoundError: this installation lacks it.
    """
    installed, checkout = _PACKAGE / "shipped", _PACKAGE.parent
    path = (installed if installed.is_dir() else checkout) / relative
    if not path.exists():
        raise FileNotFoundError(
            f"{path} is missing: it comes with difftrack; install the package again (`pip install --force-reinstall`)"
        )
    return path
