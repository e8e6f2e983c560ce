"""Completion: through the shells' protocol, quick to load, and true to the registries."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from cnsdiff.audit.shifts import SHIFTS as AUDITED
from cnsdiff.backbones import BACKBONES
from cnsdiff.catalogue import ENTRIES, ROUTES
from cnsdiff.cli import choices, completion
from cnsdiff.cli.commands.benchmark import FORMATS as TABLE_FORMATS
from cnsdiff.data.reading.dialects import NAMES
from cnsdiff.data.reading.readers import FORMATS
from cnsdiff.data.reading.times import TIME_UNITS
from cnsdiff.evaluation.anticipation import Anticipated
from cnsdiff.evaluation.judges import JudgeKind
from cnsdiff.evaluation.protocol import STANDARD_SPLITS
from cnsdiff.recommender.config import Config
from cnsdiff.recommender.presets import PRESETS
from cnsdiff.samplers import SAMPLERS
from cnsdiff.shifts import SCENARIOS
from cnsdiff.simulate.settings import SHIFTS

COMMAND = Path(sys.executable).with_name("cnsdiff")
SHELLS = ("bash", "zsh", "fish")


def own(registry: Any) -> set[str]:
    """The names that are not of a plugin."""
    return {name for name in registry.names() if registry.package_of(name) is None}


@pytest.mark.parametrize(
    ("written", "known"),
    [
        (choices.SAMPLERS, own(SAMPLERS)),
        (choices.BACKBONES, own(BACKBONES)),
        (choices.PRESETS, set(PRESETS)),
        (choices.SCENARIOS, own(SCENARIOS) - {"given"}),
        (choices.SELECT_ON, {"valid", *get_args(Anticipated)}),
        (choices.SHIFTS, {*SHIFTS, "hybrid"}),
        (choices.AUDITED, set(AUDITED)),
        (choices.SPLITS, set(STANDARD_SPLITS)),
        (choices.JUDGES, set(get_args(JudgeKind))),
        (choices.FORMATS, set(FORMATS)),
        (choices.TIME_UNITS, set(TIME_UNITS)),
        (choices.DELIMITERS, {name for name in NAMES if name.isalpha()}),
        (choices.TABLE_FORMATS, set(TABLE_FORMATS)),
        (choices.ROUTES, set(ROUTES)),
        ([*choices.DATA_SETS, *(f"amazon-2023/{n}" for n in choices.AMAZON)], set(ENTRIES)),
    ],
)
def test_what_is_written_down_is_what_there_is(written, known):
    assert len(list(written)) == len(set(written))
    assert set(written) == known


def words(annotation: Any) -> tuple[str, ...]:
    """The words that a setting takes."""
    if annotation is bool:
        return ("true", "false")
    if get_origin(annotation) is Literal:
        return tuple(map(str, get_args(annotation)))
    if get_origin(annotation) in (Union, UnionType) or get_origin(annotation) is not None:
        parts = [word for part in get_args(annotation) for word in words(part)]
        return tuple(dict.fromkeys(parts))
    return ()


def fields(model: type[BaseModel], prefix: str = "") -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            found |= fields(kind, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = words(kind)
    return found


def test_every_setting_can_be_completed():
    expected = fields(Config)
    for section, registry in (("backbone", BACKBONES), ("sampler", SAMPLERS)):
        for name in sorted(own(registry)):
            for key, values in fields(registry.find(name).Config, f"{section}.").items():
                expected[key] = tuple(dict.fromkeys((*expected.get(key, ()), *values)))
        expected[f"{section}.name"] = ()  # by the names of the registry
    # A component may be of any kind, so the sections themselves are no settings.
    expected = {key: value for key, value in expected.items() if key not in ("backbone", "sampler")}
    assert {key: set(value) for key, value in choices.SETTINGS.items()} == {
        key: set(value) for key, value in expected.items()
    }


def test_every_setting_of_a_scenario_can_be_completed():
    expected: dict[str, set[str]] = {}
    for name in choices.SCENARIOS:
        for key, field in SCENARIOS.find(name).model_fields.items():
            taken = set(words(field.annotation)) if key != "value" else set()
            expected.setdefault(key, set()).update(taken)
    assert {key: set(value) for key, value in choices.SCENARIO_SETTINGS.items()} == expected


# --- what is offered


@given(st.text(alphabet="abcdefxpo_-./=, ", max_size=12))
def test_all_that_is_offered_goes_on_from_what_was_typed(typed):
    completers = [v for v in vars(completion).values() if getattr(v, "__name__", "") == "complete"]
    completers += [completion.data_set, completion.log, completion.setting]
    assert len(completers) > 12
    for complete in completers:
        assert all(name.startswith(typed) for name, _ in complete(typed))


def test_a_setting_first_its_key_and_then_its_words():
    assert ("training.epochs=", "") in completion.setting("training.e")
    assert completion.setting("training.epochs=") == []
    assert completion.setting("objective.loss=s") == [("objective.loss=softmax", "")]
    names = {name for name, _ in completion.setting("sampler.name=")}
    assert names == {f"sampler.name={name}" for name in choices.SAMPLERS}


def test_several_with_commas():
    assert completion.audited("temporal,p") == [("temporal,popularity", "")]
    assert "temporal,temporal" not in dict(completion.audited("temporal,"))


def test_files_before_data_sets():
    assert completion.log("") == [], "so that the shell offers the files"
    assert completion.log("ml-") == [("ml-100k", ""), ("ml-1m", "")]
    assert ("amazon-2023/", "a category") in completion.data_set("")
    assert ("amazon-2023/Books", "") in completion.data_set("amazon-2023/B")


def test_plugins_are_offered(monkeypatch):
    from importlib.metadata import EntryPoint

    point = EntryPoint("mine", "nowhere:Mine", "cnsdiff.samplers")
    monkeypatch.setattr("cnsdiff.base.registry.installed", lambda group: (point,))
    assert completion.sampler("mi") == [("mixgcf", ""), ("mine", "of a plugin")]


# --- the protocol


def ask(shell: str, line: str) -> str:
    """What the command answers a shell whose cursor is at the end of ``line``."""
    typed = line.split(" ")
    environment = {
        **os.environ,
        "_CNSDIFF_COMPLETE": f"complete_{shell}",
        "COMP_WORDS": "\n".join(typed),
        "COMP_CWORD": str(len(typed) - 1),
        "_TYPER_COMPLETE_ARGS": line,
        "_TYPER_COMPLETE_FISH_ACTION": "get-args",
    }
    done = subprocess.run([COMMAND], env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def offered(shell: str, line: str) -> set[str]:
    answer = ask(shell, line)
    if shell == "zsh":
        return {n.replace("\\\\:", ":") for n in re.findall(r'^(?:.*\(\()?"([^"]+)"', answer, re.M)}
    return {name.partition("\t")[0] for name in answer.splitlines()}


LINES = [
    ("cnsdiff tr", {"train"}),
    ("cnsdiff train --sampler exp", {"exposure", "exposure_diffusion"}),
    ("cnsdiff train --set training.sel", {k for k in choices.SETTINGS if "training.sel" in k}),
    ("cnsdiff prepare log.csv --scenario ", set(choices.SCENARIOS)),
    ("cnsdiff data fetch ml", {"ml-100k", "ml-1m"}),
]


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize(("line", "expected"), LINES[:3])
def test_through_the_protocol(shell, line, expected):
    assert {name.rstrip("=") for name in offered(shell, line)} == expected


@pytest.mark.parametrize(("line", "expected"), LINES[3:])
def test_scenarios_and_data_sets_through_the_protocol(line, expected):
    assert offered("fish", line) == expected


def test_nothing_heavy_is_imported():
    code = (
        "import os, sys\n"
        "os.environ |= {'_CNSDIFF_COMPLETE': 'complete_fish', '_TYPER_COMPLETE_ARGS': 'cnsdiff "
        "train --set sampler.name=', '_TYPER_COMPLETE_FISH_ACTION': 'get-args'}\n"
        "sys.argv = ['cnsdiff']\n"
        "from cnsdiff.cli import main\n"
        "try: main()\n"
        "finally: print(sorted({'torch', 'polars', 'pandas', 'numpy', 'scipy', 'plotly', 'optuna'}"
        " & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "sampler.name=exposure\n" in done.stdout
    assert done.stderr.strip() == "[]"


@pytest.mark.parametrize("shell", SHELLS)
def test_the_scripts_are_given_out(shell):
    environment = {**os.environ, "_CNSDIFF_COMPLETE": f"source_{shell}"}
    done = subprocess.run([COMMAND], env=environment, capture_output=True, text=True)
    assert done.returncode == 0
    assert f"_CNSDIFF_COMPLETE=complete_{shell}" in done.stdout


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_in_bash(tmp_path):
    script = (
        f'export PATH="{COMMAND.parent}:$PATH"\n'
        "source <(_CNSDIFF_COMPLETE=source_bash cnsdiff)\n"
        "COMP_WORDS=(cnsdiff evaluate run --split test_); COMP_CWORD=4\n"
        "_cnsdiff_completion cnsdiff; printf '%s\\n' \"${COMPREPLY[@]}\"\n"
    )
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout.split() == ["test_iid", "test_ood"], done.stderr


@pytest.mark.skipif(shutil.which("fish") is None, reason="no fish")
def test_in_fish(tmp_path):
    script = (
        "env _CNSDIFF_COMPLETE=source_fish cnsdiff | source\n"
        "complete -C 'cnsdiff train --preset p'\n"
    )
    environment = {**os.environ, "PATH": f"{COMMAND.parent}:{os.environ['PATH']}"}
    environment["HOME"] = str(tmp_path)
    done = subprocess.run(
        ["fish", "-c", script], capture_output=True, text=True, cwd=tmp_path, env=environment
    )
    assert [line.split("\t")[0] for line in done.stdout.splitlines()] == ["paper", "pda-lightgcn"]
