"""Style sheets of pictures that stand in somebody else's page: each rule holds inside of its own picture only."""

import re

_RULE = re.compile(r"([^{}]+)(\{[^{}]*\})")


def scoped(name: str, light: str, dark: str) -> str:
    """The rules for what is inside an element of a class; `dark` holds where the reader wants that."""
    inner = _within(name, dark)
    return f"{_within(name, light)}@media (prefers-color-scheme:dark){{{inner}}}"


def _within(name: str, rules: str) -> str:
    def placed(found: re.Match[str]) -> str:
        return ",".join(f".{name} {each.strip()}" for each in found[1].split(",")) + found[2]

    return _RULE.sub(placed, rules)
