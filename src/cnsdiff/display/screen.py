"""The one door to a terminal for what rich draws: strings are text, never markup or commands.

A :class:`Screen` shows them; a :class:`LivePicture` is drawn again in place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, ConsoleRenderable, RenderableType, RenderResult
from rich.control import Control
from rich.live import Live
from rich.segment import ControlType, Segment
from rich.text import Text

from cnsdiff.base.text import visible


class Screen(Console):
    """A console on which every string is shown to the letter, in tables and titles as well.

    Styles are given beside the text: ``print(text, style="bold")``, or :func:`literal`.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """A string is one line; lines of our own are given as :class:`rich.text.Text`."""
        return super().render_str(visible(text), **options)

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """Text that was made elsewhere comes through here, too."""
        for segment in super().render(renderable, options):
            if segment.control or segment.text.isprintable():
                yield segment
            else:
                yield Segment(visible(segment.text, keep="\n"), segment.style)


def literal(value: object, style: str = "") -> Text:
    """A value from outside in a style, shown to the letter."""
    return Text(visible(value), style=style)


class LivePicture(Live):
    """Draws what ``draw`` returns on standard error, ``per_second`` times a second."""

    def __init__(self, draw: Callable[[], RenderableType], *, per_second: float) -> None:
        self.draw = draw
        self._lengths: list[int] = []  # of the lines that are on the screen
        super().__init__(
            console=Screen(stderr=True),
            refresh_per_second=per_second,
            get_renderable=lambda: _Measured(lambda: self.draw(), self._remember),
            vertical_overflow="crop",
        )

    def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
        """A terminal made narrower has broken lines in two: take those away as well."""
        width = max(self.console.width, 1)
        broken = sum(max(length - 1, 0) // width for length in self._lengths)
        erase = ((ControlType.CURSOR_UP, 1), (ControlType.ERASE_IN_LINE, 2))
        shown = super().process_renderables(renderables)
        return [Control(*erase * broken), *shown] if broken else shown

    def _remember(self, lengths: list[int]) -> None:
        self._lengths = lengths


class _Measured:
    """Renders what ``draw`` returns, and reports the lengths of its lines."""

    def __init__(
        self, draw: Callable[[], RenderableType], tell: Callable[[list[int]], None]
    ) -> None:
        self.draw = draw
        self.tell = tell

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        lines = console.render_lines(self.draw(), options, pad=False)[: options.size.height]
        self.tell([Segment.get_line_length(line) for line in lines])
        for at, line in enumerate(lines):
            if at:
                yield Segment.line()
            yield from line
