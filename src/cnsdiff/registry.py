"""Finding a component by name: the built-in ones, and those that others register.

A package registers its own by an entry point whose object is the class, in the group
``cnsdiff.samplers``, ``cnsdiff.backbones`` or ``cnsdiff.scenarios``; a script by the decorator
:meth:`Registry.register`.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Generic, TypeVar

from cnsdiff.errors import ConfigError, did_you_mean

T = TypeVar("T")
_Class = TypeVar("_Class", bound=type)


class Registry(Generic[T]):
    """Classes of one kind by name.

    Parameters
    ----------
    kind
        What they are, in the singular: ``"sampler"``.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.group = f"cnsdiff.{kind}s"
        self._classes: dict[str, type[T]] = {}

    def register(self, name: str) -> Callable[[_Class], _Class]:
        """Class decorator that makes a class known by ``name``."""

        def remember(class_: _Class) -> _Class:
            self._classes[name] = class_
            return class_

        return remember

    def names(self) -> tuple[str, ...]:
        """All names that can be asked for, sorted."""
        plugged = {point.name for point in entry_points(group=self.group)}
        return tuple(sorted(plugged | set(self._classes)))

    def find(self, name: str) -> type[T]:
        """The class of that name.

        Raises
        ------
        ConfigError
            There is none; the message names the nearest.
        """
        if name in self._classes:
            return self._classes[name]
        for point in entry_points(group=self.group, name=name):
            plugged: type[T] = point.load()
            return plugged
        names = self.names()
        raise ConfigError(
            f"no {self.kind} is called {name!r}{did_you_mean(name, names)}; available: "
            f"{', '.join(names)}"
        )
