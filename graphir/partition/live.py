"""The picture of a plan while its job runs: steps that the reader has opened, the time each took, and which are under way."""

from collections.abc import Callable, Collection, Mapping
from html import escape
from typing import TYPE_CHECKING

from graphir import draw
from graphir.partition.picture import PAD, Panel, Picture

if TYPE_CHECKING:
    from graphir.partition.plan import Plan

MOST_NODES = 800
"""Most nodes that are drawn at one time."""


class LivePicture(Picture):
    """opened: numbers of the steps whose nodes are shown, by default those that fit. address: where a step is opened or folded."""

    role = "group"  # an image has no links inside

    def __init__(self, plan: "Plan", opened: Collection[int] | None, address: Callable[[frozenset[int]], str]) -> None:
        self._opened, self._address = opened, address
        self.shares: Mapping[int, float] = {}
        self.now: Collection[int] = ()
        super().__init__(plan)

    def openable(self, number: int) -> bool:
        """Whether the nodes of a step can be shown."""
        step = self.plan.steps[number]
        return step.kind != "combine" and len(step.program) <= draw.LARGEST and len(self.panels) == len(self.plan.steps)

    def toggled(self, number: int) -> str:
        """Where the step is folded if it is open, and open if it is folded."""
        return self._address(frozenset(self.open) ^ {number})

    def live(self, shares: Mapping[int, float], now: Collection[int]) -> str:
        """The document; shares of the time by step so far, and the steps under way."""
        self.shares, self.now = shares, now
        return self.svg()

    def _find_open(self) -> set[int]:
        if self._opened is None:
            return super()._find_open()
        found, total = set[int](), 0
        for number in sorted(self._opened):
            fits = 0 <= number < len(self.plan.steps) and self.plan.steps[number].kind != "combine"
            if fits and len(self.plan.steps[number].program) <= draw.LARGEST:
                total += len(self.plan.steps[number].program)
                if total <= MOST_NODES:
                    found.add(number)
        return found

    def _frame(self, panel: Panel) -> str:
        drawn = super()._frame(panel)
        if set(panel.numbers) & set(self.now):
            drawn = drawn.replace('class="panel ', 'class="panel now ')
        return drawn

    def _head(self, panel: Panel, line: str) -> str:
        """With a link that opens or folds the step, and the part of the time that it took."""
        text = super()._head(panel, line)
        number = panel.numbers[0]
        if len(panel.numbers) == 1 and self.openable(number):
            sign, what = ("▾", "Fold") if number in self.open else ("▸", "Open")
            label = escape(f"{what} step {number}, {line}")
            text = (
                f'<a href="{escape(self.toggled(number))}" aria-label="{label}">{text.replace(">", f">{sign} ", 1)}</a>'
            )
        share = sum(self.shares.get(k, 0.0) for k in panel.numbers)
        if share >= 0.005:
            at = f'x="{panel.x + panel.width - PAD:.1f}" y="{panel.y + 17:.1f}"'
            text += f'<text class="share" {at}>{share:.0%}</text>'
        return text
