"""Every page of docs/ runs as its reader would run it, and says what its commands say, numbers aside."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Mapping
from pathlib import Path

import pytest
import stand_ins
from page_blocks import blocks, commands, hurried, written_anew
from pages import masked, put_models, run_page
from places import REPOSITORY

PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").rglob("*.md"))]
INSTALL = REPOSITORY / "docs" / "install.md"  # test_install.py runs it, in an environment of its own
RUN = [p for p in PAGES if p != INSTALL and blocks(p.read_text(encoding="utf-8"))]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """Stand-ins for the models that pages name."""
    texts = [page.read_text(encoding="utf-8") for page in PAGES]
    return stand_ins.made_once(tmp_path_factory, texts)


@pytest.mark.slow
@pytest.mark.parametrize("page", RUN, ids=lambda page: page.relative_to(REPOSITORY).as_posix())
def test_a_page_says_what_its_blocks_say(page: Path, models: Mapping[str, Path], tmp_path: Path) -> None:
    """On tiny models, in a hurry: words are as on the page, numbers are not."""
    text = hurried(page.read_text(encoding="utf-8"))
    if page.name == "README.md":  # its commands are about files of the reader's
        put_reviews(tmp_path)
    found = run_page(text, tmp_path, put_models(tmp_path, models))
    again = written_anew(text, iter(found))
    assert masked(again) == masked(text)


def put_reviews(folder: Path) -> None:
    """A table of 120 labelled texts, and texts without labels."""
    rows = [
        (f"a {w} film about a {n} with {k} words", ["good", "bad"][k % 2])
        for k, (w, n) in enumerate(itertools.product(["fine", "dull", "warm"], range(40)))
    ]
    with open(folder / "reviews.csv", "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *rows])
    (folder / "reviews.txt").write_text("".join(f"{text}, they say\n" for text, _ in rows * 5))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(REPOSITORY).as_posix())
def test_every_fence_of_a_page_is_a_block_that_is_run(page: Path) -> None:
    """What is neither run nor compared may only be the output or the file of something that is."""
    text = page.read_text(encoding="utf-8")
    found = blocks(text)
    assert text.count("```") == 2 * len(found), "a fence without a kind, or one that does not end"
    for block in found:
        assert block.kind in {"file", "python", "output", "console"}, f"line {block.line}: {block.kind}"


def test_it_takes_a_newcomer_no_more_than_ten_commands() -> None:
    page = (REPOSITORY / "docs" / "own_data.md").read_text(encoding="utf-8")
    assert 1 < len(commands(page)) <= 10


def test_a_page_written_anew_has_the_new_outputs_and_nothing_else_changed() -> None:
    page = "a\n```console\n$ one \\\n    --more\nold\n$ two\n```\nb\n```console\n$ three\n```\n"
    assert commands(page) == [("one \\\n    --more", "old\n"), ("two", ""), ("three", "")]
    anew = written_anew(page, iter(["1\n", "2\n2\n", ""]))
    assert anew == page.replace("old", "1").replace("$ two\n", "$ two\n2\n2\n")
    assert commands(written_anew(anew, iter(["old\n", "", ""]))) == commands(page)


PAGE = """
<!-- hurry 10**6 -> 3 -->
Two files.

`folder/one.py`

```python
print("one", 10**6)
```

    `two.toml`

    ```toml
    [a]

    b = 1
    ```

```python
x = 10**6
```

```python
print(x, "times")
```
```text
1 times
```

<!-- needs no_such_module -->
```python
print("never")
```
```text
never either
```

<!-- needs no_such_module -->
```console
$ python two.py
never
```

```console
$ python folder/one.py
one 1
```

```console
$ python folder/one.py
```
"""


def test_files_python_and_commands_run_in_their_order(tmp_path: Path) -> None:
    assert [block.kind for block in blocks(PAGE)] == [
        *("file", "file", "python", "python", "output", "python", "output"),
        *("console", "console", "console"),
    ]
    found = run_page(hurried(PAGE), tmp_path, {})
    assert found == ["3 times\n", "never either\n", "never\n", "one 3\n", ""]
    assert (tmp_path / "two.toml").read_text() == "[a]\n\nb = 1\n"
    assert written_anew(PAGE, iter(found)) == PAGE.replace("\n1 times", "\n3 times").replace(
        "\none 1", "\none 3"
    )


ONLINE = """
`push.py`

```python
import huggingface_hub

api = huggingface_hub.HfApi()
api.create_repo("you/page")
api.upload_file(path_or_fileobj=b"text", path_in_repo="a.txt", repo_id="you/page")
```

`pull.py`

```python
import huggingface_hub

print(open(huggingface_hub.hf_hub_download("you/page", "a.txt")).read())
```

<!-- needs hub -->
```console
$ hf auth login
$ python push.py
$ python pull.py
```
"""


@pytest.mark.slow
def test_scripts_that_need_a_hub_have_one_for_the_page(tmp_path: Path) -> None:
    found = run_page(ONLINE, tmp_path, {})
    assert [said.strip() for said in found] == ["", "", "text"]


def test_what_fails_is_told_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"(?s)at line 2:\n1 / 0\n.* line 3, .*ZeroDivisionError"):
        run_page("a\n```python\n1 / 0\n```\n", tmp_path, {})
    with pytest.raises(RuntimeError, match="exit 1"):
        run_page("```console\n$ python -c 'raise SystemExit(\"exit 1\")'\n```\n", tmp_path, {})
    with pytest.raises(ValueError, match="no 'a'"):
        hurried("<!-- hurry a -> b --> c")


def test_what_is_masked_is_numbers_and_lines_that_hang_on_them() -> None:
    by_chance = (
        "a\nno gain there: take more --steps, or a higher --lr\nthe text has 5 targets to read, of 9\nb"
    )
    assert masked(by_chance) == "a\nb"
    assert masked("took 12.5 s, -3e-05 of torch 2.13.0+cpu") == "took 0, 0 of torch 0"
    assert masked("1 h 20 min or 95 s of 3 seeds") == "0 or 0 of 0 seeds"
