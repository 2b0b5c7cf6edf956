"""The README's examples run as printed, each on its own, and print what they say."""

import contextlib
import io
import re
from pathlib import Path

import pytest

README = Path(__file__).parents[1] / "README.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```", README.read_text(encoding="utf-8"), re.M | re.S)


def promised(block):
    """The comments behind calls of print, one per line of output; ... stands for anything."""
    return re.findall(r"^print\(.*\) +# (.*)$", block, re.M)


def test_there_is_an_example_for_each_of_three_users():
    assert len(BLOCKS) == 3


def test_pictures_are_there_and_small():
    pictures = re.findall(r"^!\[.+\]\((.+)\)$", README.read_text(encoding="utf-8"), re.M)
    assert len(pictures) == 3
    for picture in pictures:
        assert 1000 < (README.parent / picture).stat().st_size <= 150_000


@pytest.mark.parametrize("block", BLOCKS, ids=["scientist", "scipy", "diffusion"])
def test_example_prints_what_it_says(block):
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(block, str(README), "exec"), {})
    lines = printed.getvalue().splitlines()
    assert len(lines) == len(promised(block)) > 0
    for line, promise in zip(lines, promised(block), strict=True):
        pattern = ".*".join(map(re.escape, promise.split("...")))
        assert re.fullmatch(pattern, line), f"printed {line!r}, promised {promise!r}"
