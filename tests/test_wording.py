"""Words of messages agree with their numbers."""

from difftrack.wording import counted, listed


def test_a_noun_agrees_with_its_number() -> None:
    assert [counted(number, "clip") for number in (0, 1, 2)] == ["0 clips", "1 clip", "2 clips"]
    assert [counted(number, "entry", "entries") for number in (1, 3)] == ["1 entry", "3 entries"]


def test_items_are_listed_as_in_a_sentence() -> None:
    assert [listed(list("abc"[:count])) for count in (1, 2, 3)] == ["a", "a and b", "a, b and c"]
