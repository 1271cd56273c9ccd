"""The section on words: the part of the first example that each word of its prompt stands for."""

from collections.abc import Sequence
from functools import partial
from itertools import takewhile
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from difftrack.media import write_image
from difftrack.reports._examples import ExampleClip, ExampleView
from difftrack.reports._figure_cache import Drawings
from difftrack.reports._names import explore_command
from difftrack.reports._page import Section, Strip, Strips
from difftrack.reports._strips import frame_strip, spread_indices
from difftrack.reports._word_overlay import word_strip
from difftrack.text_tokens import TextTokens, WordError

__all__ = ["words_section"]

_MOST_PHRASES, _MOST_TILES, _MOST_LAYERS = 4, 5, 8
_PHRASE_WORDS = 3
_ARTICLES = frozenset({"a", "an", "the"})
_LAYERS_OF_WORDS = {"cogvideox-mini": (3,)}
"""Layers and steps with a backbone's words, as measured by `python -m benchmarks.words` (docs/words.md)."""
_MOST_SCORES = 2e9
"""Maximum number of query-key scores computed for the section: about ten seconds of one core."""
_FUNCTION_WORDS = frozenset(
    {"a", "an", "and", "are", "as", "at", "by", "for", "from", "in", "into", "is", "it", "its", "of", "on", "or"}
    | {"over", "that", "the", "to", "was", "with"}
)


def words_section(backbone: str, examples: Sequence[ExampleClip], drawings: Drawings) -> list[Section]:
    """Draw word maps of the first example whose store has words; empty if none has.

    Args:
        backbone: Backbone of the attention.
        examples: Clips.
        drawings: Receives the pictures.
    """
    example = next(
        (each for each in examples if each.text is not None and drawn_phrases(each.text) and _fits(each)), None
    )
    if example is None or example.text is None:
        return []
    words = drawn_phrases(example.text)
    shown = spread_indices(len(example.frames), most=_MOST_TILES)
    steps, layers = (sorted(set(labels)) for labels in zip(*example.units, strict=True))
    step = steps[len(steps) // 2]
    most = max(1, min(_MOST_LAYERS, int(_MOST_SCORES // _scores_of_layer(example, len(shown)))))
    known = [layer for layer in _LAYERS_OF_WORDS.get(backbone, ()) if layer in layers]
    chosen = known or [layers[index] for index in spread_indices(len(layers), most=most)]
    name = f"{backbone}-{example.clip.name}-word"
    images = [f"strips/{name}{number}.png" for number in range(1 + len(words))]
    drawings.draw(partial(_write_word_strips, example, words, chosen, step, shown), *images)
    numbers = f"layer{'s' if len(chosen) > 1 else ''} {', '.join(map(str, chosen))}"
    of_layers = "all layers" if chosen == layers else numbers
    block = Strips(
        title=f"{example.clip.name}.",
        caption=f"\u201c{example.text.prompt}\u201d. Bright: tokens that pay much of their attention to the text to "
        f"these words, each row scaled to its own maximum. Mean over all heads of {of_layers} at step {step}. "
        f"{explore_command(example.clip.name)} shows every layer and head.",
        columns=[f"frame {example.frames[index]}" for index in shown],
        rows=[Strip(label, image) for label, image in zip(("clip", *words), images, strict=True)],
    )
    lead = (
        "The attention that each video token pays to words of the prompt. Some heads read the words that name what a "
        "token shows, and many read none."
    )
    return [
        Section(
            anchor=f"{backbone}-words",
            short="Words",
            title="Where the words of the prompt are",
            lead=lead,
            blocks=[block],
            group=backbone,
        )
    ]


def drawn_phrases(text: TextTokens) -> list[str]:
    """Find what a prompt names: up to three words after each article, as far as the next function word.

    Without an article: all words except function words. Each once, and only words that the model read.
    """
    words = [word.text.lower() for word in text.words if word.tokens]
    phrases = []
    for at, word in enumerate(words):
        if word in _ARTICLES:
            following = takewhile(lambda each: each not in _FUNCTION_WORDS, words[at + 1 : at + 1 + _PHRASE_WORDS])
            phrases.append(" ".join(following))
    named = [phrase for phrase in dict.fromkeys(phrases) if phrase and _is_there(text, phrase)]
    return (named or [word for word in dict.fromkeys(words) if word not in _FUNCTION_WORDS])[:_MOST_PHRASES]


def _is_there(text: TextTokens, phrase: str) -> bool:
    """Return whether only blanks separate the words."""
    try:
        return bool(text.find(phrase))
    except WordError:
        return False


def _fits(example: ExampleClip) -> bool:
    return "cross_query" in example.kinds or {"query", "key"} <= set(example.kinds)


def _scores_of_layer(example: ExampleClip, num_frames: int) -> float:
    height, width = example.size
    tokens = (height / example.stride_px) * (width / example.stride_px)
    keys = len(example.text_mask) + (0 if "cross_query" in example.kinds else tokens * len(example.frames))
    return len(example.heads) * tokens * num_frames * keys


def _write_word_strips(
    example: ExampleClip, words: Sequence[str], layers: Sequence[int], step: int, shown: Sequence[int], *paths: Path
) -> None:
    pictures = example.clip.frames[[example.frames[index] for index in shown]]
    write_image(paths[0], frame_strip(pictures))
    maps = _maps(example, words, layers, step, shown)
    for of_word, path in zip(maps, paths[1:], strict=True):
        write_image(path, word_strip(pictures, of_word / max(float(of_word.max()), 1e-12)))


def _maps(
    example: ExampleClip, words: Sequence[str], layers: Sequence[int], step: int, shown: Sequence[int]
) -> Float32[np.ndarray, "word tile row col"]:
    """Compute shares of the attention to the text, mean over heads and layers."""
    import torch  # a page with cached strips needs no torch

    from difftrack.correspondence import text_attention

    text = example.text
    if text is None:
        raise ValueError(f"the words of the text tokens of {example.clip.name} are unknown")
    tokens = [sorted({token for each in text.find(word) for token in each.tokens}) for word in words]
    wanted = [*tokens, range(len(text))]
    crosses = "cross_query" in example.kinds
    mask = torch.tensor(example.text_mask)
    of_layers = []
    for layer in layers:
        view = ExampleView(layer, step, None)

        def read(kind: str, view: ExampleView = view) -> torch.Tensor:
            return torch.from_numpy(example.read(kind, view))

        query = read("cross_query" if crosses else "query")[:, list(shown)]
        key = None if crosses else read("key")
        of_layers.append(text_attention(query, read("text_key"), mask, wanted, key=key).mean(dim=0).numpy())
    mean = np.mean(of_layers, axis=0)
    return np.asarray(mean[:-1] / np.maximum(mean[-1:], 1e-30), np.float32)
