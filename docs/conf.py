"""Configuration of Sphinx for the documentation site (`make docs`)."""

import re
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(Path(__file__).resolve().parent))

import _site  # noqa: E402 - it lies beside this file

project = "DiffTrack"
author = "The DiffTrack maintainers"
copyright = "The DiffTrack maintainers, Apache-2.0"
try:
    release = metadata.version("difftrack-video")
except metadata.PackageNotFoundError:
    release = re.findall(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), flags=re.MULTILINE)[0]

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton", "sphinx_design"]
exclude_patterns = ["_build", "_templates"]
templates_path = ["_templates"]
python_maximum_signature_line_length = 90

myst_heading_anchors = 4
myst_enable_extensions = ["colon_fence"]

default_role = "code"
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_custom_sections = [("Source", "Notes")]
copybutton_exclude = ".linenos, .gp, .go"

html_theme = "shibuya"
html_title = "DiffTrack"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sphinx = False
html_copy_source = False
html_theme_options = {
    "accent_color": "teal",
    "show_ai_links": False,
    "nav_links": [
        {"title": "Tutorials", "url": "tutorials/index"},
        {"title": "How-to", "url": "howto"},
        {"title": "Concepts", "url": "concepts"},
        {"title": "Reference", "url": "reference"},
        {"title": "Results", "url": "results"},
    ],
}


def setup(app: Any) -> None:  # noqa: ANN401 - Sphinx
    """Connect the functions of `_site.py`."""
    _site.connect(app)
