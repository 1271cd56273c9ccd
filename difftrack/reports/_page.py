"""Parts of the report page, and how they become one HTML file that loads nothing from elsewhere."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

__all__ = [
    "Figure",
    "Gallery",
    "GalleryClip",
    "Headline",
    "Maps",
    "Page",
    "Section",
    "Strip",
    "Strips",
    "Table",
    "render_page",
]


@dataclass(frozen=True, slots=True)
class Headline:
    """One number large, with a sentence saying what it means."""

    value: str
    label: str
    meaning: str


@dataclass(frozen=True, slots=True)
class Figure:
    """A drawing with its caption; `png` is the same drawing as a file beside the page."""

    kind: ClassVar[str] = "figure"
    title: str
    caption: str
    svg: str
    png: str
    wide: bool = True

    @property
    def markup(self) -> Markup:
        """The drawing as an element; it is our own output, so it is not escaped."""
        return Markup(self.svg)


@dataclass(frozen=True, slots=True)
class GalleryClip:
    """One clip of a gallery: its video and what to know about it."""

    name: str
    detail: str
    video: str
    aspect: str
    panels: Sequence[str]
    """Names of the pictures that the video shows side by side."""
    fps: float
    command: str = ""
    """Opens the clip in the explorer; empty where there are no descriptors of it."""


@dataclass(frozen=True, slots=True)
class Gallery:
    """Clips playing inline, each a row of panels that play in step."""

    kind: ClassVar[str] = "gallery"
    title: str
    caption: str
    clips: Sequence[GalleryClip]


@dataclass(frozen=True, slots=True)
class Strip:
    """One row of tiles with a label before it."""

    label: str
    image: str


@dataclass(frozen=True, slots=True)
class Strips:
    """Rows of tiles under shared column headings."""

    kind: ClassVar[str] = "strips"
    title: str
    caption: str
    columns: Sequence[str]
    rows: Sequence[Strip]
    groups: Sequence[tuple[str, int]] = ()
    """Headings above those of the columns: text, and over how many columns."""


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of text; the best value of a column may be marked."""

    kind: ClassVar[str] = "table"
    title: str
    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    best: frozenset[tuple[int, int]] = frozenset()
    """(row, column) of the cells printed bold."""
    folded: bool = False
    """Shown only after a click, for long tables."""
    groups: Sequence[tuple[str, int]] = ()
    """Headings above those of the columns: text, and over how many columns."""
    prose: bool = False
    """Cells hold words and codes, not numbers to compare."""


@dataclass(frozen=True, slots=True)
class Maps:
    """Tiles that follow what the reader chooses: a point, a layer, a step and a head."""

    kind: ClassVar[str] = "maps"
    title: str
    caption: str
    name: str
    """By which the script gives its maps."""
    script: str
    frames: str
    """Picture of all frames side by side."""
    points: Sequence[str]
    layers: Sequence[int]
    steps: Sequence[int]
    heads: Sequence[int]
    layer: int
    """What is shown first, as `step`."""
    step: int
    columns: Sequence[str]
    aspect: str
    truth: str
    """What the positions to compare with are called; empty where there are none."""
    command: str
    """Opens the clip in the explorer."""


Block = Figure | Gallery | Maps | Strips | Table


@dataclass(frozen=True, slots=True)
class Section:
    """One finding: a heading that states it, a sentence or two, and the pictures."""

    anchor: str
    short: str
    """Its name in the navigation."""
    title: str
    lead: str
    blocks: Sequence[Block]
    group: str = ""
    """Backbone that the section is about; empty for sections about all of them."""


@dataclass(frozen=True, slots=True)
class Page:
    """Everything that the report says."""

    title: str
    lead: str
    headlines: Sequence[Headline]
    sections: Sequence[Section]

    @property
    def groups(self) -> list[str]:
        """Backbones in order of appearance."""
        return list(dict.fromkeys(section.group for section in self.sections if section.group))


def render_page(page: Page) -> str:
    """Render the page with its style and script inside; figures are inline, videos and strips files beside it."""
    environment = Environment(
        loader=PackageLoader("difftrack.reports"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.jinja").render(page=page)
