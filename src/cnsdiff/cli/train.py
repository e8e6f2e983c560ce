"""``cnsdiff train``: fit a recommender on a dataset directory."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from cnsdiff.recommender import Recommender

EXAMPLE = "Example: cnsdiff train data/food --seed 1 --out runs/food"
INTERRUPTED = 130


@contextmanager
def _one_voice() -> Iterator[None]:
    """Of several processes that fail alike, or with one of them, one says so."""
    from cnsdiff.errors import CnsdiffError
    from cnsdiff.training.processes import place, tells_of_failure, told

    if place().rank:
        # The first has files to leave in order, and says goodbye for all.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if place().count == 1:
        yield
        return
    try:
        yield
    except CnsdiffError as error:
        if tells_of_failure():
            print(f"cnsdiff: {error}", file=sys.stderr, flush=True)
            told()
        raise typer.Exit(error.exit_code) from None


@_one_voice()
def train(
    dataset: Annotated[
        Path | None, typer.Argument(help="Dataset directory (with --resume: the run's own).")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Run directory to write.")] = None,
    resume: Annotated[
        Path | None, typer.Option(help="Go on with this unfinished run, to the same result.")
    ] = None,
    sampler: Annotated[
        str | None,
        typer.Option(
            help="Negative sampler: exposure (default), exposure_diffusion, cnsdiff, random, "
            "popularity, dns, dns_mn, softmax_rho, mixgcf, srns, dens, ahns, curriculum. "
            "One other than exposure has plain settings (BPR, inner product) unless you set others."
        ),
    ] = None,
    backbone: Annotated[str | None, typer.Option(help="Backbone: lightgcn, mf.")] = None,
    preset: Annotated[
        str,
        typer.Option(
            help="default (ours), paper, authors, bpr-lightgcn, ips-lightgcn, pda-lightgcn, "
            "ssm-lightgcn."
        ),
    ] = "default",
    config: Annotated[Path | None, typer.Option(help="YAML file with settings.")] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="One setting, e.g. training.epochs=20."),
    ] = None,
    select_on: Annotated[
        str | None,
        typer.Option(
            help="What picks the epoch and the dial: valid, inverse-popularity, inverse-exposure, "
            "inverse-propensity, tempered, recency, worst-slice, drift."
        ),
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="The one seed.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:1.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Train a recommender; early stopping looks at the validation split only.

    A checkpoint is written after each epoch; Ctrl-C (or a crash) loses the epoch under way, and
    --resume goes on to the very result an undisturbed run would have had.

    Several processes train together under torchrun: torchrun --nproc-per-node 2 -m cnsdiff train …
    """
    from cnsdiff.cli.recommenders import recommender_of
    from cnsdiff.errors import ConfigError

    if resume is not None:
        given = [out, sampler, backbone, config, set_, select_on, seed, device, threads]
        if any(value is not None for value in given) or preset != "default":
            raise ConfigError(
                "--resume continues a run with its own settings; give no others beside it"
            )
        model, source = _unfinished(resume)
        _fit(model, dataset or source, resume, json)
        return
    if dataset is None or out is None:
        raise ConfigError("train needs a dataset directory and --out RUN (or --resume RUN)")
    model = recommender_of(
        backbone, sampler, preset, config, set_ or (), select_on, seed, device, threads
    )
    _fit(model, dataset, out, json)


def _unfinished(run: Path) -> tuple[Recommender, Path]:
    """The recommender of an unfinished run, and where its dataset was."""
    import yaml

    from cnsdiff.errors import RunError
    from cnsdiff.recommender import Recommender
    from cnsdiff.run import as_options, read_manifest

    manifest = read_manifest(run)
    if manifest["status"] == "complete":
        raise RunError(f"{run}: this run is finished; evaluate it with `cnsdiff evaluate {run}`")
    try:
        tree = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
        options = as_options(tree)
    except (
        OSError,
        UnicodeDecodeError,
        KeyError,
        TypeError,
        AttributeError,
        yaml.YAMLError,
    ) as error:
        raise RunError(f"{run}/config.yaml: is damaged; train again") from error
    path = manifest["dataset"]["path"]
    if path is None:
        raise RunError(f"{run}: was trained on a dataset in memory; resume it from Python")
    return Recommender(source=f"{run}/config.yaml", **options), Path(path)


def _fit(model: Recommender, dataset_path: Path, run: Path, json: bool) -> None:
    from cnsdiff.cli.output import console, print_json
    from cnsdiff.data import load_dataset
    from cnsdiff.evaluation.dial import in_words
    from cnsdiff.memory import peak_memory
    from cnsdiff.training.device import make_fabric
    from cnsdiff.training.processes import place, tells_of_failure, told
    from cnsdiff.training.progress import Reporter, reporter_for_terminal

    config = model.resolve()
    dataset = load_dataset(dataset_path)
    first = place().rank == 0
    if first:
        # A polite kill is as good as Ctrl-C.
        signal.signal(signal.SIGTERM, _interrupt)
    label = f"{config.backbone.name} + {config.sampler.name}"
    try:
        model.fit(dataset, run=run, reporter=reporter_for_terminal(label) if first else Reporter())
    except KeyboardInterrupt:
        if tells_of_failure():
            print(
                f"cnsdiff: interrupted; the epochs completed are saved, go on with "
                f"`cnsdiff train --resume {run}`",
                file=sys.stderr,
                flush=True,
            )
            told()
        raise typer.Exit(INTERRUPTED) from None
    if not first:
        return
    best = next(r for r in model.history_ if r["epoch"] == model.best_epoch_)["validation"]
    # What picked the epoch comes first.
    metric = next(iter(best))
    seconds = sorted(record["seconds"] for record in model.history_)
    summary = {
        "run": str(run),
        "dataset": dataset.name,
        "best_epoch": model.best_epoch_,
        "epochs": len(model.history_),
        "dial": model.dial_,
        "selected_on": config.training.select_on,
        metric: best[metric],
        "median_epoch_seconds": seconds[len(seconds) // 2],
        "peak_memory_bytes": peak_memory(make_fabric(config.device, config.precision).device),
    }
    if json:
        print_json(summary)
        return
    screen = console()
    screen.print(
        f"Best epoch {summary['best_epoch']} of {summary['epochs']}: {metric} "
        f"{best[metric]:.4f} on {config.training.selection_split} "
        f"({summary['median_epoch_seconds']:.2f} s an epoch, "
        f"{summary['peak_memory_bytes'] / 2**30:.1f} GiB of memory at most)."
    )
    screen.print(f"dial: {in_words(model.dial_)}")
    screen.print(f"Wrote {run}. Next: cnsdiff evaluate {run} --references", soft_wrap=True)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
