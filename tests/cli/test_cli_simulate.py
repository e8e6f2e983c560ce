"""``cnsdiff simulate``: a world becomes a dataset directory, or one sentence why not."""

from __future__ import annotations

import inspect

import numpy as np
import pytest

from cnsdiff import ConfoundedWorld, load_dataset
from cnsdiff.cli.commands.simulate import simulate
from cnsdiff.simulate import ShiftSettings, WorldSettings, WorldTruth

SMALL = ("--users", 60, "--items", 50, "--exposures", 20)


def test_help_has_an_example(cli):
    done = cli("simulate", "--help")
    assert (done.code, done.err) == (0, "")
    assert "Example: cnsdiff simulate" in done.out


def test_defaults_are_those_of_the_world():
    parameters = inspect.signature(simulate).parameters
    named = {"users": "n_users", "items": "n_items"}
    for option in ("shift", "strength", "confounding", "users", "items", "exposures", "seed"):
        field = named.get(option, option)
        fields = {**WorldSettings.model_fields, **ShiftSettings.model_fields}
        assert parameters[option].default == fields[field].default, option


@pytest.mark.parametrize("shift", ["popularity", "temporal", "exposure", "hybrid"])
def test_a_world_becomes_a_dataset(cli, tmp_path, shift):
    out = tmp_path / "world"
    options = ("--shift", shift, "--strength", 0.7, "--confounding", 2, "--seed", 3)
    done = cli("simulate", "--out", out, *SMALL, *options)
    assert (done.code, done.err) == (0, "")
    for split in ("train", "valid", "test_iid", "test_ood"):
        assert split in done.out
    assert f"cnsdiff train {out} --out runs/{out.name}" in done.out
    dataset = load_dataset(out)
    world = ConfoundedWorld(n_users=60, n_items=50, exposures=20, confounding=2, seed=3)
    assert dataset.fingerprint == world.dataset(shift, strength=0.7).fingerprint
    assert dataset.scenario == shift
    users, items = np.arange(dataset.n_users)[:, None], np.arange(dataset.n_items)[None, :]
    expected = world.relevant(dataset.users.to_numpy()[:, None], dataset.items.to_numpy()[None, :])
    assert np.array_equal(WorldTruth.of(dataset).relevant(users, items), expected)


def test_json(cli, tmp_path):
    report = cli("simulate", "--out", tmp_path / "world", *SMALL, "--json").json
    assert report["path"] == str(tmp_path / "world")
    manifest = {key: value for key, value in report.items() if key != "path"}
    assert manifest == load_dataset(tmp_path / "world").manifest.to_dict()


REFUSED = {
    "shift": (("--shift", "popularty"), ["'popularty'", "did you mean 'popularity'"]),
    "strength": (("--strength", 2), ["strength", "less than or equal to 1"]),
    "confounding": (("--confounding", -1), ["confounding", "greater than or equal to 0"]),
    "users": (("--users", 0), ["n_users", "greater than or equal to 1"]),
    "exposures": (("--exposures", 50), ["exposures must lie between 0 and n_items=50"]),
    "too small": (("--users", 1, "--exposures", 1), ["split empty", "raise n_users"]),
}


@pytest.mark.parametrize(("options", "words"), REFUSED.values(), ids=REFUSED)
def test_bad_options_write_nothing(cli, tmp_path, untouched, options, words):
    untouched()
    cli("simulate", "--out", tmp_path / "world", *SMALL, *options).refused(*words)
    untouched()


def test_what_exists_is_replaced_only_when_told(cli, tmp_path, untouched):
    arguments = ("simulate", "--out", tmp_path / "world", *SMALL)
    cli(*arguments)
    untouched()
    cli(*arguments, "--seed", 1).refused("already exists", "--overwrite")
    untouched()
    assert cli(*arguments, "--seed", 1, "--overwrite").code == 0
    assert load_dataset(tmp_path / "world").manifest.settings["world"]["seed"] == 1
