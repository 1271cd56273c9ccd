"""What the documentation site adds to Sphinx: plain docstrings, links out of docs/, and the command line's help."""

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]

PAGES = {
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "README.md": "index.md",
    "data/backbones/cogvideox-mini/README.md": "model_card.md",
    "examples/extension/README.md": "extending.md",
    "examples/extension": "extending.md",
}
"""Files of the repository that a page of the site shows."""


def connect(app: Any) -> None:  # noqa: ANN401 - Sphinx
    """Let Sphinx call the functions below."""
    app.connect("autodoc-process-docstring", _before_napoleon, priority=400)
    app.connect("autodoc-process-docstring", _after_napoleon, priority=600)
    app.connect("source-read", _rewrite)
    app.connect("build-finished", _loads_nothing_from_elsewhere)
    app.connect("include-read", lambda app, relative, parent, content: _rewrite(app, parent, content, relative))


_LOADED = re.compile(
    r"""<(?:script|img|iframe|source)\b[^>]*\bsrc=["'](?:https?:)?//[^"']+|<link\b[^>]*\bhref=["'](?:https?:)?//[^"']+"""
)


def foreign_loads(page: str) -> list[str]:
    """Name what a page of HTML loads from another host: scripts, styles, fonts, pictures."""
    return [found[0] for found in _LOADED.finditer(page)]


def _loads_nothing_from_elsewhere(app: Any, error: Exception | None) -> None:  # noqa: ANN401
    """Fail the build if a page loads something from another host."""
    from sphinx.errors import SphinxError

    for page in () if error else sorted(Path(app.outdir).rglob("*.html")):
        if loads := foreign_loads(page.read_text(encoding="utf-8")):
            raise SphinxError(f"{page.name} loads from another host: {loads[0]}")


# Docstrings are plain text with `backticks` and sections of Google's; they are not written as reStructuredText.

_SECTION = re.compile(r"(Args|Arguments|Returns|Raises|Yields|Attributes|Source|Examples?|Notes?|Warnings?):\s*$")
_ATTRIBUTES = ("attribute", "data", "property")
_kept: dict[str, list[str]] = {}


