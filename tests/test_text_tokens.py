"""Which word each text token stands for: tokenisations worked by hand."""

import json

import pytest

from difftrack.text_tokens import PADDING, PUNCTUATION, SPECIAL, TextTokens, WordError


def tokens_of(prompt: str, *pieces: str, num_tokens: int, end: bool = True) -> TextTokens:
    """Cut a prompt into pieces, in order, with blanks between them. `end` adds an end-of-sentence token."""
    offsets, at = [], 0
    for piece in pieces:
        start = prompt.index(piece, at)
        at = start + len(piece)
        offsets.append((start, at))
    special = [False] * len(offsets)
    if end:
        offsets, special = [*offsets, (0, 0)], [*special, True]
    return TextTokens.of_offsets(prompt, offsets, special, num_tokens=num_tokens)


def test_parts_of_words_belong_to_their_word_and_padding_and_the_end_to_none() -> None:
    found = tokens_of("a skateboarder", "a", " skate", "board", "er", num_tokens=7)
    assert found.labels() == ["a", "skate", "board", "er", SPECIAL, PADDING, PADDING]
    assert found.groups() == {"a": (0,), "skateboarder": (1, 2, 3), SPECIAL: (4,), PADDING: (5, 6)}
    (word,) = found.find("Skateboarder")
    assert (word.text, word.start, word.end, word.tokens, word.whole) == ("skateboarder", 2, 14, (1, 2, 3), True)
    assert found.cut == ""


def test_a_word_that_is_repeated_is_found_each_time_or_the_one_that_is_asked_for() -> None:
    found = tokens_of("red disc and blue disc", "red", "disc", "and", "blue", "disc", num_tokens=6)
    assert [word.tokens for word in found.find("disc")] == [(1,), (4,)]
    assert [word.tokens for word in found.find("disc", occurrence=1)] == [(4,)]
    assert found.groups()["disc"] == (1, 4)
    with pytest.raises(WordError, match="'disc' occurs 2 times in the prompt; there is no occurrence 2"):
        found.find("disc", occurrence=2)


def test_phrases_go_over_blanks_and_a_part_of_a_word_is_no_word() -> None:
    found = tokens_of("two  red discs", "two", "red", "disc", "s", num_tokens=5)
    assert [word.tokens for word in found.find("two red")] == [(0, 1)]
    assert [word.tokens for word in found.find("red discs")] == [(1, 2, 3)]
    with pytest.raises(WordError, match="'disc' is not in the prompt, whose words are two, red, discs; did you mean"):
        found.find("disc")
    with pytest.raises(WordError, match="the word is empty"):
        found.find(" ")


def test_punctuation_stands_alone_and_a_token_that_holds_both_is_its_words() -> None:
    found = tokens_of("a dog, running.", "a", " dog,", " running", ".", num_tokens=5)
    assert found.groups() == {"a": (0,), "dog": (1,), "running": (2,), PUNCTUATION: (3,), SPECIAL: (4,)}
    assert [word.text for word in found.words] == ["a", "dog", "running"]


def test_a_token_that_straddles_two_words_is_the_one_that_has_more_of_it() -> None:
    found = tokens_of("in fact so", "in", " fact s", "o", num_tokens=3, end=False)
    assert found.groups() == {"in": (0,), "fact": (1,), "so": (2,)}
    assert [word.tokens for word in found.find("so")] == [(2,)]
    assert [word.tokens for word in found.find("fact")] == [(1,)]


def test_hyphens_and_apostrophes_keep_a_word_together() -> None:
    found = tokens_of(
        "a close-up of the dog's ear", "a", "close", "-", "up", "of", "the", "dog", "'s", "ear", num_tokens=9
    )
    assert [word.text for word in found.words] == ["a", "close-up", "of", "the", "dog's", "ear"]
    assert [word.tokens for word in found.find("dog's")] == [(6, 7)]
    assert [word.tokens for word in found.find("dog")] == [(6,)]  # also by itself


def test_scripts_without_blanks_are_searched_for_parts() -> None:
    found = tokens_of("一只狗在跑", "一", "只", "狗", "在", "跑", num_tokens=6)
    assert [word.tokens for word in found.find("狗")] == [(2,)]
    assert [word.tokens for word in found.find("狗在")] == [(2, 3)]


def test_a_prompt_that_was_cut_says_what_was_not_read() -> None:
    found = tokens_of("red disc and blue square", "red", "disc", "and", num_tokens=4)
    assert (found.read_to, found.cut) == (12, "blue square")
    assert [(word.text, word.tokens) for word in found.words] == [
        ("red", (0,)),
        ("disc", (1,)),
        ("and", (2,)),
        ("blue", ()),
        ("square", ()),
    ]
    with pytest.raises(WordError, match="'square' was not read: the backbone cut the prompt after 4 text tokens"):
        found.find("square")


def test_a_word_that_was_cut_inside_has_the_tokens_that_were_read() -> None:
    found = tokens_of("red skateboard", "red", "skate", num_tokens=3)
    (word,) = found.find("skateboard")
    assert (word.tokens, word.whole) == ((1,), False)
    assert found.cut == "board"


def test_a_template_around_the_prompt_is_special() -> None:
    text, prompt = "<s>Describe: red disc<e>", "red disc"
    offsets = [(0, 3), (3, 12), (13, 16), (16, 21), (21, 24)]
    found = TextTokens.of_offsets(prompt, offsets, [False] * 5, num_tokens=6, text=text, start=text.index(prompt))
    assert found.labels() == [SPECIAL, SPECIAL, "red", "disc", SPECIAL, PADDING]
    assert found.find("disc")[0].tokens == (3,)


def test_special_tokens_may_be_put_in_front_and_padding_taken_away() -> None:
    found = tokens_of("red disc", "red", "disc", num_tokens=5)
    moved = found.after_special(2, 7)
    assert moved.labels() == [SPECIAL, SPECIAL, "red", "disc", SPECIAL, PADDING, PADDING]
    assert found.cut_to(3).labels() == ["red", "disc", SPECIAL]


def test_the_empty_prompt_has_no_words_and_says_the_way_out() -> None:
    found = tokens_of("", num_tokens=3)
    assert found.groups() == {SPECIAL: (0,), PADDING: (1, 2)}
    with pytest.raises(WordError, match=r"not in the prompt, which is empty: extract with the clip's own prompt"):
        found.find("disc")


def test_json_holds_all_of_it() -> None:
    found = tokens_of("red, disc and blue", "red", ",", "disc", "and", num_tokens=6)
    again = TextTokens.from_json(json.loads(json.dumps(found.to_json())))
    assert again == found


@pytest.mark.parametrize(
    "change",
    [
        {"roles": "tx"},
        {"roles": 3},
        {"spans": {"0": [0, 99]}},
        {"spans": {"0": [2, 1]}},
        {"spans": {"7": [0, 1]}},
        {"spans": {"0": [0.5, 1]}},
        {"spans": {"3": [0, 1]}},  # of a special token
        {"spans": [1]},
        {"read_to": -1},
        {"read_to": "4"},
        {"prompt": None},
    ],
)
def test_a_record_that_contradicts_itself_is_refused(change: dict[str, object]) -> None:
    record = tokens_of("red disc up", "red", "disc", "up", num_tokens=5).to_json()
    with pytest.raises(ValueError):  # noqa: PT011 - each says something else
        TextTokens.from_json(record | change)
