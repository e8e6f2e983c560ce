"""What an audit forecasts, beside what then came true, on logs whose future is known.

    python benchmarks/audit_future.py --data FOLDER --out FOLDER --json FILE

A log is cut. Its past is audited as a user would, and nothing of the future is read. Then the
methods learn the whole past by the same choices and are judged on the true future. Five verdicts:

- ``world-time``: a simulated world whose environment moves; its last periods are the future.
- ``world-popularity``: the same, asked for under an intervention that takes salience away.
- ``world-exposure``: the same; a sample of its users is shown items at random before, and the
  others after.
- ``grocery-80`` and ``grocery-60``, or at other ``--cuts``: a real log up to 80% and 60% of its
  pairs, and the pairs that come next, a quarter as many.

For each it prints what the usual recommender was to lose, with the interval, and what it lost; and
what the advised setting reaches on the future, as a share of the best of all that was offered.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import polars as pl

from cnsdiff import ConfoundedWorld, prepare
from cnsdiff.audit.audit import run_audit
from cnsdiff.audit.judging import Judged, judge, settings_of
from cnsdiff.audit.log import Reading
from cnsdiff.audit.record import ShiftRecord
from cnsdiff.audit.shifts import SHIFTS
from cnsdiff.audit.splits import Options
from cnsdiff.audit.training import METHODS, USUAL, Clock, audit_grid, run_in_time, tasks_of
from cnsdiff.benchmark.fit import fit_model
from cnsdiff.benchmark.plan import plan
from cnsdiff.benchmark.store import Store
from cnsdiff.benchmark.workers import ThisProcess
from cnsdiff.data import Dataset
from cnsdiff.evaluation.significance import Interval

METRIC = "ndcg@20"
#: The pairs that come after a cut, as a share of those before: as in the audit's own test.
AHEAD = 0.25
#: Share of a world's users who are shown items at random before the audit.
ASKED = 0.2


@dataclass(frozen=True)
class Future:
    """The past of a log, for an audit, and its future, made only once that is done."""

    shift: str
    past: pl.DataFrame
    future: Callable[[], Dataset]
    randomised: pl.DataFrame | None = None


def world_futures(seed: int) -> dict[str, Future]:
    """The simulated ones."""
    world = ConfoundedWorld(n_users=800, n_items=300, exposures=80, periods=10, seed=seed)
    clicks = world.clicks(world.periods).select("user", "item", "timestamp")
    asked = pl.col("user") < ASKED * world.n_users

    def seen_under(shift: str, **options: str) -> pl.DataFrame:
        """Clicks under an intervention, about as many of a user as the IID test has."""
        environments = world.intervene(shift, **options).shifted
        clicked = world.clicks(environments).select("user", "item", "timestamp")
        return clicked.sample(fraction=AHEAD, seed=seed)

    shown = seen_under("exposure")

    def others() -> Dataset:
        return prepare(clicks, "exposure", name="others", randomised=shown.filter(~asked))

    def unsalient() -> Dataset:
        seen = seen_under("popularity", target="uniform")
        return prepare(clicks, "exposure", name="unsalient", randomised=seen)

    return {
        "world-time": in_time(clicks, 1 / (1 + AHEAD)),
        "world-popularity": Future("popularity", clicks, unsalient),
        "world-exposure": Future("exposure", clicks, others, shown.filter(asked)),
    }


def in_time(log: pl.DataFrame, cut: float) -> Future:
    """A log cut in time, and the pairs of after the cut."""
    log = log.sort("timestamp", maintain_order=True)
    n = int(cut * log.height)
    known = log.head(int((1 + AHEAD) * n))
    return Future(
        "temporal",
        log.head(n),
        lambda: prepare(known, "temporal", name="future", quantile=1 / (1 + AHEAD)),
    )


def measured(
    shift: str, dataset: Dataset, folder: Path, budget: float, times: bool, seed: int
) -> Judged:
    """All methods of an audit on a dataset, trained and judged as an audit does."""
    dataset.save(folder / "dataset")
    paths = {shift: folder / "dataset"}
    grid = audit_grid([SHIFTS[shift]], paths, ease=True, seed=seed, metric=METRIC, times=times)
    store = Store(folder / "benchmark")
    store.open(grid)
    tasks = tasks_of(plan(grid, paths, threads=1), {})
    with store.writing(), ThisProcess() as workers:
        run_in_time(tasks, store, workers, Clock(budget))
    return judge(settings_of(tasks, store), dataset, METRIC, seed=seed)


def outcome(name: str, case: Future, out: Path, budget: float, seed: int) -> dict[str, Any]:
    """The audit of the past, then what came true."""
    folder = out / name
    folder.mkdir(parents=True)
    case.past.write_csv(folder / "past.csv")
    beside = None
    if case.randomised is not None:
        beside = folder / "randomised.csv"
        case.randomised.write_csv(beside)
    started = time.monotonic()
    audited = run_audit(
        Options(
            Reading(str(folder / "past.csv"), randomised=beside),
            folder / "audit",
            budget=budget,
            shifts=[case.shift],
            max_pairs=0,
            metric=METRIC,
            seed=seed,
            threads=1,
        )
    )
    seconds = time.monotonic() - started
    # The future is looked at from here on only.
    times = "timestamp" in case.past.columns
    truth = measured(case.shift, case.future(), folder / "truth", budget, times, seed)
    return told(name, audited.shifts[0], truth) | {"seconds": seconds, "words": audited.verdict}


def told(name: str, shift: ShiftRecord, truth: Judged) -> dict[str, Any]:
    """The forecasts of a shift beside the truth."""
    advice = shift.recommendation
    usual = shift.row(shift.usual)
    true = {s.row: truth.accuracies(s) for s in truth.settings if s.method in METHODS}
    forecast, lost = usual.lost_matched, true[usual.key].lost_matched
    best = max(true, key=lambda key: true[key].ood.value)
    reached = true[advice.use].ood
    return {
        "verdict": name,
        "case": advice.case,
        "forecast": _ends(forecast),
        "lost": _ends(lost),
        "within": bool(forecast.low <= lost.value <= forecast.high),
        "overlap": bool(forecast.low <= lost.high and lost.low <= forecast.high),
        "advised": advice.use,
        "advice": f"{advice.words} {advice.break_even_words}",
        "best": best,
        "reached": _ends(reached),
        "share_of_best": reached.value / true[best].ood.value,
        "rows": {key: [own.iid.value, own.ood.value] for key, own in true.items()},
        "rows_forecast": {row.key: [row.iid.value, row.ood.value] for row in shift.table},
        "usual": USUAL,
        "n_users": {"forecast": shift.n_users.model_dump(), "future": truth.n_users},
        "cut": sorted({row.method for row in shift.table if row.stopped_by == "time"}),
        "cut_later": sorted({s.method for s in truth.settings if s.stopped_by == "time"}),
    }


def _ends(interval: Interval) -> list[float]:
    return [round(end, 4) for end in (interval.value, interval.low, interval.high)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, help="folder with grocery/train.csv")
    parser.add_argument("--out", type=Path, required=True, help="a new folder for all of it")
    parser.add_argument("--json", type=Path, help="where the outcomes go")
    parser.add_argument(
        "--budget", type=float, default=60.0, help="CPU seconds of an audit; worlds get half"
    )
    parser.add_argument("--users", type=float, default=1.0, help="share of grocery's users")
    parser.add_argument("--seed", type=int, default=0, help="of worlds, drawn users and models")
    parser.add_argument("--cuts", type=int, nargs="*", default=[80, 60], help="%% of grocery")
    parser.add_argument("--only", nargs="*", help="these verdicts; all by default")
    args = parser.parse_args()
    cases = world_futures(args.seed)
    if args.data is not None:
        log = pl.read_csv(args.data / "grocery" / "train.csv", separator="\t")
        log = log.select("user_id", "item_id", "time")
        log.columns = ["user", "item", "timestamp"]
        people = log["user"].unique().sort()
        drawn = people.sample(fraction=args.users, seed=args.seed)
        log = log.filter(pl.col("user").is_in(drawn.implode()))
        cases |= {f"grocery-{cut}": in_time(log, cut / 100) for cut in args.cuts}
    outcomes = []
    for name, case in cases.items():
        if args.only and name not in args.only:
            continue
        budget = args.budget if name.startswith("grocery") else args.budget / 2
        # Budgets count CPU seconds, so that a busy machine trains as long as an idle one.
        clock = time.process_time
        with (
            patch.object(time, "monotonic", clock),
            patch.dict(fit_model.__kwdefaults__, clock=clock),
            patch.dict(Clock.__init__.__kwdefaults__, now=clock),
        ):
            found = outcome(name, case, args.out, budget, args.seed)
        outcomes.append(found)
        forecast, lost = (" ".join(f"{x:.3f}" for x in found[key]) for key in ("forecast", "lost"))
        print(
            f"{name}: to lose {forecast}, lost {lost}{'' if found['within'] else ' MISSED'}; "
            f"advised {found['advised']} ({found['case']}), {found['share_of_best']:.3f} of "
            f"{found['best']}",
            flush=True,
        )
        if args.json is not None:
            args.json.write_text(json.dumps(outcomes, indent=1))


if __name__ == "__main__":
    main()
