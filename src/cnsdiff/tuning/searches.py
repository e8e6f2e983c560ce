"""The settings that a study searches, and their spaces."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from cnsdiff.base.errors import ConfigError, did_you_mean
from cnsdiff.base.search_space import Space, declared_spaces, value_at
from cnsdiff.base.settings import Settings
from cnsdiff.base.text import parameter
from cnsdiff.recommender.config import Config, merge, nested
from cnsdiff.recommender.recommender import Recommender
from cnsdiff.tuning.study import Setting

_VALIDATION = "what validation measures has to be the same for all trials"
_MACHINE = "it says how to compute, not what"
#: Settings that no study searches, or the sections of such, and why.
_NEVER = {
    "backbone.name": "compare backbones with `cnsdiff benchmark`, which searches each alike",
    "sampler.name": "compare samplers with `cnsdiff benchmark`, which searches each alike",
    "seed": "the best of several seeds is luck",
    "device": _MACHINE,
    "threads": _MACHINE,
    "precision": _MACHINE,
    "evaluation": _VALIDATION,
    "training.dial": "with training.dial=auto every trial finds its own",
    "training.select_on": _VALIDATION,
    "training.horizon": _VALIDATION,
    "training.refit": _VALIDATION,
    "training.select_metric": _VALIDATION,
    "training.select_strength": _VALIDATION,
    "training.select_half_life": _VALIDATION,
    "training.select_slices": _VALIDATION,
    "training.select_slice_by": _VALIDATION,
    "training.select_drift": _VALIDATION,
}


class Variants:
    """Recommenders that differ in some settings from the one given.

    Parameters
    ----------
    recommender
        The one given; it is not changed.

    Attributes
    ----------
    config
        Its configuration. False negatives are not counted where a test split would judge them.
    """

    def __init__(self, recommender: Recommender) -> None:
        self._classes: list[type[Any] | None] = [
            choice if isinstance(choice, type) else None
            for choice in (recommender.backbone, recommender.sampler)
        ]
        self._source = recommender._source
        self.config: Config = recommender.resolve()
        if self.config.training.fhn_on != "valid":
            training = self.config.training.model_copy(update={"fhn_every": None})
            self.config = self.config.model_copy(update={"training": training})

    def recommender(self, setting: Mapping[str, Any]) -> Recommender:
        """The one with these values, by dotted key; not fitted, its configuration not checked."""
        tree = merge(self.config.model_dump(mode="json"), nested(setting))
        source = " ".join(f"{key}={value}" for key, value in setting.items()) or self._source
        return Recommender.from_config(tree, *self._classes, source=source)

    def resolve(self, setting: Mapping[str, Any]) -> Config:
        """Its configuration.

        Raises
        ------
        ConfigError
            A value is refused, or goes ill with another.
        """
        return self.recommender(setting).resolve()


@dataclass(frozen=True)
class Searches:
    """The search of a study.

    Attributes
    ----------
    spaces
        By the dotted key of the setting, sorted.
    given
        The value that each of them has in the configuration as given.
    left_out
        Of settings that might be expected here: why they are not, a sentence each.
    """

    spaces: dict[str, Space]
    given: Setting
    left_out: tuple[str, ...]


def leaves(tree: Mapping[str, Any], prefix: str = "") -> list[str]:
    """The dotted keys of the values in a nested mapping."""
    keys = []
    for key, value in tree.items():
        if isinstance(value, Mapping):
            keys += leaves(value, f"{prefix}{key}.")
        else:
            keys.append(f"{prefix}{key}")
    return keys


def choose_searches(
    variants: Variants,
    *,
    search: Mapping[str, Space] | None = None,
    only: Collection[str] | None = None,
    fixed: Collection[str] = (),
) -> Searches:
    """The search over the spaces that settings declare, and those asked for.

    A declared space is left aside where the setting is fixed, and where its value as given lies
    outside: a term that is switched off stays off. What ``search`` or ``only`` name by its full
    key is searched in any case.

    Parameters
    ----------
    variants
        Of the recommender as given.
    search
        Spaces by dotted key, in place of those declared or beside them.
    only
        Search these alone: dotted keys, or names of sections.
    fixed
        Dotted keys that are not searched.

    Raises
    ------
    ConfigError
        A key is unknown or cannot be searched, a value of a space is refused, or nothing is left.
    """
    config, search = variants.config, dict(search or {})
    for key in search:
        require_setting(f"search {key}", key, config)
    declared = declared_spaces(config)
    if config.closed_form:  # nothing but its own settings decides
        declared = {key: space for key, space in declared.items() if _within(key, "backbone")}
    everything = declared | search
    for name in only or ():
        if name not in everything and not any(_within(key, name) for key in everything):
            raise ConfigError(
                f"{parameter('only')} {name}: no such setting declares a space"
                f"{did_you_mean(name, everything)}; give one with {parameter('search', ...)}"
            )
    named = {*search, *(only or ())}
    spaces: dict[str, Space] = {}
    left_out = []
    for key in sorted(everything):
        space, value = everything[key], value_at(config, key)
        if only is not None and not any(_within(key, name) for name in (*only, *search)):
            continue
        if key not in named and key in fixed:
            continue
        if key not in named and value not in space:
            if value != _default(config, key):
                left_out.append(
                    f"{key} is not searched: {value!r} is outside {space}; "
                    f"search it with {parameter('search', ...)}"
                )
            continue
        try:
            for end in space.ends():  # all else as given
                variants.resolve({key: end})
        except ConfigError as error:
            if key in named:
                raise
            left_out.append(f"{key} is not searched: {error}")
        else:
            spaces[key] = space
    if not spaces:
        raise ConfigError(
            f"nothing is left to search; name a setting with {parameter('search', ...)}, or fix "
            f"fewer with {parameter('fixed', ...)}"
        )
    return Searches(spaces, {key: value_at(config, key) for key in spaces}, tuple(left_out))


def _within(key: str, name: str) -> bool:
    """Whether a setting has this name, or lies in the section of this name."""
    return key == name or key.startswith(f"{name}.")


def _default(config: Config, key: str) -> Any:
    *sections, name = key.split(".")
    owner = value_at(config, ".".join(sections)) if sections else config
    return type(owner).model_fields[name].default


def require_setting(place: str, key: str, config: Config) -> None:
    """Refuse a key that is no setting, or one that no study searches; ``place`` names it."""
    for name, reason in _NEVER.items():
        if _within(key, name):
            raise ConfigError(f"{place}: {name} is not searched; {reason}")
    if config.closed_form and not _within(key, "backbone"):
        raise ConfigError(
            f"{place}: {key} is not searched; {config.method!r} is solved in closed form, and only "
            "settings of backbone decide"
        )
    known = list(_keys(config))
    if key not in known:
        raise ConfigError(
            f"{place}: the configuration has no setting {key!r}{did_you_mean(key, known)}"
        )


def _keys(settings: Settings, prefix: str = "") -> Iterator[str]:
    for name in type(settings).model_fields:
        value = getattr(settings, name)
        if isinstance(value, Settings):
            yield from _keys(value, f"{prefix}{name}.")
        else:
            yield prefix + name
