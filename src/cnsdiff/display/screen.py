"""The one door to a terminal for what rich draws: strings are text, never markup or commands."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from cnsdiff.base.visible import visible


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
