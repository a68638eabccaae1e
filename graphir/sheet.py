"""Pictures that stand in somebody else's page, such as a notebook: each rule of style holds inside of its own picture only."""

import re
from html import escape

MOST_LINES = 60
"""Most lines of text that a notebook shows of one thing."""
_RULE = re.compile(r"([^{}]+)(\{[^{}]*\})")


def scoped(name: str, light: str, dark: str) -> str:
    """The rules for what is inside an element of a class; `dark` holds where the reader wants that."""
    inner = _within(name, dark)
    return f"{_within(name, light)}@media (prefers-color-scheme:dark){{{inner}}}"


def in_notebook(picture: str, text: str) -> str:
    """A picture, and what it tells in words, its first lines; without a picture the words alone."""
    lines = text.splitlines()
    more = [f"... and {len(lines) - MOST_LINES} more lines"] if len(lines) > MOST_LINES else []
    return f"{picture}<pre>{escape(chr(10).join([*lines[:MOST_LINES], *more]))}</pre>"


def _within(name: str, rules: str) -> str:
    def placed(found: re.Match[str]) -> str:
        return ",".join(f".{name} {each.strip()}" for each in found[1].split(",")) + found[2]

    return _RULE.sub(placed, rules)
