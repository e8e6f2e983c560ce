"""The estimator's parameters: read, set, cloned and shown as scikit-learn does it.

Nothing here needs scikit-learn; what has ``sklearn`` in its name is for it to call.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from inspect import signature
from typing import TYPE_CHECKING, Any, Self

from cnsdiff.backbones import Backbone
from cnsdiff.base.errors import CnsdiffError, ConfigError, did_you_mean
from cnsdiff.base.settings import Settings, shown
from cnsdiff.recommender.config import Config, Tree, component_settings, merge, resolve_config
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

    The constructor keeps what it is given, as it is; no value is looked at before it is needed.
    """

    #: What messages call the configuration: the file that it comes from, say.
    _source = "Recommender"

    def __init__(
        self,
        backbone: str | type[Backbone] | None = None,
        sampler: str | type[Sampler] | None = None,
        *,
        preset: str = _DEFAULT,
        seed: int | None = None,
        device: str | None = None,
        precision: str | None = None,
        threads: int | None = None,
        training: Mapping[str, Any] | None = None,
        objective: Mapping[str, Any] | None = None,
        evaluation: Mapping[str, Any] | None = None,
        stack: Mapping[str, Any] | None = None,
        content: Mapping[str, Any] | None = None,
        backbone_options: Mapping[str, Any] | None = None,
        sampler_options: Mapping[str, Any] | None = None,
        **unknown: Any,
    ) -> None:
        for name in unknown:
            hint = did_you_mean(name, _ARGUMENTS) or f"; known: {', '.join(_ARGUMENTS)}"
            raise ConfigError(f"{type(self).__name__}: unknown parameter {name!r}{hint}")
        self.backbone = backbone
        self.sampler = sampler
        self.preset = preset
        self.seed = seed
        self.device = device
        self.precision = precision
        self.threads = threads
        self.training = training
        self.objective = objective
        self.evaluation = evaluation
        self.stack = stack
        self.content = content
        self.backbone_options = backbone_options
        self.sampler_options = sampler_options

    @classmethod
    def from_config(
        cls,
        tree: Mapping[str, Any],
        backbone: str | type[Backbone] | None = None,
        sampler: str | type[Sampler] | None = None,
        *,
        preset: str = _DEFAULT,
        source: str = "the configuration",
    ) -> Self:
        """The estimator that sections of a configuration ask for, as a YAML file has them.

        Parameters
        ----------
        tree
            Sections and settings, of the names that :class:`cnsdiff.recommender.config.Config` has.
        backbone, sampler
            In place of those that ``tree`` names.
        preset
            What is underneath.
        source
            Where the configuration comes from, for messages.

        Raises
        ------
        ConfigError
            There is no such section or setting, or it has no value.
        """
        known = list(Config.model_fields)
        for key, value in tree.items():
            if key not in known:
                hint = did_you_mean(key, known) or f"; known keys: {', '.join(known)}"
                raise ConfigError(f"{source}: unknown key {shown(key)}{hint}")
            if value is None and key not in (*_COMPONENTS, "threads"):
                raise ConfigError(f"{source}: {key} has no value; give it one, or leave it out")
        options = {key: value for key, value in tree.items() if key not in _COMPONENTS}
        choices: dict[str, Any] = {"backbone": backbone, "sampler": sampler}
        for section, choice in choices.items():
            settings = tree.get(section) or {}
            if isinstance(settings, Mapping) and choice is None:
                settings = dict(settings)
                choices[section] = settings.pop("name", None)
            options[f"{section}_options"] = settings or None
        estimator = cls(**choices, preset=preset, **options)
        estimator._source = source
        return estimator

    def resolve(self, *, select_on: str | None = None, refit: bool | None = None) -> Config:
        """The validated configuration, as ``fit`` will use it.

        Raises
        ------
        ConfigError
            A name or a value is wrong.
        """
        overrides = self._overrides()
        given = {"select_on": select_on, "refit": refit}
        training = {name: value for name, value in given.items() if value is not None}
        if training:
            overrides = merge(overrides, {"training": training})
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
        arguments = {name: getattr(self, name) for name in _ARGUMENTS}
        if not deep:
            return arguments
        # Settings that are no section of their own are known resolved.
        given = {name: value for name, value in arguments.items() if value is not None}
        return {**arguments, **dict(_leaves(self._options())), **given}

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
        plain = {name: value for name, value in params.items() if name in _ARGUMENTS}
        changed = Estimator(**{**self.get_params(deep=False), **plain})
        changed._source = self._source
        known = [*_ARGUMENTS, *changed._names()]
        for name in params:
            if name not in known:
                raise ConfigError(
                    f"{type(self).__name__} has no parameter {name!r}{did_you_mean(name, known)}; "
                    "get_params() has them all"
                )
        # Sections before what is in them.
        for name in sorted(params.keys() - plain.keys(), key=lambda name: name.count(_SEPARATOR)):
            section, *path = name.split(_SEPARATOR)
            setattr(changed, section, _put(getattr(changed, section), path, params[name]))
        self.__dict__.update(vars(changed))
        return self

    def clone(self) -> Self:
        """An unfitted copy with the same parameters, as :func:`sklearn.base.clone` makes it."""
        return type(self)(**copy.deepcopy(self.get_params(deep=False)))

    def __repr__(self) -> str:
        """The call that makes an equal one, without what is the default anyway."""
        choices = {section: self._choice(section) for section in _COMPONENTS}
        arguments = {name: choice for name, choice in choices.items() if choice is not None}
        if self.preset != _DEFAULT:
            arguments["preset"] = self.preset
        try:
            usual = Estimator(choices["backbone"], choices["sampler"], preset=self.preset)
            arguments |= _difference(self._options(), usual._options())
        except CnsdiffError:
            arguments |= self._settings()
        words = (
            f"{name}={value.__name__ if isinstance(value, type) else repr(value)}"
            for name, value in arguments.items()
        )
        return f"{type(self).__name__}({', '.join(words)})"

    def __sklearn_clone__(self) -> Self:
        return self.clone()

    def __sklearn_tags__(self) -> Tags:
        from sklearn.utils import Tags, TargetTags

        return Tags(estimator_type=None, target_tags=TargetTags(required=False))

    def _given_classes(self) -> dict[str, type[Any]]:
        """Components given as classes and not by name."""
        choices = {name: getattr(self, name) for name in _COMPONENTS}
        return {name: choice for name, choice in choices.items() if isinstance(choice, type)}

    def _overrides(self) -> Tree:
        """The tree of settings that the arguments write on top of the preset."""
        overrides = self._settings()
        for section in _COMPONENTS:
            options = overrides.pop(f"{section}_options", None) or {}
            if not isinstance(options, Mapping):
                raise ConfigError(
                    f"{self._source}: {section} must be a section with keys, not {options!r}; a "
                    f"{section} is chosen by its name"
                )
            choice = getattr(self, section)
            if choice is not None:
                name = choice.__name__ if isinstance(choice, type) else choice
                options = {**options, "name": name}
            if options:
                overrides = merge(overrides, {section: options})
        return overrides

    def _settings(self) -> Tree:
        """The arguments that set something, but for components and preset."""
        settings = {name: getattr(self, name) for name in _ARGUMENTS[3:]}
        return {name: value for name, value in settings.items() if value is not None}

    def _where(self) -> dict[str, Any]:
        """Other arguments that the configuration is resolved with."""
        classes = self._given_classes()
        own = {f"{section}s": {kind.__name__: kind} for section, kind in classes.items()}
        return {"preset": self.preset, "source": self._source, **own}

    def _options(self) -> Tree:
        """The resolved settings as arguments of the constructor, without the components' names."""
        options = self.resolve().model_dump()
        for section in _COMPONENTS:
            settings = options.pop(section, {})  # a model in closed form has no sampler
            options[f"{section}_options"] = {k: v for k, v in settings.items() if k != "name"}
        return options

    def _choice(self, section: str) -> str | type[Any] | None:
        """The component asked for, by its argument or as a name among its options."""
        options = getattr(self, f"{section}_options")
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
                for inner in _inner_settings(settings):
                    if not (name in sections and inner == "name"):
                        yield f"{argument}{_SEPARATOR}{inner}"


