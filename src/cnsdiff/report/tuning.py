"""The report of a study: what was found, how the search went, and which settings matter."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from cnsdiff.display.tables import Cell, Column, Table
from cnsdiff.display.wording import clock, count, metric_title
from cnsdiff.report.document import Block, Document, Facts, Prose, Section, Source, verbatim
from cnsdiff.report.tuning_importance import importance
from cnsdiff.report.tuning_search import search
from cnsdiff.report.tuning_slices import slices
from cnsdiff.report.tuning_trials import STATES
from cnsdiff.tuning.study import BEST_CONFIG, Study, next_commands, read_study, value_text


def tuning_document(path: Path) -> Document:
    """The report of the study in a directory.

    Raises
    ------
    RunError
        There is none, or it is damaged.
    """
    path = Path(path)
    study = read_study(path)
    sections = [
        Section("Result", list(_result(study))),
        Section("Search", list(search(study))),
        Section("Importance", list(importance(study))),
        Section("Settings", list(slices(study))),
        Section("Next", list(_next(study, path))),
    ]
    return Document(
        title=f"Tuning on {study.dataset.name}",
        verdict=study.verdict(metric_title(study.objective)),
        sections=sections,
        summary=_summary(study),
    )


def _summary(study: Study) -> str:
    missing = study.asked - len(study.trials)
    told = []
    if study.best is not None:
        told.append(
            "All of this was measured on validation, and no test split was opened. "
            f"The value is the highest of {count(len(study.trials), 'trial')} and was picked for "
            "that, so **it is optimistic**: measure the best run on the tests before you believe "
            "it ([Next](#next))."
        )
    if missing > 0:
        told.append(
            f"**{count(missing, 'trial')} of {study.asked} are missing**: the same command goes on."
        )
    return "\n\n".join(told)


def _result(study: Study) -> Iterator[Block]:
    seconds = sum(trial.seconds for trial in study.trials)
    counts = ", ".join(f"{study.count(state)} {state}" for state in STATES if study.count(state))
    rows = [
        ("dataset", f"{study.dataset.name} ({study.dataset.scenario})"),
        ("judged by", f"{metric_title(study.objective)} on validation"),
        ("trials", f"{len(study.trials)} of {study.asked}: {counts or 'none'}"),
        ("time", clock(seconds)),
        ("seed of all trainings", str(study.config["seed"])),
    ]
    best, given = study.best, study.given
    if best is not None:
        rows.insert(2, ("best", f"{best.value:.4f}, trial {best.number}"))
        rows.insert(3, ("as given", "failed" if given is None else f"{given.value:.4f}"))
    yield Facts(rows)
    if best is None:
        return
    found = study.importances
    columns = (Column("share", "of the differences, %", digits=0),) if found else ()
    keys = list(found.shares if found is not None else study.spaces)
    yield Table(
        title="What was searched, and what is best",
        labels=("setting", "best", "as given", "searched"),
        columns=columns,
        rows=tuple(
            (
                (
                    key,
                    value_text(best.setting[key]),
                    value_text(study.as_given(key)),
                    str(study.spaces[key]),
                ),
                (Cell(100 * found.shares[key].share),) if found is not None else (),
            )
            for key in keys
        ),
        notes=study.left_out,
    )
    wider = study.wider()
    if wider:
        searches = " ".join(f"--search {key}={space}" for key, space in wider.items())
        yield Prose(
            "**The best is near an end of what was searched** in "
            f"{verbatim(', '.join(wider))}. Search on, into another directory: "
            f"`{verbatim(searches)}`."
        )
    if best.number and study.given is not None:
        yield Prose(
            "Trial 0 is the configuration as given. All trials are trained with the same seed and "
            "judged on the same users; a gain of less than a few per cent may be no more than "
            "their luck. Train the best again with other seeds to see how far it moves."
        )


def _next(study: Study, path: Path) -> Iterator[Block]:
    # The reader has the report already.
    commands = [each for each in next_commands(study, path) if "report" not in each.words]
    text = "\n".join(f"{command}  # {command.purpose}" for command in commands)
    file = path / BEST_CONFIG
    if study.best is None:
        yield Prose("There is no best configuration yet; the same command goes on.")
        return
    yield Prose(
        "The best trial's run stands in `best/`, ready to be measured; its configuration is "
        f"`{BEST_CONFIG}`, which `cnsdiff train --config` takes."
    )
    yield Source("next.sh", text + "\n")
    if file.is_file():
        yield Source(BEST_CONFIG, file.read_text(encoding="utf-8", errors="replace"))
