"""Parts of the report page, rendered as one HTML file that loads nothing from the network."""

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
    """One large number, with a sentence that explains it."""

    value: str
    label: str
    meaning: str


@dataclass(frozen=True, slots=True)
class Figure:
    """A drawing with its caption; `png` is the same drawing as a file next to the page."""

    kind: ClassVar[str] = "figure"
    title: str
    caption: str
    svg: str
    png: str
    wide: bool = True

    @property
    def markup(self) -> Markup:
        """The drawing as an element; not escaped, because it is our own output."""
        return Markup(self.svg)


@dataclass(frozen=True, slots=True)
class GalleryClip:
    """One clip of a gallery: its video and caption."""

    name: str
    detail: str
    video: str
    aspect: str
    panels: Sequence[str]
    """Names of the pictures that the video shows side by side."""
    fps: float
    command: str = ""
    """Command that opens the clip in the explorer; empty without descriptors."""


@dataclass(frozen=True, slots=True)
class Gallery:
    """Clips playing inline, each a row of panels that play in sync."""

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
    """Headings above the column headings: text, and the number of columns that it spans."""


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
    """Headings above the column headings: text, and the number of columns that it spans."""
    prose: bool = False
    """Cells hold words and codes, not numbers to compare."""


@dataclass(frozen=True, slots=True)
class Maps:
    """Tiles that follow the reader's choice of point, layer, step and head."""

    kind: ClassVar[str] = "maps"
    title: str
    caption: str
    name: str
    """Name under which the script provides its maps."""
    script: str
    frames: str
    """Picture of all frames side by side."""
    points: Sequence[str]
    layers: Sequence[int]
    steps: Sequence[int]
    heads: Sequence[int]
    layer: int
    """Initial choice, such as `step`."""
    step: int
    columns: Sequence[str]
    aspect: str
    truth: str
    """Name of the reference positions; empty if there are none."""
    command: str
    """Command that opens the clip in the explorer."""


Block = Figure | Gallery | Maps | Strips | Table


@dataclass(frozen=True, slots=True)
class Section:
    """One finding: a heading that states it, a sentence or two, and the pictures."""

    anchor: str
    short: str
    """Name in the navigation."""
    title: str
    lead: str
    blocks: Sequence[Block]
    group: str = ""
    """Backbone of the section; empty for sections about all backbones."""


@dataclass(frozen=True, slots=True)
class Page:
    """Contents of the report."""

    title: str
    lead: str
    headlines: Sequence[Headline]
    sections: Sequence[Section]

    @property
    def groups(self) -> list[str]:
        """Backbones in order of appearance."""
        return list(dict.fromkeys(section.group for section in self.sections if section.group))


def render_page(page: Page) -> str:
    """Render the page with inline style, script and figures; videos and strips are separate files."""
    environment = Environment(
        loader=PackageLoader("difftrack.reports"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.jinja").render(page=page)
