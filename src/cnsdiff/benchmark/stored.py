"""The results of a benchmark from its directory alone, without the file that asked for them."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from cnsdiff.base.errors import RunError
from cnsdiff.base.settings import first_problem
from cnsdiff.base.storage import first_line
from cnsdiff.benchmark.datasets import place_of
from cnsdiff.benchmark.grid import Grid
from cnsdiff.benchmark.plan import plan
from cnsdiff.benchmark.run import Results, collect
from cnsdiff.benchmark.store import Store
from cnsdiff.recommender.config import read_yaml


def read_stored(path: Path) -> tuple[Grid, Results]:
    """The grid and what there is of its results.

    The tasks of a grid are told apart by the content of its datasets too, so these have to be
    there: most are kept in the directory itself, one given by its path is not.

    Raises
    ------
    RunError
        There is no grid, it is of another version, or a dataset is gone.
    """
    file = path / "grid.yaml"
    try:
        grid = Grid.model_validate(read_yaml(file))
    except FileNotFoundError as error:
        raise RunError(f"{path}: holds no benchmark (no grid.yaml)") from error
    except ValidationError as error:
        problem = first_problem(error)
        keys = ".".join(map(str, problem.keys))
        raise RunError(
            f"{file}: {keys}: {problem.message}; use the version of cnsdiff that wrote it"
        ) from error
    except (OSError, ValueError) as error:
        raise RunError(
            f"{file}: cannot be read ({first_line(error)}); run the benchmark again to restore it"
        ) from error
    store = Store(path)
    datasets = {name: place_of(name, entry, store.data) for name, entry in grid.datasets.items()}
    for name, place in datasets.items():
        if not place.is_dir():
            raise RunError(
                f"{place}: the dataset {name!r} of the benchmark is gone, and without it its "
                "results cannot be told from those of another; restore it, or run cnsdiff "
                "benchmark with the grid again"
            )
    return grid, collect(grid, plan(grid, datasets), store)
