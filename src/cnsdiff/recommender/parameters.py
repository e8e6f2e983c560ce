"""The estimator's parameters: read, set, cloned and shown as scikit-learn does it.

Nothing here needs scikit-learn; what has ``sklearn`` in its name is for it to call.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Self

from cnsdiff.backbones import Backbone
from cnsdiff.base.errors import CnsdiffError, ConfigError, did_you_mean
from cnsdiff.base.settings import Settings
from cnsdiff.recommender.config import Config, component_settings, merge, resolve_config
from cnsdiff.recommender.run_directory import as_options
from cnsdiff.samplers import Sampler

if TYPE_CHECKING:
    from sklearn.utils import Tags

#: Sections of the configuration whose name is an argument of its own; their settings are in
#: ``backbone_options`` and ``sampler_options``.
_COMPONENTS = ("backbone", "sampler")
_SEPARATOR = "__"
_DEFAULT = "default"


class Estimator:
    """The arguments of :class:`cnsdiff.Recommender`, and the configuration they make.

    The constructor keeps what it is given, as it is; nothing is looked at before it is needed.
    """

    def __init__(
        self,
        backbone: str | type[Backbone] | None = None,
        sampler: str | type[Sampler] | None = None,
        *,
        preset: str = _DEFAULT,
        source: str = "Recommender",
        **config: Any,
    ) -> None:
        self.backbone = backbone
        self.sampler = sampler
        self.preset = preset
        self.source = source
        self.config = config

    def resolve(self, *, select_on: str | None = None) -> Config:
        """The validated configuration, as ``fit`` will use it.

        Raises
        ------
        ConfigError
            A name or a value is wrong.
        """
        overrides = self._overrides()
        if select_on is not None:
            overrides = merge(overrides, {"training": {"select_on": select_on}})
        return resolve_config(overrides, **self._where())

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The parameters by name.

        Parameters
        ----------
        deep
            Also every setting of the resolved configuration: ``training__epochs``,
            ``objective__contrastive__weight``, ``sampler_options__exponent`` and so on. Without
            it, the constructor's arguments as they were given.

        Raises
        ------
        ConfigError
            ``deep``, and the configuration is wrong.
        """
        given = {
            "backbone": self.backbone,
            "sampler": self.sampler,
            "preset": self.preset,
            "source": self.source,
            **self.config,
        }
        if not deep:
            return given
        return {**dict(_leaves(self._options())), **given}

    def set_params(self, **params: Any) -> Self:
        """Set parameters by the names that :meth:`get_params` gives; returns the estimator.

        A whole section, as ``training={"epochs": 3}``, is replaced; ``training__epochs=3``
        changes one setting and keeps the others. Values are validated by ``fit``, as those of
        the constructor are. A fitted model stays as it is until it is fitted again.

        Raises
        ------
        ConfigError
            There is no such parameter (the message names the nearest), or no such component or
            preset; nothing is set.
        """
        one = {name: value for name, value in params.items() if _SEPARATOR not in name}
        changed = Estimator(**{**self.get_params(deep=False), **one})
        known = ["backbone", "sampler", "preset", "source", *changed._names()]
        for name in params:
            if name not in known:
                raise ConfigError(
                    f"{type(self).__name__} has no parameter {name!r}{did_you_mean(name, known)}; "
                    "get_params() has them all"
                )
        # Sections before what is in them.
        for name in sorted(params.keys() - one.keys(), key=lambda name: name.count(_SEPARATOR)):
            changed.config = _put(changed.config, name.split(_SEPARATOR), params[name])
        self.__dict__.update(vars(changed))
        return self

    def clone(self) -> Self:
        """An unfitted copy with the same parameters, as :func:`sklearn.base.clone` makes it."""
        return type(self)(**copy.deepcopy(self.get_params(deep=False)))

    def __repr__(self) -> str:
        """The call that makes an equal one, without what is the default anyway."""
        choices = {section: self._choice(section) for section in _COMPONENTS}
        shown = {name: choice for name, choice in choices.items() if choice is not None}
        if self.preset != _DEFAULT:
            shown["preset"] = self.preset
        try:
            usual = Estimator(choices["backbone"], choices["sampler"], preset=self.preset)
            shown |= _difference(self._options(), usual._options())
        except CnsdiffError:
            shown |= self.config
        said = (
            f"{name}={value.__name__ if isinstance(value, type) else repr(value)}"
            for name, value in shown.items()
        )
        return f"{type(self).__name__}({', '.join(said)})"

    def __sklearn_clone__(self) -> Self:
        return self.clone()

    def __sklearn_tags__(self) -> Tags:
        from sklearn.utils import Tags, TargetTags

        return Tags(estimator_type=None, target_tags=TargetTags(required=False))

    def _given_classes(self) -> dict[str, type[Any]]:
        """Components given as classes and not by name."""
        choices = {name: getattr(self, name) for name in _COMPONENTS}
        return {name: choice for name, choice in choices.items() if isinstance(choice, type)}

    def _overrides(self) -> dict[str, Any]:
        """The tree of settings that the arguments write on top of the preset."""
        overrides = dict(self.config)
        for section in _COMPONENTS:
            options = overrides.pop(f"{section}_options", None) or {}
            if not isinstance(options, Mapping):
                raise ConfigError(
                    f"{self.source}: {section} must be a section with keys, not {options!r}; a "
                    f"{section} is chosen by its name"
                )
            choice = getattr(self, section)
            if choice is not None:
                name = choice.__name__ if isinstance(choice, type) else choice
                options = {**options, "name": name}
            if options:
                overrides = merge(overrides, {section: options})
        return overrides

    def _where(self) -> dict[str, Any]:
        """What else the configuration is resolved with."""
        classes = self._given_classes()
        given = {f"{section}s": {found.__name__: found} for section, found in classes.items()}
        return {"preset": self.preset, "source": self.source, **given}

    def _options(self) -> dict[str, Any]:
        """The resolved settings as arguments of the constructor, without the components' names."""
        options = as_options(self.resolve().model_dump())
        for section in _COMPONENTS:
            del options[f"{section}_options"]["name"]
        return options

    def _choice(self, section: str) -> str | type[Any] | None:
        """The component asked for, by its argument or as a name among its options."""
        options = self.config.get(f"{section}_options")
        named = options.get("name") if isinstance(options, Mapping) else None
        return named if getattr(self, section) is None else getattr(self, section)

    def _names(self) -> Iterator[str]:
        """Of all settings that there are, and their sections."""
        sections = component_settings(self._overrides(), **self._where())
        for name, field in Config.model_fields.items():
            settings = sections.get(name) or field.annotation
            argument = f"{name}_options" if name in sections else name
            yield argument
            if isinstance(settings, type) and issubclass(settings, Settings):
                for inner in _settings(settings):
                    if not (name in sections and inner == "name"):
                        yield f"{argument}{_SEPARATOR}{inner}"


def _settings(section: type[Settings]) -> Iterator[str]:
    for name, field in section.model_fields.items():
        yield name
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, Settings):
            yield from (f"{name}{_SEPARATOR}{other}" for other in _settings(inner))


def _leaves(tree: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from ((f"{name}{_SEPARATOR}{key}", leaf) for key, leaf in _leaves(value))
        else:
            yield name, value


def _put(tree: Mapping[str, Any], path: list[str], value: Any) -> dict[str, Any]:
    """A copy of ``tree`` with one setting changed."""
    name, *rest = path
    if rest:
        below = tree.get(name)
        value = _put(below if isinstance(below, Mapping) else {}, rest, value)
    return {**tree, name: value}


def _difference(tree: Mapping[str, Any], usual: Mapping[str, Any]) -> dict[str, Any]:
    """What ``tree`` has that ``usual`` has not, or otherwise."""
    found: dict[str, Any] = {}
    for name, value in tree.items():
        other = usual.get(name)
        if isinstance(value, Mapping) and isinstance(other, Mapping):
            if inner := _difference(value, other):
                found[name] = inner
        elif name not in usual or value != other:
            found[name] = value
    return found
