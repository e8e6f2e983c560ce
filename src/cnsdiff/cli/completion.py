"""The words that can be typed where: for help texts, and for a shell that completes one.

Nothing here imports PyTorch or Polars: the names are in ``choices.json``, which
``tools/choices.py`` writes from the registries and the configuration. Names of plugins are added
when they are needed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TypeAlias

#: Lists of words by their kind, and the settings with the words that each takes.
CHOICES = json.loads(Path(__file__).with_name("choices.json").read_text(encoding="utf-8"))
PRESETS = {
    "default": "ours",
    "paper": "the method as the paper describes it",
    "authors": "their published code, with its departures",
    "bpr-lightgcn": "LightGCN with BPR",
    "ssm-lightgcn": "in-batch softmax on cosine scores",
    "ips-lightgcn": "BPR weighted by inverse propensity",
    "pda-lightgcn": "popularity-deconfounded BPR",
}
SCENARIOS = {
    "popularity": "test items follow another popularity distribution",
    "temporal": "test on what happened after one moment",
    "exposure": "test on items that users did not choose to see",
    "hybrid": "what two scenarios hold out at once",
    "user-group": "test on users of a group or a cluster",
    "new-items": "test on items that train has never seen",
    "noise": "train is partly false or missing, test is clean",
}
_DEVICES = ("auto", "cpu", "cuda")

#: Words that go on from what was typed so far, each with what it is.
Complete: TypeAlias = Callable[[str], list[tuple[str, str]]]


def words(kind: str) -> str:
    """The words of a kind for a help text: ``"lightgcn, mf"``."""
    return ", ".join(CHOICES[kind])


def among(names: Iterable[str] | Mapping[str, str], *, plugins: str | None = None) -> Complete:
    """One of these; with ``plugins``, also what other packages offer of that kind."""
    known = dict(names) if isinstance(names, Mapping) else dict.fromkeys(names, "")

    def complete(incomplete: str) -> list[tuple[str, str]]:
        names = dict(known)
        if plugins is not None:
            from cnsdiff.base.registry import installed

            names |= {p.name: "of a plugin" for p in installed(plugins) if p.name not in names}
        return _beginning(incomplete, names)

    return complete


def several(names: Iterable[str]) -> Complete:
    """Some of these, with commas between; each at most once."""
    known = list(names)

    def complete(incomplete: str) -> list[tuple[str, str]]:
        before, comma, _ = incomplete.rpartition(",")
        typed = before.split(",")
        left = {f"{before}{comma}{name}": "" for name in known if name not in typed}
        return _beginning(incomplete, left)

    return complete


def assignment(settings: Mapping[str, Iterable[str]]) -> Complete:
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
    if incomplete.startswith(family):
        return _beginning(incomplete, dict.fromkeys(CHOICES["data_sets"], ""))
    names = [name for name in CHOICES["data_sets"] if not name.startswith(family)]
    return _beginning(incomplete, dict.fromkeys(names, "") | {family: "a category"})


def log(incomplete: str) -> list[tuple[str, str]]:
    """As :func:`data_set`, once something is typed: before that, the shell shows the files."""
    return data_set(incomplete) if incomplete else []


def _beginning(incomplete: str, names: Mapping[str, str]) -> list[tuple[str, str]]:
    return [item for item in names.items() if item[0].startswith(incomplete)]


sampler = among(CHOICES["samplers"], plugins="cnsdiff.samplers")
backbone = among(CHOICES["backbones"], plugins="cnsdiff.backbones")
scenario = among(SCENARIOS, plugins="cnsdiff.scenarios")
preset = among(PRESETS)
select_on = among(CHOICES["select_on"])
device = among(_DEVICES)
split = among(CHOICES["splits"])
judge = among(CHOICES["judges"])
shift = among(CHOICES["shifts"])
file_format = among(CHOICES["formats"])
delimiter = among(CHOICES["delimiters"])
time_unit = among(CHOICES["time_units"])
table_format = among(CHOICES["table_formats"])
route = among(CHOICES["routes"])
setting = assignment(CHOICES["settings"])
scenario_setting = assignment(CHOICES["scenario_settings"])
audited = several(CHOICES["audited"])
section_or_key = several(
    [*dict.fromkeys(key.partition(".")[0] for key in CHOICES["settings"]), *CHOICES["settings"]]
)
