"""Write ``cnsdiff/cli/choices.json``: the words that help texts and completion offer.

A shell that completes a word cannot wait for PyTorch, so the names of the registries and the
settings of the configuration are written down beforehand. Run it after adding a component or a
setting; a test compares the file with what this would write.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel

import cnsdiff
from cnsdiff.audit.shifts import SHIFTS as AUDITED
from cnsdiff.backbones import BACKBONES
from cnsdiff.catalogue import ENTRIES, ROUTES
from cnsdiff.cli.commands.benchmark import FORMATS as TABLE_FORMATS
from cnsdiff.data.reading.dialects import NAMES
from cnsdiff.data.reading.readers import FORMATS
from cnsdiff.data.reading.times import TIME_UNITS
from cnsdiff.evaluation.anticipation import Anticipated
from cnsdiff.evaluation.judges import JudgeKind
from cnsdiff.evaluation.protocol import STANDARD_SPLITS
from cnsdiff.recommender.config import Config
from cnsdiff.recommender.presets import DEFAULT, PRESETS
from cnsdiff.references import CLOSED_FORM
from cnsdiff.samplers import SAMPLERS
from cnsdiff.shifts import SCENARIOS
from cnsdiff.simulate.settings import SHIFTS

FILE = Path(cnsdiff.__file__).parent / "cli" / "choices.json"


def built_in(registry: Any) -> list[str]:
    """The names that are not of a plugin."""
    return [name for name in registry.names() if registry.package_of(name) is None]


def words_of(annotation: Any) -> list[str]:
    """The words that a setting of this type takes; none for numbers and any text."""
    if annotation is bool:
        return ["true", "false"]
    if get_origin(annotation) is Literal:
        return list(map(str, get_args(annotation)))
    return list(dict.fromkeys(word for part in get_args(annotation) for word in words_of(part)))


def fields(model: type[BaseModel], prefix: str = "") -> dict[str, list[str]]:
    """The words of every setting by its dotted key, sections within included."""
    words: dict[str, list[str]] = {}
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            words |= fields(kind, f"{prefix}{name}.")
        else:
            words[f"{prefix}{name}"] = words_of(kind)
    return words


def settings() -> dict[str, list[str]]:
    """Settings of the configuration, those of all backbones and samplers included."""
    words = fields(Config)
    for section, registry in (("backbone", BACKBONES), ("sampler", SAMPLERS)):
        words.pop(section, None)  # a component may be of any kind
        for name in built_in(registry):
            for key, values in fields(registry.find(name).Config, f"{section}.").items():
                words[key] = list(dict.fromkeys((*words.get(key, ()), *values)))
        words[f"{section}.name"] = built_in(registry)
    for kind in CLOSED_FORM.values():
        for key, values in fields(kind.Config, "backbone.").items():
            words[key] = list(dict.fromkeys((*words.get(key, ()), *values)))
    words["backbone.name"] += CLOSED_FORM
    return dict(sorted(words.items()))


def scenario_settings() -> dict[str, list[str]]:
    """Settings of the scenarios; the value of an attribute is any text."""
    words: dict[str, list[str]] = {}
    for name in built_in(SCENARIOS):
        if name == "given":
            continue
        for key, field in SCENARIOS.find(name).model_fields.items():
            values = words_of(field.annotation) if key != "value" else []
            words[key] = list(dict.fromkeys((*words.get(key, ()), *values)))
    return dict(sorted(words.items()))


def choices() -> dict[str, Any]:
    """All that is written down."""
    default = PRESETS[DEFAULT]["sampler"]["name"]
    return {
        "samplers": sorted(built_in(SAMPLERS), key=lambda name: (name != default, name)),
        "backbones": [*built_in(BACKBONES), *CLOSED_FORM],
        "presets": list(PRESETS),
        "scenarios": [name for name in built_in(SCENARIOS) if name != "given"],
        "select_on": [
            *("auto", "valid", "rehearsal", "target-counts", "target-sample"),
            *get_args(Anticipated),
        ],
        "shifts": [*SHIFTS, "hybrid"],
        "audited": list(AUDITED),
        "splits": list(STANDARD_SPLITS),
        "judges": list(get_args(JudgeKind)),
        "formats": list(FORMATS),
        "time_units": list(TIME_UNITS),
        "delimiters": [name for name in NAMES if name.isalpha()],
        "table_formats": list(TABLE_FORMATS),
        "routes": list(ROUTES),
        "data_sets": list(ENTRIES),
        "settings": settings(),
        "scenario_settings": scenario_settings(),
    }


def text() -> str:
    """The file: a line for each list."""
    lists = re.compile(r"\[[^\]]*\]")
    return lists.sub(lambda m: json.dumps(json.loads(m[0])), json.dumps(choices(), indent=2)) + "\n"


if __name__ == "__main__":
    FILE.write_text(text(), encoding="utf-8")
