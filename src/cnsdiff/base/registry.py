"""Finding a component by name: the built-in ones, and those that others register.

A package registers its own by an entry point whose object is the class, in the group
``cnsdiff.samplers``, ``cnsdiff.backbones`` or ``cnsdiff.scenarios``; a script by the decorator
:meth:`Registry.register`. A package is imported when one of its components is asked for, not
before: one that is broken troubles nobody else.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from typing import Generic, TypeVar

from cnsdiff.base.errors import CnsdiffWarning, ConfigError, did_you_mean
from cnsdiff.base.settings import shown

T = TypeVar("T")
_Class = TypeVar("_Class", bound=type)


@dataclass(frozen=True)
class Offer:
    """A component that a package offers by an entry point.

    Attributes
    ----------
    kind, name
        What it is, in the singular, and what it is called.
    package
        Whose, with the version: ``"shop-samplers 1.2"``.
    point
        Where it is.
    """

    kind: str
    name: str
    package: str
    point: EntryPoint


class Registry(Generic[T]):
    """Classes of one kind by name.

    Parameters
    ----------
    kind
        What they are, in the singular: ``"sampler"``.
    base
        The class that all of them derive from.
    """

    def __init__(self, kind: str, base: type[T]) -> None:
        self.kind = kind
        self.base = base
        self.group = f"cnsdiff.{kind}s"
        self._classes: dict[str, type[T]] = {}

    def register(self, name: str) -> Callable[[_Class], _Class]:
        """Class decorator that makes a class known by ``name``.

        Raises
        ------
        ConfigError
            Another class is called so, or it does not derive from the base of its kind.
        """

        def remember(class_: _Class) -> _Class:
            taken = self._classes.get(name)
            # A cell of a notebook, run again, defines the same class once more.
            if taken is not None and _place(taken) != _place(class_):
                raise ConfigError(
                    f"a {self.kind} is called {name!r} already ({'.'.join(_place(taken))}); choose "
                    "another name"
                )
            self._require(class_, f"the {self.kind} {name!r}")
            self._classes[name] = class_
            return class_

        return remember

    def names(self) -> tuple[str, ...]:
        """All names that can be asked for, sorted."""
        return tuple(sorted({offer.name for offer in self.offers()} | set(self._classes)))

    def offers(self) -> tuple[Offer, ...]:
        """Plugins of other packages, sorted by name; none of them is imported."""
        return tuple(
            Offer(self.kind, point.name, _package(point), point)
            for point in sorted(installed(self.group), key=lambda point: (point.name, point.value))
        )

    def find(self, name: str, beside: Iterable[str] = ()) -> type[T]:
        """The class of that name; a built-in one is never replaced by a package's.

        ``beside`` are other names that a message should offer.

        Raises
        ------
        ConfigError
            There is none, and the message names the nearest; or a package's cannot be loaded.
        """
        offers = [offer for offer in self.offers() if offer.name == name]
        if name in self._classes:
            own = self._classes[name]
            for offer in offers:
                if (offer.point.module, offer.point.attr) != _place(own):
                    warnings.warn(
                        f"the package {offer.package} offers a {self.kind} {name!r} too, and "
                        f"{'.'.join(_place(own))} is used; ask its authors for another name",
                        CnsdiffWarning,
                        stacklevel=2,
                    )
            return own
        packages = sorted({offer.package for offer in offers})
        if len(packages) > 1:
            raise ConfigError(
                f"a {self.kind} {name!r} is offered by the packages {' and '.join(packages)}; "
                "uninstall one of them"
            )
        if offers:
            return self.load(offers[0])
        names = sorted({*self.names(), *beside})
        raise ConfigError(
            f"no {self.kind} is called {shown(name)}{did_you_mean(name, names)}; available: "
            f"{', '.join(names)}"
        )

    def at_hand(self, name: str) -> bool:
        """Whether :meth:`find` finds a class of that name."""
        try:
            self.find(name)
        except ConfigError:
            return False
        return True

    def package_of(self, name: str) -> str | None:
        """The package, with its version, that a component comes from; ``None`` if no plugin's."""
        offered = (offer.package for offer in self.offers() if offer.name == name)
        return None if name in self._classes else next(offered, None)

    def load(self, offer: Offer) -> type[T]:
        """Import what a package offers.

        Raises
        ------
        ConfigError
            It cannot be imported, or is not what it should be.
        """
        what = f"the {self.kind} {offer.name!r} of the package {offer.package}"
        try:
            found: type[T] = offer.point.load()
        except Exception as error:  # whatever a stranger's code raises
            said = (str(error).splitlines() or [""])[0]
            raise ConfigError(
                f"{what} cannot be loaded ({type(error).__name__}: {said}); repair or uninstall "
                "that package"
            ) from error
        self._require(found, what)
        own_name = getattr(found, "name", offer.name)
        if isinstance(own_name, str) and own_name != offer.name:
            raise ConfigError(
                f"{what} calls itself {own_name!r}; its authors should use one name for both"
            )
        return found

    def _require(self, found: object, what: str) -> None:
        if not (isinstance(found, type) and issubclass(found, self.base)):
            base = f"{self.base.__module__.rpartition('.')[0]}.{self.base.__name__}"
            raise ConfigError(f"{what} is not a class derived from {base}; derive it from that")


def installed(group: str) -> tuple[EntryPoint, ...]:
    """The entry points of a group, of all packages that can be imported."""
    return _installed(group, tuple(sys.path))


@lru_cache(maxsize=16)
def _installed(group: str, path: tuple[str, ...]) -> tuple[EntryPoint, ...]:
    return tuple(entry_points(group=group))


def _package(point: EntryPoint) -> str:
    dist = point.dist
    return point.module if dist is None else f"{dist.name} {dist.version}"


def _place(class_: type) -> tuple[str, str]:
    return class_.__module__, class_.__qualname__
