"""Find the files that ship with the package: the workspace template, its prompts, the small backbone and its study.

These files lie at the top level of a checkout, and in the folder `shipped` of an installed package, in the same layout.
"""

from pathlib import Path
from typing import Final

__all__ = ["CAUSE_STUDY", "shipped"]

CAUSE_STUDY: Final = "benchmarks/results/ablation/ablation.json"
"""What removing heads of the small backbone does, as `difftrack ablate` summarizes it."""

_PACKAGE: Final = Path(__file__).resolve().parent


def shipped(relative: str) -> Path:
    """Return the path of a file or folder that ships with the package.

    Args:
        relative: Path in a workspace, such as `params.yaml` or `data/prompts`.

    Raises:
        FileNotFoundError: the installation does not contain the file.
    """
    installed, checkout = _PACKAGE / "shipped", _PACKAGE.parent
    path = (installed if installed.is_dir() else checkout) / relative
    if not path.exists():
        raise FileNotFoundError(
            f"{path} is missing but ships with difftrack; reinstall the package (`pip install --force-reinstall`)"
        )
    return path
