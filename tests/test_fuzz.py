"""Damaged inputs of the cheap kinds; benchmarks/reliability/fuzz.py by itself tries them all."""

from __future__ import annotations

import sys
from importlib import util
from pathlib import Path

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "reliability" / "fuzz.py"


def test_damaged_inputs_are_read_or_refused_in_one_sentence(tmp_path):
    found = util.spec_from_file_location("fuzz", SCRIPT)
    assert found is not None and found.loader is not None
    fuzz = util.module_from_spec(found)
    sys.modules["fuzz"] = fuzz  # dataclasses look their module up
    found.loader.exec_module(fuzz)
    sound = tmp_path / "sound"
    sound.mkdir()
    fuzz.write_sound(sound)
    cheap = ("adjacency", "features", "config", "grid", "embeddings", "lists", "users", "run")
    numbers = [n for n in range(500) if fuzz.kind_of(n) in cheap]
    outcomes = [fuzz.attempt(n, 0, sound, tmp_path / "damaged") for n in numbers]
    assert len(outcomes) > 150
    assert {one.outcome for one in outcomes} == {"read", "refused"}, [
        one for one in outcomes if one.outcome not in ("read", "refused")
    ]
