"""Colours of plans by kind of step, light and dark: fill and border. Borders have a contrast of 3 and text of 4.5 or more."""

from graphir.sheet import scoped

LIGHT = {
    "map": ("#dbe9f9", "#2f6db3"),
    "combine": ("#fdf0c4", "#9a7200"),
    "single": ("#e0f0de", "#3f8f3a"),
    "part0": ("#e0f0de", "#3f8f3a"),
    "part1": ("#f6e0ee", "#a8397f"),
    "part2": ("#d9f0f0", "#1f8487"),
    "part3": ("#ebe3f8", "#6c4bb4"),
    "part4": ("#fbe5dc", "#b4532a"),
    "part5": ("#e9ecd2", "#707a1c"),
    "leaf": ("#f2f2f4", "#6b7280"),
}
DARK = {
    "map": ("#1d3a5c", "#7fb2ea"),
    "combine": ("#4a3c0d", "#e3c15a"),
    "single": ("#1f3f2a", "#7cc47a"),
    "part0": ("#1f3f2a", "#7cc47a"),
    "part1": ("#4a2340", "#e48cc2"),
    "part2": ("#123f42", "#66c7ca"),
    "part3": ("#33265a", "#b49bf0"),
    "part4": ("#4d2817", "#f09a70"),
    "part5": ("#373b14", "#c3cf62"),
    "leaf": ("#2b323d", "#9ca3af"),
}


def _colours(palette: dict[str, tuple[str, str]], derivative: str) -> str:
    """Fill of a kind's boxes, a faint one of its panels, and its borders."""
    rules = [f".{kind}{{fill:{fill};stroke:{line}}}" for kind, (fill, line) in palette.items()]
    return "".join(rules) + f".vjp{{stroke:{derivative};stroke-dasharray:5 3;stroke-width:1.8}}"


STYLE = scoped(
    "gf-plan",
    ".back{fill:#ffffff}.panel{fill-opacity:.28;stroke-width:1}.box{stroke-width:1.3}.edge{fill:none;stroke:#7a828e;"
    "stroke-width:1.1}.value{fill:none;stroke:#4b5563;stroke-width:1.7}text{font:12px sans-serif;text-anchor:middle;"
    "fill:#1b1f24}.type{font-size:9.5px;fill:#4b5563}.out{font-weight:bold}.left{text-anchor:start}.head{font-weight:bold;"
    "text-anchor:start;stroke:#ffffff;stroke-width:3px;paint-order:stroke}.bytes{font-size:10px;fill:#374151;stroke:#ffffff;"
    "stroke-width:3px;paint-order:stroke}.now{stroke-width:3}.share{text-anchor:end;font-size:11px}"
    + _colours(LIGHT, "#c2571a"),
    ".back{fill:#11161d}text{fill:#e6e9ee}.type{fill:#b6bec9}.edge{stroke:#8b95a3}"
    ".value{stroke:#c3cad4}.bytes{fill:#d5dae1;stroke:#11161d}.head{stroke:#11161d}" + _colours(DARK, "#f59e66"),
)
"""The style sheet."""
