"""A picture that is drawn again in place, also when the terminal's width changes."""

from __future__ import annotations

from collections.abc import Callable

from rich.console import Console, ConsoleOptions, ConsoleRenderable, RenderableType, RenderResult
from rich.control import Control
from rich.live import Live
from rich.segment import ControlType, Segment

from cnsdiff.display.screen import Screen


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
    """What ``draw`` returns when it comes to it; tells how long its lines came out."""

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
