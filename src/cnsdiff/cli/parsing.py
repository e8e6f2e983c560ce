"""Options whose text has a form of its own, read into what the library takes."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cnsdiff.base.errors import ConfigError
from cnsdiff.base.search_space import Space, takes_whole_numbers_only
from cnsdiff.data.interactions import LEAST_WEIGHT, MOST_WEIGHT, is_weight
from cnsdiff.display.wording import listed
from cnsdiff.recommender.config import (
    Config,
    NotYaml,
    merge,
    nested,
    parse_yaml,
    read_config_file,
)

if TYPE_CHECKING:
    from cnsdiff.recommender.recommender import Recommender

_DURATION = re.compile(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s)?")
#: Seconds; in less nothing can be trained.
_LEAST, _MOST = 5.0, 365 * 24 * 3600.0


def parse_budget(text: str) -> float:
    """``90s``, ``10m``, ``1h30m`` in seconds.

    Raises
    ------
    ConfigError
        It is not a duration, or too short or too long to train in.
    """
    plain = re.sub(r"\s", "", text).lower()
    match = _DURATION.fullmatch(plain)
    if not plain or match is None:
        mend = (
            f"write {plain}s for seconds or {plain}m for minutes"
            if plain.isdigit()
            else "write it as 90s, 10m or 1h30m"
        )
        raise ConfigError(f"--budget {text}: is not a duration; {mend}")
    hours, minutes, seconds = (float(part or 0) for part in match.groups())
    total = 3600 * hours + 60 * minutes + seconds
    if total < _LEAST:
        raise ConfigError(f"--budget {text}: is too short to train anything; give 30s or more")
    if total > _MOST:
        raise ConfigError(f"--budget {text[:40]}: is over a year; give less")
    return total


def parse_events(text: str | None) -> dict[str, float] | None:
    """``purchase=1,cart=.5`` as weights by type of event; without one, the weight is 1.

    Raises
    ------
    ConfigError
        A weight is no number, or too small or large for one, or an event is named twice.
    """
    if text is None:
        return None
    weights: dict[str, float] = {}
    for part in text.split(","):
        event, _, number = part.rpartition("=") if "=" in part else (part, "", "1")
        event = event.strip()
        if not event:
            raise ConfigError(
                f"--events {text!r}: names no event in one place; write it as purchase=1,cart=0.5"
            )
        if event in weights:
            raise ConfigError(f"--events {text}: names {event!r} twice; give each event once")
        try:
            weights[event] = float(number)
        except ValueError:
            weights[event] = math.nan
        if not is_weight(weights[event]):
            raise ConfigError(
                f"--events {text}: {number.strip()!r} is no weight of {event!r}; give 0, or a "
                f"number from {LEAST_WEIGHT:f} to {MOST_WEIGHT:,.0f}, as in purchase=1,cart=0.5"
            )
    return weights


def parse_features(option: str, texts: Sequence[str] | None) -> Path | dict[str, Path] | None:
    """Files of features as ``--item-features [NAME=]FILE`` gives them, one or several.

    The first may go without a name, which leaves those of its columns as they are; others are
    called after their file.

    Raises
    ------
    ConfigError
        Two have one name, or there is no file after the sign.
    """
    files: dict[str, Path] = {}
    for text in texts or ():
        name, equals, file = text.partition("=")
        # A folder may have the sign in its name.
        if not equals or "/" in name or "\\" in name or Path(text).exists():
            name, file = "", text
        if not file or (equals and not name and file != text):
            raise ConfigError(f"{option} {text}: write it as FILE or NAME=FILE")
        if not name and files:
            name = Path(file).name.partition(".")[0]
        if name in files:
            raise ConfigError(
                f"{option} {text}: there is a table {name!r} already; give it another name with "
                "NAME=FILE"
            )
        files[name] = Path(file)
    return files[""] if list(files) == [""] else files or None


def parse_assignments(assignments: Iterable[str]) -> dict[str, Any]:
    """``["training.epochs=5"]`` as a nested mapping; values are read as YAML."""
    tree: dict[str, Any] = {}
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals or not key:
            raise ConfigError(f"--set {assignment}: write it as key=value, e.g. training.epochs=5")
        try:
            value = parse_yaml(text)
        except NotYaml as error:
            odd = "" if error.problem.startswith("not valid") else f" ({error.problem})"
            raise ConfigError(
                f"--set {assignment}: the value is not valid YAML{odd}; quote it"
            ) from error
        tree = merge(tree, nested({key.strip(): value}))
    return tree


def read_searches(texts: Iterable[str], config: Config) -> dict[str, Space]:
    """Spaces as they are written on the command line.

    ``training.lr=0.001..0.01:log`` is an interval, ``backbone.dim=32,64,128`` a choice.

    Raises
    ------
    ConfigError
        It is written in another way, or names no setting of ``config``.
    """
    from cnsdiff.tuning.searches import require_setting

    spaces = {}
    for text in texts:
        key, equals, values = text.partition("=")
        key, values = key.strip(), values.strip()
        if not (key and equals and values):
            raise ConfigError(
                f"--search {text}: write it as KEY=LOW..HIGH, KEY=LOW..HIGH:log or KEY=A,B,C"
            )
        require_setting(f"--search {text}", key, config)
        try:
            spaces[key] = _space(values, takes_whole_numbers_only(config, key))
        except ValueError as error:
            # pydantic's sentence stands in the midst of others.
            lines = [line.strip() for line in str(error).splitlines()]
            said = next((line for line in lines if line.startswith("Value error, ")), lines[0])
            said = said.removeprefix("Value error, ").partition(" [type=")[0]
            raise ConfigError(f"--search {text}: {said}") from error
    return spaces


def _space(text: str, whole: bool) -> Space:
    interval, colon, scale = text.partition(":")
    low, dots, high = interval.partition("..")
    if dots:
        if colon and scale != "log":
            raise ValueError(f"after the colon only 'log' can stand, not {scale!r}")
        try:
            bounds = {"low": float(low), "high": float(high)}
        except ValueError:
            raise ValueError(f"{interval!r} is not an interval of two numbers") from None
        return Space(**bounds, log=bool(colon), integer=whole)
    try:
        choices = tuple(parse_yaml(part) for part in text.split(","))
    except NotYaml:
        raise ValueError(f"{text!r} is not a list of values; write A,B,C") from None
    if len(set(map(repr, choices))) < len(choices):
        raise ValueError("a choice is named twice")
    return Space(choices=tuple(_number(choice) for choice in choices))


def _number(value: Any) -> Any:
    """YAML 1.1 reads ``1e-3`` as text."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