def _before_napoleon(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:  # noqa: ANN401
    lines[:] = plain_docstring(lines)
    _kept[name] = list(lines)


def _after_napoleon(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:  # noqa: ANN401
    """Undo what napoleon does to an attribute: it reads its text as `type: description` if there is a colon."""
    if what in _ATTRIBUTES:
        lines[:] = _kept[name]


def plain_docstring(lines: Iterable[str]) -> list[str]:
    """Turn a docstring into reStructuredText that says the same.

    Args:
        lines: A docstring, dedented. Outside of a section an indented block is code.
    """
    blocks: list[tuple[bool, list[str]]] = [(False, [])]
    in_section = before_blank = False
    for line in lines:
        indented = line.startswith("    ")
        if line.strip() and not indented:
            in_section = bool(_SECTION.match(line))
        is_code = indented and not in_section and (before_blank or blocks[-1][0])
        in_paragraph = not before_blank and blocks[-1][1] and not re.match(r"\s|[-*] ", blocks[-1][1][-1])
        if indented and not in_section and not is_code and in_paragraph:
            line = line.strip()  # a paragraph whose lines are not aligned
        if line.strip():
            if is_code != blocks[-1][0]:
                blocks.append((is_code, ["::", ""] if is_code else []))
            before_blank = False
        else:
            before_blank = True
        blocks[-1][1].append(line)
    result: list[str] = []
    for is_code, block in blocks:
        result += [*block, ""] if is_code else _escaped("\n".join(block)).split("\n")
    return result


def _escaped(text: str) -> str:
    """Make `x` a literal, and escape what would be markup."""
    parts = re.split(r"(`+[^`]+`+)", text)  # literals are at odd places
    for place, part in enumerate(parts):
        if place % 2:
            parts[place] = f"``{' '.join(part.strip('`').split())}``"
        else:
            parts[place] = re.sub(r"(?<!^)(?<!\n)([*|\\]|(?<=\w)_(?=\W|$))", r"\\\1", part)
    return "".join(parts)


# Links from a page to a file outside of docs/ lead to the page that shows the file, or are text.

_LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(([^)#\s]+)(#[^)\s]*)?\)")


def _rewrite(app: Any, docname: str, content: list[str], relative: Any = None) -> None:  # noqa: ANN401
    """Rewrite the links of a page, or of a file that a page includes."""
    page = Path(app.srcdir) / f"{docname}.md"
    source = page if relative is None else (Path(app.srcdir) / relative).resolve()
    text = content[0] if relative is None else re.sub(r"\A---\n.*?\n---\n", "", content[0], flags=re.DOTALL)
    if COMMANDS in text:
        text = text.replace(COMMANDS, command_reference())
    content[0] = rewritten(text, source=source, page=page)


def rewritten(text: str, *, source: Path, page: Path) -> str:
    """Rewrite the relative links of a file so that they hold on the page that shows it.

    Args:
        text: Markdown.
        source: The file that the text stands in.
        page: The page of the site.
    """
    docs = ROOT / "docs"

    def link(found: re.Match[str]) -> str:
        title, target, anchor = found[1], found[2], found[3] or ""
        if re.match(r"[a-z]+:", target):
            return found[0]
        file = (source.parent / target).resolve()
        if not file.is_relative_to(ROOT):
            return found[0]
        inside = str(file.relative_to(ROOT))
        if inside in PAGES:
            file = docs / PAGES[inside]
        elif not file.is_relative_to(docs) or file.is_dir():
            return title if title.startswith("`") else f"{title} (`{inside}`)"
        return f"[{title}]({_relative(file, page.parent)}{anchor})"

    return _LINK.sub(link, text)


def _relative(file: Path, folder: Path) -> str:
    return Path(os.path.relpath(file, folder)).as_posix()


COMMANDS = "<!-- every verb of the command line -->"
"""A directive that shows the command line."""


def command_reference() -> str:
    """Every verb of the command line with its arguments and options, as Markdown."""
    import typer.main

    from difftrack.cli import app

    root = typer.main.get_command(app)
    return "\n\n".join(_verb(name, command) for name, command in sorted(root.commands.items()))  # type: ignore[attr-defined]


def _verb(name: str, command: Any) -> str:  # noqa: ANN401 - click
    arguments = [param for param in command.params if param.param_type_name == "argument"]
    options = [param for param in command.params if param.param_type_name == "option" and not param.hidden]
    usage = " ".join(_placeholder(param) for param in arguments)
    lines = [
        f"## {name}",
        "",
        f"```\ndifftrack {name} {usage} [OPTIONS]\n```".replace("  ", " "),
        "",
        _prose(command.help),
    ]
    rows = [(f"`{_placeholder(param)}`", _prose(param.help)) for param in arguments if param.help]
    for param in options:
        names = ", ".join(f"`{opt}`" for opt in (*param.opts, *param.secondary_opts))
        default = param.default
        shown = (
            f" Default: `{default}`."
            if isinstance(default, str | int | float) and not isinstance(default, bool)
            else ""
        )
        rows.append((names, _prose(param.help) + shown))
    if rows:
        lines += ["", "| | |", "| --- | --- |", *(f"| {left} | {right} |" for left, right in rows)]
    return "\n".join(lines)


def _placeholder(argument: Any) -> str:  # noqa: ANN401 - click
    name = argument.name.upper()
    return name if argument.required else f"[{name}]"


def _prose(text: str | None) -> str:
    """The first paragraph of a help text, on one line, without characters that Markdown reads as markup."""
    words = " ".join((text or "").split("\n\n")[0].split())
    return re.sub(r"([|<*\[])", r"\\\1", words)
