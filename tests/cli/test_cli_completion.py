"""Completion: through the shells' protocol, quick to load, and true to the registries."""

from __future__ import annotations

import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnsdiff.cli import completion
from cnsdiff.cli.completion import CHOICES

ROOT = Path(__file__).parents[2]
COMMAND = Path(sys.executable).with_name("cnsdiff")
SHELLS = ("bash", "zsh", "fish")


def test_what_is_written_down_is_what_there_is():
    tool = runpy.run_path(str(ROOT / "tools" / "choices.py"))
    assert tool["FILE"].read_text(encoding="utf-8") == tool["text"](), "run tools/choices.py"
    assert set(completion.PRESETS) == set(CHOICES["presets"])
    assert set(completion.SCENARIOS) == set(CHOICES["scenarios"])


# --- what is offered


@given(st.text(alphabet="abcdefxpo_-./=, ", max_size=12))
def test_all_that_is_offered_goes_on_from_what_was_typed(typed):
    completers = [v for v in vars(completion).values() if getattr(v, "__name__", "") == "complete"]
    completers += [completion.data_set, completion.log]
    assert len(completers) > 12
    for complete in completers:
        assert all(name.startswith(typed) for name, _ in complete(typed))


def test_a_setting_first_its_key_and_then_its_words():
    assert ("training.epochs=", "") in completion.setting("training.e")
    assert completion.setting("training.epochs=") == []
    assert completion.setting("objective.loss=so") == [("objective.loss=softmax", "")]
    names = {name for name, _ in completion.setting("sampler.name=")}
    assert names == {f"sampler.name={name}" for name in CHOICES["samplers"]}


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
    ("cnsdiff train --set training.sel", {k for k in CHOICES["settings"] if "training.sel" in k}),
    ("cnsdiff prepare log.csv --scenario ", set(completion.SCENARIOS)),
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
