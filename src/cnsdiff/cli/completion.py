"""What a shell offers when a word is completed; nothing here imports PyTorch or Polars."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TypeAlias

from cnsdiff.cli import choices

#: Words that go on from what was typed so far, each with what it is.
Complete: TypeAlias = Callable[[str], list[tuple[str, str]]]


def among(names: Iterable[str] | Mapping[str, str], *, plugins: str | None = None) -> Complete:
    """One of these; with ``plugins``, also what other packages offer of that kind."""
    known = dict(names) if isinstance(names, Mapping) else dict.fromkeys(names, "")

    def complete(incomplete: str) -> list[tuple[str, str]]:
        found = dict(known)
        if plugins is not None:
            from cnsdiff.base.registry import installed

            found |= {p.name: "of a plugin" for p in installed(plugins) if p.name not in found}
        return _beginning(incomplete, found)

    return complete


def several(names: Iterable[str]) -> Complete:
    """Some of these, with commas between; each at most once."""
    known = list(names)

    def complete(incomplete: str) -> list[tuple[str, str]]:
        before, comma, _ = incomplete.rpartition(",")
        given = before.split(",")
        left = {f"{before}{comma}{name}": "" for name in known if name not in given}
        return _beginning(incomplete, left)

    return complete


def assignment(settings: Mapping[str, tuple[str, ...]]) -> Complete:
    """``KEY=``, and after that a word of those that the key takes."""

    def complete(incomplete: str) -> list[tuple[str, str]]:
        key, equals, _ = incomplete.partition("=")
        if equals:
            return _beginning(incomplete, {f"{key}={word}": "" for word in settings.get(key, ())})
        return _beginning(incomplete, {f"{name}=": "" for name in settings})

    return complete


def data_set(incomplete: str) -> list[tuple[str, str]]:
    """A name of the catalogue; the categories of Amazon once their family is typed."""
    family = "amazon-2023/"
    names = dict.fromkeys(choices.DATA_SETS, "")
    if incomplete.startswith(family):
        names = {f"{family}{name}": "" for name in choices.AMAZON}
    else:
        names[family] = "a category"
    return _beginning(incomplete, names)


def log(incomplete: str) -> list[tuple[str, str]]:
    """As :func:`data_set`, once something is typed: before that, the shell shows the files."""
    return data_set(incomplete) if incomplete else []


def setting(incomplete: str) -> list[tuple[str, str]]:
    """As :func:`assignment`, of the configuration."""
    return assignment(_settings())(incomplete)


def _settings() -> dict[str, tuple[str, ...]]:
    words = {"sampler.name": choices.SAMPLERS, "backbone.name": choices.BACKBONES}
    return choices.SETTINGS | words


def _beginning(incomplete: str, names: Mapping[str, str]) -> list[tuple[str, str]]:
    return [item for item in names.items() if item[0].startswith(incomplete)]


sampler = among(choices.SAMPLERS, plugins="cnsdiff.samplers")
backbone = among(choices.BACKBONES, plugins="cnsdiff.backbones")
scenario = among(choices.SCENARIOS, plugins="cnsdiff.scenarios")
preset = among(choices.PRESETS)
select_on = among(choices.SELECT_ON)
device = among(choices.DEVICES)
split = among(choices.SPLITS)
judge = among(choices.JUDGES)
shift = among(choices.SHIFTS)
file_format = among(choices.FORMATS)
delimiter = among(choices.DELIMITERS)
time_unit = among(choices.TIME_UNITS)
table_format = among(choices.TABLE_FORMATS)
route = among(choices.ROUTES)
scenario_setting = assignment(choices.SCENARIO_SETTINGS)
audited = several(choices.AUDITED)
section_or_key = several(
    [*dict.fromkeys(key.partition(".")[0] for key in choices.SETTINGS), *choices.SETTINGS]
)
