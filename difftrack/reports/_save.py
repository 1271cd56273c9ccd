"""Puts a drawing into the page and beside it."""

from functools import partial
from pathlib import Path

from matplotlib.figure import Figure as Drawing

from difftrack.reports._drawings import Drawings
from difftrack.reports._page import Figure
from difftrack.reports._style import inline_svg, save_png, save_svg

__all__ = ["save_figure"]


def save_figure(
    drawings: Drawings, draw: partial[Drawing], *, name: str, title: str, caption: str, wide: bool = True
) -> Figure:
    """Have `figures/<name>.svg` and `.png` drawn and return the block that shows the former inline."""
    svg, png = f"figures/{name}.svg", f"figures/{name}.png"
    drawings.draw(partial(_write, draw), svg, png)
    inline = inline_svg((drawings.folder / svg).read_text(encoding="utf-8"), name=name)
    return Figure(title=title, caption=caption, svg=inline, png=png, wide=wide)


def _write(draw: partial[Drawing], svg: Path, png: Path) -> None:
    drawing = draw()
    save_svg(drawing, svg)
    drawing.set_layout_engine("none")  # laid out by now; doing it again would give the same at twice the time
    save_png(drawing, png)
