"""How wide a text is on a terminal, and what of it fits.

Terminals give most characters one cell, those of East Asian scripts and emoji two, and accents that
stand on the character before them none (Unicode Standard Annex 11).
"""

from unicodedata import category, east_asian_width


def width(text: str) -> int:
    """The cells that a printable text takes."""
    return len(text) if text.isascii() else sum(map(_cells, text))


def cut(text: str, cells: int) -> str:
    """The text, or as much of it as fits with an ellipsis."""
    if width(text) <= cells:
        return text
    left = cells - 1
    for place, each in enumerate(text):
        left -= _cells(each)
        if left < 0:
            return f"{text[:place]}…" if cells > 0 else ""
    return text


def pad(text: str, cells: int) -> str:
    """The text with blanks behind it, up to so many cells."""
    return text + " " * (cells - width(text))


def _cells(each: str) -> int:
    if category(each) in {"Mn", "Me"}:
        return 0
    return 2 if east_asian_width(each) in {"W", "F"} else 1
