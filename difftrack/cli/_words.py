"""The verb words."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from difftrack.cli._app import verb
from difftrack.cli._stores import StoreArgument, _open_store

if TYPE_CHECKING:
    from difftrack.text_tokens import TextTokens


@verb
def words(
    store: StoreArgument,
    word: Annotated[
        list[str] | None,
        typer.Option(
            help="A word or phrase of the clip's prompt; may be repeated. Without a word, all words are listed."
        ),
    ] = None,
    clip: Annotated[str | None, typer.Option(help="Name of the clip; not needed if only one is stored.")] = None,
    step: Annotated[list[int] | None, typer.Option(help="This step only; may be repeated.")] = None,
    layer: Annotated[list[int] | None, typer.Option(help="This layer only; may be repeated.")] = None,
    head: Annotated[list[int] | None, typer.Option(help="This head only; may be repeated.")] = None,
    of_all: Annotated[
        bool, typer.Option("--of-all", help="Share of all attention, instead of the attention to the text.")
    ] = False,
    occurrence: Annotated[
        int | None, typer.Option(help="Only this occurrence of a repeated word, from 0.", min=0)
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the videos, the picture and the maps.")] = Path("words"),
    clips: Annotated[Path, typer.Option(help="Folder of the clips, to draw on their frames.")] = Path("data/clips"),
) -> None:
    """Show the part of a clip that a word of its prompt stands for: writes an overlay video, a picture, and npz."""
    from difftrack.datasets import read_clip
    from difftrack.reports import export_words
    from difftrack.workflows.match import only_clip
    from difftrack.workflows.words import stored_text, word_maps

    opened = _open_store(store)
    name = only_clip(opened, clip)
    if not word:
        _list_words(stored_text(opened, name))
        return
    found = {
        each: word_maps(
            opened,
            name,
            each,
            steps=step or "stored",
            layers=layer or "stored",
            heads=head or "stored",
            share_of="attention" if of_all else "text",
            occurrence=occurrence,
        )
        for each in dict.fromkeys(word)
    }
    first = next(iter(found.values()))
    maps = {each: array.values for each, array in found.items()}
    files = export_words(out, read_clip(clips, name), maps, first.frame.values.tolist())
    whole = "all attention" if of_all else "the attention to the text"
    for each, array in found.items():
        peak = array.values.max()
        typer.echo(f"{each}: tokens {' '.join(array.attrs['pieces'])}; at most {100 * peak:.2g} % of {whole}")
    for note in dict.fromkeys(note for array in found.values() for note in array.attrs["notes"]):
        typer.echo(f"note: {note}")
    for file in files:
        typer.echo(file)


def _list_words(text: "TextTokens") -> None:
    typer.echo(f"prompt: {text.prompt or '(empty)'}")
    for name, tokens in text.groups().items():
        typer.echo(f"{name}\t{len(tokens)} token{'s' if len(tokens) > 1 else ''}")
    if text.cut:
        typer.echo(f"cut off, so not read: {text.cut}")
