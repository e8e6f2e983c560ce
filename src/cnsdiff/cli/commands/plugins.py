"""``cnsdiff plugins``: what other packages add."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, TypedDict

import typer

if TYPE_CHECKING:
    from cnsdiff.base.registry import Registry

EXAMPLE = "Example: cnsdiff plugins"


def plugins(json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """List samplers, backbones and scenarios of other packages, with their settings.

    Each is imported, so that one that is broken says so.
    """
    from rich.text import Text

    from cnsdiff.backbones import BACKBONES
    from cnsdiff.base.text import visible
    from cnsdiff.cli.output import console, print_json, print_table
    from cnsdiff.display.tables import Table
    from cnsdiff.samplers import SAMPLERS
    from cnsdiff.shifts import SCENARIOS

    registries: tuple[Registry[Any], ...] = (SAMPLERS, BACKBONES, SCENARIOS)
    records = [record for registry in registries for record in examine(registry)]
    if json:
        print_json(records)
        return
    screen = console()
    if not records:
        screen.print("No package adds a sampler, a backbone or a scenario.")
        return
    rows: list[tuple[list[str], list[float]]] = []
    for record in records:
        settings = ", ".join(f"{key} = {value}" for key, value in record["settings"].items())
        rows.append(([record["kind"], record["name"], record["package"], settings or "-"], []))
    print_table(screen, Table.of("", ["kind", "name", "package", "settings"], [], rows))
    for record in records:
        if record["problem"]:
            problem = visible(record["problem"])
            screen.print(Text.assemble(("broken: ", "red"), problem), soft_wrap=True)


class Plugin(TypedDict):
    """A component that another package offers."""

    kind: str
    name: str
    package: str
    settings: dict[str, object]
    problem: str | None


def examine(registry: Registry[Any]) -> list[Plugin]:
    """Plugins of one kind: the package, its settings, and any fault."""
    import warnings

    from cnsdiff.base.errors import CnsdiffWarning, ConfigError

    records: list[Plugin] = []
    for offer in registry.offers():
        settings: dict[str, object] = {}
        problem = None
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", CnsdiffWarning)
                registry.find(offer.name)
            settings = _settings(registry.load(offer), registry.base)
        except (ConfigError, CnsdiffWarning) as error:
            problem = str(error)
        records.append(
            {
                "kind": offer.kind,
                "name": offer.name,
                "package": offer.package,
                "settings": settings,
                "problem": problem,
            }
        )
    return records


def _settings(component: type[Any], base: type[Any]) -> dict[str, object]:
    """The settings a component has beside those of all of its kind, and their defaults."""
    own, common = (getattr(kind, "Config", kind).model_fields for kind in (component, base))
    return {
        name: "required" if field.is_required() else field.default
        for name, field in own.items()
        if name not in common
    }
