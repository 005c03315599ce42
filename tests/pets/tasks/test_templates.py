"""Templates: what they name, where the answer stands, what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridges import BadInput
from pets.tasks.templates import Template

WORDS = st.text(st.characters(codec="utf-8", exclude_characters="{}\\"), max_size=12)
NAMES = st.sampled_from(["text", "premise", "The text", "täglich", "a-b"])


@given(WORDS, NAMES, WORDS, NAMES, WORDS)
def test_it_is_rendered_as_python_would(one: str, first: str, two: str, second: str, three: str) -> None:
    values = {"text": "A", "premise": "{B}", "The text": "C d", "täglich": "E", "a-b": "\\n"}
    template = Template.parse(f"{one}{{{first}}}{two}{{mask}}{three}{{{second}}}")
    before, after = template.render(values)
    assert before == f"{one}{values[first]}{two}".rstrip(" ")
    assert after == f"{three}{values[second]}"
    assert template.fields == tuple(dict.fromkeys([first, second]))
    assert template.spaced == two.endswith(" ")


def test_line_ends_and_braces_may_be_typed() -> None:
    template = Template.parse(r"Review: {text}\nSentiment:{answer}")
    assert template.render({"text": "x"}) == ("Review: x\nSentiment:", "")
    assert not template.spaced
    assert template.context == "\nSentiment:"
    assert Template.parse("{{json}} {text} {mask}").render({"text": "x"})[0] == "{json} x"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "expected texts, columns in braces"),
        (3, "expected texts, columns in braces"),
        ("{text} It was", "no place for the answer"),
        ("{mask} {text} {answer}", "2 places for the answer"),
        ("It was {mask}.", "names no column"),
        ("{text {mask}", "a brace itself is written twice"),
        ("{text} } {mask}", "a brace itself is written twice"),
        ("{text!r} {mask}", "is no column by its name alone"),
        ("{text:10} {mask}", "is no column by its name alone"),
        ("{} {mask}", "is no column by its name alone"),
    ],
)
def test_what_is_no_template_is_refused(text: object, words: str) -> None:
    with pytest.raises(BadInput, match=words) as caught:
        Template.parse(text)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_columns_that_are_not_there_are_named() -> None:
    template = Template.parse("{text} and {other}: {mask}")
    template.check(["other", "text", "label"])
    with pytest.raises(BadInput, match="there is no column 'other'; there are 'text', 'label'"):
        template.check(["text", "label"])
