"""``cnsdiff doctor``: versions, devices, and what is missing."""

from __future__ import annotations

from typing import Annotated, TypedDict

import typer

EXAMPLE = "Example: cnsdiff doctor"

#: What an extra is for.
_FOR = {
    "bench": "benchmark, audit with several processes",
    "tune": "tune",
    "ray": "benchmark --ray",
    "tensorboard": "train --track tensorboard",
    "mlflow": "train --track mlflow",
    "faiss": "export --to faiss",
    "serve": "serve, update --events, audit --answers",
    "postgresql": "serve --store postgresql+psycopg://…",
    "docs": "the documentation site",
    "dev": "tests and their tools",
}


def doctor(json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Print versions and devices, and which packages each extra still needs."""
    from cnsdiff.base.text import install_command
    from cnsdiff.cli.output import console, print_json

    report = examine()
    if json:
        print_json(report)
        return
    screen = console()
    for name, value in {**report["versions"], **report["compute"]}.items():
        screen.print(f"{name.replace('_', ' '):<18} {value}")
    for extra, packages in report["missing"].items():
        state = "complete" if not packages else f"missing {', '.join(packages)}"
        hint = "" if not packages or extra == "core" else f"  ({install_command(extra)})"
        use = f"  for {_FOR[extra]}" if extra in _FOR else ""
        screen.print(f"{extra:<18} {state}{hint}{use}", soft_wrap=True)


class Report(TypedDict):
    """Versions, compute, and missing packages by extra."""

    versions: dict[str, str]
    compute: dict[str, str | int]
    missing: dict[str, list[str]]


def examine() -> Report:
    """Versions, compute, and the missing packages of the core and of each extra."""
    import platform
    import re
    from importlib.metadata import PackageNotFoundError, requires, version

    import torch

    missing: dict[str, list[str]] = {"core": []}
    for requirement in requires("cnsdiff") or []:
        name = re.split(r"[ <>=!~;\[(]", requirement, maxsplit=1)[0]
        extra = re.search(r"extra == ['\"]([\w-]+)", requirement)
        group = missing.setdefault(extra.group(1) if extra else "core", [])
        try:
            version(name)
        except PackageNotFoundError:
            group.append(name)
    cuda = torch.cuda.is_available()
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "versions": {
            "cnsdiff": version("cnsdiff"),
            "python": platform.python_version(),
            "torch": str(torch.__version__),
            **{name: version(name) for name in ("numpy", "polars", "lightning-fabric")},
        },
        "compute": {
            "platform": platform.platform(),
            "threads": torch.get_num_threads(),
            "cuda": ", ".join(names) if cuda else "not available",
            "auto_device": "cuda" if cuda else "cpu",
        },
        "missing": missing,
    }
