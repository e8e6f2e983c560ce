"""What a directory is, and what is said of one that is nothing of ours."""

from __future__ import annotations

from pathlib import Path

import pytest

from cnsdiff.base.errors import InputError
from cnsdiff.report.document import KINDS, document_of, kind_of


def make(path: Path, *names: str) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    for name in names:
        (path / name).write_text("{}")
    return path


@pytest.mark.parametrize(
    ("names", "kind"),
    [
        (("manifest.json",), "a dataset"),
        (("manifest.json", "config.yaml"), "a run"),
        (("grid.yaml",), "a benchmark"),
        (("audit.json",), "an audit"),
        (("study.json", "manifest.json"), "a study"),
        (("config.yaml",), None),
        ((), None),
    ],
)
def test_kinds(names, kind, tmp_path):
    found = kind_of(make(tmp_path / "x", *names))
    assert (found and found.name) == kind


def test_every_kind_has_its_builder():
    from importlib import import_module

    for kind in KINDS:
        module, _, function = kind.builder.partition(":")
        assert callable(getattr(import_module(module), function))


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("gone", ("does not exist", "cnsdiff train", "cnsdiff benchmark")),
        ("run/config.yaml", ("a file of a run", "name its directory")),
        ("grid.yml", ("is a file", "cnsdiff benchmark")),
        ("log.csv", ("is a file", "cnsdiff audit")),
        ("results", ("was not written by cnsdiff", "results/quick is a benchmark")),
        ("run/extra", ("was not written by cnsdiff", "is a run")),
        ("empty", ("was not written by cnsdiff", "cnsdiff prepare")),
    ],
)
def test_the_nearest_mend(path, words, tmp_path):
    make(tmp_path / "run", "manifest.json", "config.yaml")
    make(tmp_path / "run" / "extra")
    make(tmp_path / "results" / "quick", "grid.yaml")
    make(tmp_path / "empty")
    (tmp_path / "log.csv").write_text("1,2\n")
    (tmp_path / "grid.yml").write_text("name: x\n")
    with pytest.raises(InputError) as refused:
        document_of(tmp_path / path)
    for word in words:
        assert word in str(refused.value)


def test_a_dataset_belongs_to_a_run(tmp_path):
    with pytest.raises(InputError, match=r"dataset belongs to a run, and .* is a benchmark"):
        document_of(make(tmp_path / "b", "grid.yaml"), dataset=tmp_path)
