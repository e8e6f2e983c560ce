"""What is built and what it needs: wheel, sdist, and a machine with the core dependencies alone."""

from __future__ import annotations

import ast
import email
import json
import os
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution, packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "cnsdiff"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def plain(name: str) -> str:
    """``"PyYAML>=6"`` -> ``"pyyaml"``."""
    return re.sub(r"[-_.]+", "-", re.match(r"[\w.-]+", name)[0]).lower()


CORE = {plain(requirement) for requirement in PROJECT["dependencies"]}
#: What users may install beside the core, by package.
EXTRA = {
    plain(requirement): extra
    for extra, requirements in PROJECT["optional-dependencies"].items()
    if extra not in ("dev", "docs")
    for requirement in requirements
}

# -- imports and declared dependencies -------------------------------------------------------------

#: Imports of packages that are part of what another promises.
BROUGHT = {"markupsafe": "jinja2", "pydantic_core": "pydantic", "starlette": "fastapi"}


def imports_of(file: Path, *, whole: bool = False) -> Iterator[tuple[str, bool]]:
    """What a module imports, and whether it does so when it is imported itself.

    The top-level packages; the ``whole`` names of modules, if asked.
    """

    def named(name: str) -> str:
        return name if whole else name.partition(".")[0]

    def visit(node: ast.AST, at_once: bool) -> Iterator[tuple[str, bool]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                yield from ((named(alias.name), at_once) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                yield named(child.module or ""), at_once
                if whole:  # `from package import module`
                    yield from ((f"{child.module}.{a.name}", at_once) for a in child.names)
            elif isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
                yield from ((name, False) for name, _ in visit(child, False))
            else:
                lazy = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
                yield from visit(child, at_once and not lazy)

    return visit(ast.parse(file.read_text(encoding="utf-8")), True)


@cache
def homes() -> Mapping[str, list[str]]:
    """The packages that bring each module."""
    return packages_distributions()


def distributions_of(module: str) -> set[str]:
    """The packages that a module may come from."""
    own = BROUGHT.get(module, module)
    return {plain(name) for name in (own, *homes().get(module, ()))}


MODULES = {
    ".".join(file.relative_to(SOURCE.parent).with_suffix("").parts).removesuffix(".__init__"): file
    for file in sorted(SOURCE.rglob("*.py"))
}


def strangers(file: Path) -> set[tuple[str, bool]]:
    """Imports of a module that come neither with Python nor with the core dependencies."""
    return {
        (name, at_once)
        for name, at_once in imports_of(file)
        if name != "cnsdiff"
        and name not in sys.stdlib_module_names
        and not distributions_of(name) & CORE
    }


#: Modules that an extra is needed to import.
OF_EXTRAS = sorted(
    name for name, file in MODULES.items() if any(at_once for _, at_once in strangers(file))
)


def test_what_is_imported_is_declared():
    undeclared = {
        (module, name)
        for module, file in MODULES.items()
        for name, _ in strangers(file)
        if not distributions_of(name) & EXTRA.keys()
    }
    assert not undeclared


def test_what_needs_an_extra_is_imported_when_it_is_needed():
    too_early = {
        (module, name)
        for module, file in MODULES.items()
        if module not in OF_EXTRAS
        for name, at_once in imports_of(file, whole=True)
        if at_once and name in OF_EXTRAS
    }
    assert not too_early


# -- what is built ---------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def built(tmp_path_factory) -> dict[str, Path]:
    """An sdist, the wheel built from it, and one built from the checkout."""
    pytest.importorskip("hatchling")
    out, direct = tmp_path_factory.mktemp("dist"), tmp_path_factory.mktemp("direct")
    for options in (("--outdir", out), ("--wheel", "--outdir", direct)):
        command = [sys.executable, "-m", "build", "--no-isolation", *map(str, options), str(ROOT)]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    return {
        "sdist": next(out.glob("*.tar.gz")),
        "wheel": next(out.glob("*.whl")),
        "direct": next(direct.glob("*.whl")),
    }


def content(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.mark.slow
def test_the_sdist_builds_the_wheel_that_the_checkout_builds(built):
    assert content(built["wheel"]) == content(built["direct"])


@pytest.mark.slow
def test_the_wheel_holds_the_package_and_nothing_else(built):
    names = {
        name.removeprefix("cnsdiff/")
        for name in content(built["wheel"])
        if not name.startswith(f"cnsdiff-{PROJECT['version']}.dist-info/")
    }
    held = {str(file.relative_to(SOURCE)) for file in SOURCE.rglob("*") if file.is_file()}
    # Style sheets, scripts and pages of the report are among them, and `py.typed`.
    assert names == {name for name in held if "__pycache__" not in name}
    assert "py.typed" in names


@pytest.mark.slow
def test_the_sdist_holds_what_its_tests_need(built):
    with tarfile.open(built["sdist"]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"src/cnsdiff/py.typed", "README.md", "LICENSE", "CHANGELOG.md"} <= names
    for folder in ("docs", "benchmarks", "examples", "tests"):
        assert any(name.startswith(f"{folder}/") for name in names), folder
    assert not [name for name in names if name.endswith((".pyc", ".parquet", ".safetensors"))]


@pytest.mark.slow
def test_metadata(built):
    files = content(built["wheel"])
    about = f"cnsdiff-{PROJECT['version']}.dist-info"
    metadata = email.message_from_bytes(files[f"{about}/METADATA"])
    assert (metadata["Name"], metadata["Version"]) == ("cnsdiff", PROJECT["version"])
    assert metadata["Requires-Python"] == ">=3.11"
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert "Typing :: Typed" in metadata.get_all("Classifier")
    assert set(metadata.get_all("Provides-Extra")) == PROJECT["optional-dependencies"].keys()
    needed = [r for r in metadata.get_all("Requires-Dist") if "extra ==" not in r]
    assert {plain(requirement) for requirement in needed} == CORE
    assert files[f"{about}/entry_points.txt"].decode().split() == [
        "[console_scripts]",
        "cnsdiff",
        "=",
        "cnsdiff.cli:main",
    ]
    assert f"{about}/licenses/LICENSE" in files


# -- the smallest machine --------------------------------------------------------------------------


def needed_by(names: set[str]) -> set[str]:
    """The packages ``names`` and all that they need here, without any extra."""
    from packaging.requirements import Requirement

    found: set[str] = set()
    waiting = set(names)
    while waiting:
        name = waiting.pop()
        try:
            requirements = distribution(name).requires or []
        except PackageNotFoundError:  # of another platform
            continue
        found.add(name)
        for text in requirements:
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                waiting |= {plain(requirement.name)} - found
    return found


@pytest.fixture(scope="session")
def smallest(built, tmp_path_factory) -> dict[str, str]:
    """Environment variables of a machine that has the wheel and the core dependencies alone."""
    site = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(built["wheel"]) as archive:
        archive.extractall(site)
    for name in needed_by(CORE):
        for file in distribution(name).files or []:
            top = Path(file).parts[0]
            if top not in ("..", "__pycache__") and not (site / top).exists():
                (site / top).symlink_to(distribution(name).locate_file(top))
    return {**os.environ, "PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}


def on_the_smallest(smallest, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    # -S: nothing of this machine's site-packages.
    command = [sys.executable, "-S", "-W", "error::ImportWarning", *arguments]
    return subprocess.run(command, cwd=folder, env=smallest, capture_output=True, text=True)


#: Every module is imported, then commands are called as the installed script calls them.
WALK = """
import contextlib, importlib, io, json, pkgutil, sys
import cnsdiff
left_out, lines = json.loads(sys.argv[1])
for module in pkgutil.walk_packages(cnsdiff.__path__, "cnsdiff."):
    if not module.name.endswith("__main__") and module.name not in left_out:
        importlib.import_module(module.name)
from cnsdiff.cli import main
outcomes = []
for line in lines:
    sys.argv = ["cnsdiff", *line.split()]
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main()
            code = 0
        except SystemExit as end:
            code = end.code or 0
    outcomes.append([line, code, out.getvalue(), err.getvalue()])
print(json.dumps({"file": cnsdiff.__file__, "outcomes": outcomes}))
"""
WORKS = (
    "--version",
    "--help",
    "doctor --json",
    "plugins",
    "simulate --users 60 --items 50 --exposures 20 --out world",
    "train world --out run --set training.epochs=2 --set training.batch_size=64",
    "evaluate run",
    "recommend run --all-users --k 3",
    "export run --to numpy",
    "data export world --to recbole",
)
#: What needs an extra says which.
LACKS = {
    "export run --to faiss": "faiss",
    "tune world --out study --trials 1": "tune",
    "train world --out tracked --track mlflow": "mlflow",
    "train world --out tracked --track tensorboard": "tensorboard",
    "store check sqlite:///events.db": "serve",
}


@pytest.mark.slow
def test_the_core_dependencies_are_enough(smallest, tmp_path):
    asked = (
        "import importlib.util as u; print([u.find_spec(n) for n in ('optuna', 'pandas', 'faiss')])"
    )
    assert on_the_smallest(smallest, tmp_path, "-c", asked).stdout.strip() == "[None, None, None]"
    lines = json.dumps([OF_EXTRAS, [*WORKS, *LACKS]])
    done = on_the_smallest(smallest, tmp_path, "-c", WALK, lines)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["file"].startswith(smallest["PYTHONPATH"])
    for line, code, out, err in report["outcomes"]:
        if line in WORKS:
            assert code == 0, (line, out, err)
        else:
            assert code == 2, (line, out, err)
            assert f"cnsdiff[{LACKS[line]}]" in err
        if line.startswith("doctor"):
            missing = json.loads(out)["missing"]
            assert missing["core"] == []
            assert missing["faiss"] == ["faiss-cpu"]
