"""Imports point downwards, heavy ones wait, and the public names are documented."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import cnsdiff

PACKAGE = Path(cnsdiff.__file__).parent

ROOT = Path(__file__).parents[1]


def layers() -> list[set[str]]:
    """The layers that CONTRIBUTING.md lists, from low to high."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    listed = text.partition("reads this list:")[2].partition(".\n")[0]
    return [set(re.findall(r"`(\w+)`", layer)) for layer in listed.split("→")]


LAYERS = layers()
LEVEL = {part: level for level, layer in enumerate(LAYERS) for part in layer}


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def part_of(module: str) -> str:
    """``cnsdiff.data.ids`` belongs to ``data``; the package itself to ````."""
    return module.partition(".")[2].partition(".")[0]


def name_of(file: Path) -> str:
    parts = file.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(file: Path) -> set[str]:
    """Modules of this package that a file imports anywhere, type checking included."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            # `from cnsdiff.data import ids` may import a module, or a name.
            direct = {f"cnsdiff.{alias.name}" for alias in node.names}
            found |= direct if node.module == "cnsdiff" else {node.module or ""}
    return {name for name in found if name == "cnsdiff" or name.startswith("cnsdiff.")}


def test_every_part_has_its_layer():
    parts = {part_of(name_of(file)) for file in modules()} - {""}
    assert parts == LEVEL.keys(), (
        "add the new part to CONTRIBUTING.md's layers, as low as it can stand"
    )


# The package itself offers names from everywhere.
@pytest.mark.parametrize("file", [f for f in modules() if part_of(name_of(f))], ids=name_of)
def test_imports_point_downwards(file):
    own = part_of(name_of(file))
    upwards = {name for name in imports(file) if LEVEL[part_of(name)] > LEVEL[own]}
    assert not upwards


def importers(*parts: str) -> dict[str, set[str]]:
    return {
        name_of(file): {part_of(name) for name in imports(file)} & set(parts)
        for file in modules()
        if {part_of(name) for name in imports(file)} & set(parts)
    }


def test_nobody_imports_the_command_line():
    assert {part_of(name) for name in importers("cli")} == {"cli", "__main__"}


def test_diffusion_knows_nothing_of_recommenders():
    for file in (PACKAGE / "diffusion").rglob("*.py"):
        assert {part_of(name) for name in imports(file)} <= {"diffusion"}, file.name


def test_samplers_and_objectives_never_import_training():
    for name in importers("training"):
        assert part_of(name) not in {"diffusion", "samplers", "objectives", "backbones"}


def test_no_cycles():
    graph = {name_of(file): imports(file) for file in modules() if name_of(file) != "cnsdiff"}
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join((*path, name))
        if name in done:
            return
        # A package and its modules are one another's business.
        package = name.rpartition(".")[0]
        for other in graph.get(name, ()):
            if other != package:
                visit(other, (*path, name))
        done.add(name)

    for name in graph:
        visit(name, ())


def test_help_loads_nothing_heavy():
    code = (
        "import sys; sys.argv = ['cnsdiff', 'train', '--help']\n"
        "from cnsdiff.cli import main\n"
        "try: main()\n"
        "finally: print(sorted({'torch', 'polars', 'pandas', 'numpy', 'scipy',"
        " 'lightning_fabric'} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "Example: cnsdiff train" in done.stdout
    assert done.stderr.strip() == "[]"


def test_the_package_itself_loads_nothing_heavy():
    code = "import cnsdiff, sys; print(sorted({'torch', 'polars', 'numpy'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_training_and_serving_load_no_scenarios():
    code = (
        "from cnsdiff import Recommender; import sys; "
        "print(sorted({'cnsdiff.shifts', 'cnsdiff.diagnostics', 'cnsdiff.cli'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_what_takes_a_second_to_import_waits():
    """A training needs neither; every process that trains would pay for them."""
    early = {
        name_of(file)
        for file in modules()
        for node in ast.parse(file.read_text(encoding="utf-8")).body
        if isinstance(node, ast.Import | ast.ImportFrom)
        and re.search(r"scipy(\.| import )(stats|optimize)\b", ast.unparse(node))
    }
    assert not early


@pytest.mark.parametrize("name", cnsdiff.__all__)
def test_public_names(name):
    found = getattr(cnsdiff, name)
    assert found.__doc__
    assert name in dir(cnsdiff)
    if isinstance(found, type):
        for key, member in vars(found).items():
            function = getattr(member, "__func__", member)
            if not key.startswith("_") and callable(function):
                assert function.__doc__, f"{name}.{key} has no docstring"


def test_unknown_names():
    with pytest.raises(AttributeError, match="no attribute 'Recomender'"):
        _ = cnsdiff.Recomender  # type: ignore[attr-defined]


def test_every_module_says_what_it_is_for():
    silent = [
        name_of(file)
        for file in modules()
        if file.stat().st_size and not ast.get_docstring(ast.parse(file.read_text()))
    ]
    assert not silent


def called(file: Path) -> list[tuple[ast.Call, str, str]]:
    """The calls in a file: what is called, and of which module or object it is an attribute."""
    calls = [n for n in ast.walk(ast.parse(file.read_text("utf-8"))) if isinstance(n, ast.Call)]
    return [
        (call, ast.unparse(call.func.value), call.func.attr)
        if isinstance(call.func, ast.Attribute)
        else (call, "", ast.unparse(call.func))
        for call in calls
    ]


def test_no_reader_is_given_a_path_that_it_may_take_for_a_pattern():
    found = [
        f"{file.name}: {ast.unparse(call)}"
        for file in modules()
        if name_of(file) != "cnsdiff.base.storage"
        for call, owner, name in called(file)
        if owner in ("pl", "polars", "pacsv", "pq", "pa", "pd")
        and name.startswith(("read_", "scan_"))
        and not ast.unparse(call.args[0]).startswith("io.BytesIO(")
    ]
    assert not found, "read it through cnsdiff.base.storage"


#: Where text becomes output.
PRINTERS = ("cnsdiff.base.text", "cnsdiff.display.screen", "cnsdiff.diagnostics.figures")


def test_all_that_is_printed_goes_through_one_door():
    """Values from outside are never markup, and no escape sequence in them is sent."""

    def wrong(call: ast.Call, owner: str, name: str) -> bool:
        options = {word.arg: ast.unparse(word.value) for word in call.keywords}
        if name == "print" and not owner:
            # Tables that are text already.
            return not ast.unparse(call).startswith("print(render(")
        if name == "Panel" and "title" in options and owner + name == "Panel":
            return not options["title"].startswith(("literal(", "'"))
        if name == "TextColumn":
            return options.get("markup") != "False"
        return name in ("Console", "from_markup", "echo") or options.get("markup") == "True"

    found = [
        f"{name_of(file)}: {ast.unparse(call)}"
        for file in modules()
        if name_of(file)
        not in ("cnsdiff.base.text", "cnsdiff.display.screen", "cnsdiff.diagnostics.figures")
        for call, owner, name in called(file)
        if wrong(call, owner, name)
    ]
    assert found == ["cnsdiff.cli.app: typer.echo(f\"cnsdiff {version('cnsdiff')}\")"]