def recommender_of(
    backbone: str | None,
    sampler: str | None,
    preset: str,
    config: Path | None,
    assignments: Sequence[str],
    select_on: str | None,
    seed: int | None,
    device: str | None,
    threads: int | None,
    horizon: str | None = None,
) -> Recommender:
    """The recommender that ``--backbone``, ``--sampler``, ``--config``, ``--set`` … ask for.

    Raises
    ------
    ConfigError
        The file cannot be read, an assignment is malformed, or a key is unknown.
    """
    from cnsdiff.recommender.recommender import Recommender

    overrides = read_config_file(config) if config else {}
    overrides = merge(overrides, parse_assignments(assignments))
    for key, value in (("seed", seed), ("device", device), ("threads", threads)):
        if value is not None:
            overrides[key] = value
    training = {"select_on": select_on, "horizon": horizon}
    if horizon is not None and select_on is None:
        training["select_on"] = "rehearsal"
    for key, setting in training.items():
        if setting is not None:
            overrides = merge(overrides, {"training": {key: setting}})
    # What is wrong is in what was typed.
    typed = {
        str(config): config,
        "--set": assignments,
        "--sampler": sampler,
        "--backbone": backbone,
        "--select-on": select_on,
        "--horizon": horizon,
        "--device": device,
    }
    source = listed([name for name, value in typed.items() if value], "or") or "the configuration"
    return Recommender.from_config(overrides, backbone, sampler, preset=preset, source=source)
