"""The page of settings is what the declarations say."""

from pathlib import Path

from train.reference.page import page

PAGE = Path(__file__).parents[2] / "docs" / "settings.md"


def test_the_page_is_current() -> None:
    assert PAGE.read_text() == page(), "run `python -m train.reference out=docs/settings.md`"


def test_what_it_says() -> None:
    text = page()
    assert "| `lr` | `float` in (0, 10] | `0.002` | Peak learning rate. |" in text
    assert r"`gumbel \| reinforce`" in text and "| `weights` | `str` | required |" in text
    assert "| `--fps` | TARGET |" in text
