"""The report of a directory: what kind it is, and which file puts its report together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from cnsdiff.base.errors import InputError
from cnsdiff.base.text import parameter
from cnsdiff.display.progress import Reporting
from cnsdiff.report.document import Document


@dataclass(frozen=True)
class Kind:
    """A kind of directory that has a report.

    Attributes
    ----------
    name
        In words, with its article.
    markers
        Files that such a directory holds, all of them.
    builder
        ``module:function``; called with the path, imported when it is needed.
    made_by
        The command that writes such a directory.
    takes
        Options that the builder takes besides the path.
    """

    name: str
    markers: tuple[str, ...]
    builder: str
    made_by: str
    takes: tuple[str, ...] = ()

    def build(self, path: Path, **options: Any) -> Document:
        """The report of a directory of this kind; options that it does not take are left out."""
        module, _, function = self.builder.partition(":")
        build: Callable[..., Document] = getattr(import_module(module), function)
        return build(path, **{name: options[name] for name in self.takes if name in options})


RUN = Kind(
    "a run",
    ("manifest.json", "config.yaml"),
    "cnsdiff.report.run:run_document",
    "cnsdiff train DATASET --out RUN",
    ("dataset", "reporter"),
)
#: The first kind whose markers are all there; a run is a dataset's manifest and a configuration.
KINDS = (
    Kind("an audit", ("audit.json",), "cnsdiff.report.audit:audit_document", "cnsdiff audit LOG"),
    Kind("a study", ("study.json",), "cnsdiff.report.tuning:tuning_document", "cnsdiff tune"),
    Kind(
        "a benchmark",
        ("grid.yaml",),
        "cnsdiff.report.benchmark:benchmark_document",
        "cnsdiff benchmark GRID.yaml",
    ),
    RUN,
    Kind(
        "a dataset",
        ("manifest.json",),
        "cnsdiff.report.dataset:dataset_document",
        "cnsdiff prepare LOG --out DATASET",
    ),
)


def kind_of(path: Path) -> Kind | None:
    """What a directory is, by the files in it; ``None`` if it is nothing of ours."""
    return next(
        (kind for kind in KINDS if all((path / marker).is_file() for marker in kind.markers)), None
    )


def document_of(
    path: str | Path, *, dataset: str | Path | None = None, reporter: Reporting | None = None
) -> Document:
    """The report of a run, a benchmark, an audit, a study or a dataset.

    Parameters
    ----------
    path
        The directory.
    dataset
        Of a run only: the dataset directory it was trained on, if that has moved.
    reporter
        Told what is being done, where that takes long.

    Raises
    ------
    InputError
        The directory is none of these; the message names what is near and could be meant.
    """
    path = Path(path)
    kind = kind_of(path) if path.is_dir() else None
    if kind is None:
        raise InputError(f"{path}: {_none_of_ours(path)}")
    if dataset is not None and kind is not RUN:
        raise InputError(
            f"{parameter('dataset')} belongs to a run, and {path} is {kind.name}; leave it out"
        )
    return kind.build(path, dataset=None if dataset is None else Path(dataset), reporter=reporter)


def _none_of_ours(path: Path) -> str:
    """Why there is no report of ``path``, and the nearest mend."""
    if path.is_file():
        if (kind := kind_of(path.parent)) is not None:
            return f"is a file of {kind.name}; name its directory, {path.parent}"
        if path.suffix in (".yaml", ".yml"):
            return (
                "is a file; if it is the grid of a benchmark, run cnsdiff benchmark on it and name "
                "the directory of its results"
            )
        return "is a file; of a log, cnsdiff audit makes a report"
    if not path.exists():
        return f"does not exist; name {_kinds()}"
    for near in (*sorted(part for part in path.iterdir() if part.is_dir()), path.absolute().parent):
        if (kind := kind_of(near)) is not None:
            return f"is none of ours; {near} is {kind.name}"
    return f"is none of ours; name {_kinds()}"


def _kinds() -> str:
    return "the directory of " + "; ".join(f"{kind.name} ({kind.made_by})" for kind in KINDS)