#: The constructor's, in its order.
_ARGUMENTS = tuple(signature(Estimator).parameters)[:-1]


def _inner_settings(section: type[Settings]) -> Iterator[str]:
    for name, field in section.model_fields.items():
        yield name
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, Settings):
            yield from (f"{name}{_SEPARATOR}{other}" for other in _inner_settings(inner))


def _leaves(tree: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from ((f"{name}{_SEPARATOR}{key}", leaf) for key, leaf in _leaves(value))
        else:
            yield name, value


def _put(tree: Mapping[str, Any] | None, path: list[str], value: Any) -> Tree:
    """A copy of ``tree`` with one setting changed."""
    tree = tree if isinstance(tree, Mapping) else {}
    name, *rest = path
    if rest:
        below = tree.get(name)
        value = _put(below, rest, value)
    return {**tree, name: value}


def _difference(tree: Mapping[str, Any], usual: Mapping[str, Any]) -> Tree:
    """The settings in which ``tree`` differs from ``usual``."""
    difference: Tree = {}
    for name, value in tree.items():
        other = usual.get(name)
        if isinstance(value, Mapping) and isinstance(other, Mapping):
            if inner := _difference(value, other):
                difference[name] = inner
        elif name not in usual or value != other:
            difference[name] = value
    return difference
