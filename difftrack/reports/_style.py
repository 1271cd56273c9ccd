"""The style of all figures: fonts, colours, and reproducible files."""

import functools
import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import matplotlib
import numpy as np
from jaxtyping import Float, UInt8
from matplotlib.axes import Axes
from matplotlib.colors import hsv_to_rgb
from matplotlib.figure import Figure

__all__ = [
    "FAINT",
    "INK",
    "MISSING",
    "MUTED",
    "QUIET",
    "SEQUENTIAL",
    "SERIES",
    "STEP_AXIS",
    "finish_axes",
    "inline_svg",
    "number",
    "point_colors",
    "save_png",
    "save_svg",
    "spread_labels",
    "styled",
    "thin_ticks",
]

P = ParamSpec("P")
T = TypeVar("T")

INK = "#1b1f24"
"""Text and main marks."""
MUTED = "#6e7781"
"""Axis labels."""
FAINT = "#d5d9de"
"""Grid lines and spines."""
QUIET = "#b6bcc4"
"""Series for comparison."""
STEP_AXIS = "denoising step (noise → clean)"
"""Label of every axis over steps."""
SERIES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""Okabe and Ito's colours in the order of series; distinguishable with any colour vision."""
MISSING = "—"
"""Placeholder for a missing number."""
SEQUENTIAL = "viridis"
"""Colour map of every heatmap: uniform in lightness, so that it also works in grey."""

_RC: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 10.5,
    "axes.titlesize": 11.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 9,
    "axes.titlecolor": INK,
    "axes.labelcolor": MUTED,
    "axes.labelsize": 10,
    "axes.edgecolor": FAINT,
    "axes.linewidth": 0.9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.7,
    "text.color": INK,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "xtick.labelsize": 9.5,
    "ytick.labelsize": 9.5,
    "lines.linewidth": 2.2,
    "lines.solid_capstyle": "round",
    "legend.frameon": False,
    "figure.facecolor": "white",
    "axes.facecolor": "none",
    "svg.fonttype": "none",
    "svg.hashsalt": "difftrack",
    "image.interpolation": "nearest",
}


def number(fraction: float) -> str:
    """Format a fraction in percent with one decimal; a dash if it is missing."""
    return f"{100 * fraction:.1f}" if np.isfinite(fraction) else MISSING


def styled(draw: Callable[P, T]) -> Callable[P, T]:
    """Run a drawing function in the house style, without changing the caller's matplotlib settings."""

    @functools.wraps(draw)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> T:
        with matplotlib.rc_context(_RC):
            return draw(*args, **kwargs)

    return wrapped


def finish_axes(ax: Axes, *, title: str = "", xlabel: str = "", ylabel: str = "", grid: bool = False) -> None:
    """Label one pair of axes; `grid` adds horizontal lines."""
    ax.set_title(title)
    ax.set_xlabel(xlabel)
    ax.set_ylabel(ylabel)
    ax.tick_params(length=0)
    if grid:
        ax.grid(axis="y")


def thin_ticks(labels: list[int], *, most: int = 12) -> tuple[list[int], list[str]]:
    """Return positions and texts of at most `most` evenly spaced ticks, always with the first label."""
    every = -(-len(labels) // most)
    positions = list(range(0, len(labels), every))
    return positions, [str(labels[position]) for position in positions]


def spread_labels(heights: Float[np.ndarray, " label"], *, gap: float) -> Float[np.ndarray, " label"]:
    """Push label heights apart until neighbours keep at least `gap`, moving each as little as possible."""
    from scipy.optimize import isotonic_regression  # the import takes a third of a second

    order = np.argsort(heights, kind="stable")
    slots = gap * np.arange(len(heights))
    placed = np.empty(len(heights))
    placed[order] = isotonic_regression(heights[order] - slots).x + slots
    return placed


def point_colors(start_xy_px: Float[np.ndarray, "point xy"]) -> UInt8[np.ndarray, "point rgb"]:
    """Colour each point by its start: hue varies from left to right, lightness from top to bottom.

    Both span the box around all points, so that points of one small object differ too.

    Args:
        start_xy_px: Query positions, (x, y) in pixels.
    """
    low, high = start_xy_px.min(axis=0, initial=np.inf), start_xy_px.max(axis=0, initial=-np.inf)
    across, down = ((start_xy_px - low) / np.maximum(high - low, 1e-6)).T
    rgb: np.ndarray = hsv_to_rgb(np.stack([0.88 * across, 1.0 - 0.55 * down, 0.82 + 0.18 * down], axis=1))
    return np.round(rgb * 255).astype(np.uint8)


@styled
def save_png(figure: Figure, path: Path, *, dpi: int = 180) -> None:
    """Write a figure as PNG on white, without date or version, so the same figure gives the same bytes."""
    figure.savefig(path, dpi=dpi, metadata={"Software": None})


@styled
def figure_pixels(figure: Figure, *, dpi: int = 110) -> UInt8[np.ndarray, "row col rgb"]:
    """Draw a figure on white into an array."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="rgba", dpi=dpi, facecolor="white")
    width, height = (round(side * dpi) for side in figure.get_size_inches())
    return np.frombuffer(buffer.getvalue(), np.uint8).reshape(height, width, 4)[..., :3].copy()


@styled
def save_svg(figure: Figure, path: Path) -> None:
    """Write a figure as SVG without background, and without date or version, like `save_png`."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, dpi=150, metadata={"Date": None, "Creator": None})
    svg = re.sub(r"<metadata>.*?</metadata>", "", buffer.getvalue(), flags=re.DOTALL)
    path.write_text(svg, encoding="utf-8", newline="\n")


def inline_svg(svg: str, *, name: str) -> str:
    """Turn a file from `save_svg` into an `<svg>` element for a page.

    Its colours follow the page's `--ink`, `--muted` and `--faint`, so one drawing works in light and dark mode; its ids
    start with `name`, so that several figures can share a page.
    """
    svg = re.sub(
        r'(<image\b[^>]*?)\s+id="[^"]*"', r"\1", svg[svg.index("<svg") :]
    )  # equal colour bars get equal ids, to which nothing refers
    for color, variable in ((INK, "--ink"), (MUTED, "--muted"), (FAINT, "--faint")):
        svg = svg.replace(color, f"var({variable})")
    for reference in (' id="', "url(#", ' xlink:href="#'):
        svg = svg.replace(reference, f"{reference}{name}-")
    return svg
