"""Puts a drawing into the page and beside it."""

from pathlib import Path

from matplotlib.figure import Figure as Drawing

from difftrack.reports._page import Figure
from difftrack.reports._style import inline_svg, save_png

__all__ = ["save_figure"]


def save_figure(drawing: Drawing, *, folder: Path, name: str, title: str, caption: str, wide: bool = True) -> Figure:
    """Write `figures/<name>.png` under the page's folder and return the block that shows the drawing inline."""
    png = Path("figures") / f"{name}.png"
    (folder / png.parent).mkdir(parents=True, exist_ok=True)
    svg = inline_svg(drawing, name=name)
    drawing.set_layout_engine("none")  # laid out by now; doing it again would give the same at twice the time
    save_png(drawing, folder / png)
    return Figure(title=title, caption=caption, svg=svg, png=png.as_posix(), wide=wide)
