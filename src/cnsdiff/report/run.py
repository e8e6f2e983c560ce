"""The report of a run: what it keeps under the shift, beside what any method has to beat."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

import polars as pl

from cnsdiff.audit.shifts import SHIFTS
from cnsdiff.base.errors import CnsdiffError, InputError
from cnsdiff.base.storage import read_parquet
from cnsdiff.base.text import Command, parameter
from cnsdiff.benchmark.fit import reference_scorer
from cnsdiff.data import Dataset, Split, load_dataset
from cnsdiff.diagnostics import describe
from cnsdiff.display.progress import Reporting
from cnsdiff.display.tables import Column, Table
from cnsdiff.display.wording import (
    SPLIT_TITLES,
    metric_title,
    number,
    number_span,
    percent,
    percent_span,
)
from cnsdiff.environment import rehearse
from cnsdiff.evaluation.dial import in_words
from cnsdiff.evaluation.metrics import ACCURACY
from cnsdiff.evaluation.significance import Interval
from cnsdiff.recommender.recommender import Recommender
from cnsdiff.recommender.run_directory import history_table, read_manifest
from cnsdiff.references import CLOSED_FORM, REHEARSED, STANDARD, left_out_if_it_fails
from cnsdiff.report.accuracy import (
    ALPHA,
    Measured,
    Standing,
    accuracy_blocks,
    measure_model,
    slice_blocks,
    stand,
    tests_of,
)
from cnsdiff.report.charts import SPLITS, Style, curves, mark_x, method_styles
from cnsdiff.report.dataset import shift_blocks
from cnsdiff.report.document import (
    Block,
    Document,
    Facts,
    Figure,
    Prose,
    Section,
    Source,
    verbatim,
)
from cnsdiff.report.model import (
    dial_blocks,
    environment_blocks,
    negative_blocks,
    new_item_blocks,
)

#: Items up to which EASE is fitted here: its time grows with their cube, some 20 s at this limit.
EASE_ITEMS = 10_000


def run_document(
    path: Path, *, dataset: Path | None = None, seed: int = 0, reporter: Reporting | None = None
) -> Document:
    """The report of a finished run.

    Parameters
    ----------
    path
        The run directory.
    dataset
        Where its dataset is now, if it has moved. A run whose dataset is gone has a report of what
        it holds itself.
    seed
        Of the resampling of users and of the negatives drawn.
    reporter
        Told what is being done.

    Raises
    ------
    RunError
        The run is unfinished or damaged.
    InputError
        ``dataset`` is not the one the run was trained on.
    """
    reporter = reporter or Reporting()
    model = Recommender.load(path)
    config, history = model.config_, history_table(model.history_)
    whole, missing = _dataset_of(model, path, dataset)
    data = None if whole is None else model.learnt_from(whole)
    metric = _metric(model)
    sections: list[Section] = []

    # What it reaches on the tests, or what is known without them.
    held_out = tests_of(data) if data is not None else {}
    if data is not None and held_out:
        measured, left_out = _measure(model, data, held_out, path, reporter)
        reporter.note("comparing them by resampling users")
        standing = stand(measured, metric, seed)
        verdict, summary = verdict_on_tests(standing, data, complete=not left_out)
        notes = left_out
        if model.environment_ is not None:
            notes = [*left_out, "References are rehearsed, too, each with its own environment."]
        summary = "\n\n".join([summary, *notes])
        slices = slice_blocks(measured, held_out, model.model_.train, metric, seed)
        sections += [
            Section("Accuracy", accuracy_blocks(standing)),
            Section("Slices", slices),
        ]
        if model.model_.bias is None and config.dialled:
            reporter.note("turning the dial")
            dial = dial_blocks(model.model_, config, data, held_out, measured[1:], metric)
            sections.append(Section("Dial", dial))
    else:
        verdict, summary = verdict_without_tests(model, history, missing)
        if (known := _last_evaluation(path, metric)) is not None:
            sections.append(Section("Accuracy", [known]))

    if model.environment_ is not None:
        sections.append(Section("Environment", environment_blocks(model.environment_)))

    if data is not None:
        if model.content_ is not None:
            reporter.note("placing new items")
        found = data
        if new := _or_why_not(lambda: new_item_blocks(model, found, metric)):
            sections.append(Section("New items", new))

    # What the sampler makes, and how far the splits are apart.
    if whole is not None and data is not None:
        if not config.closed_form:
            reporter.note("asking the trained sampler for negatives")
            negatives = _or_why_not(lambda: negative_blocks(model, data, seed))
            sections.append(Section("Negatives", negatives))
        reporter.note("measuring the shift")
        shift = _or_why_not(lambda: shift_blocks(describe(whole, seed=seed)))
        sections.append(Section("Shift", shift))

    # What the run holds itself.
    k = metric.partition("@")[2]
    metrics = dict.fromkeys((config.training.selection_metrics[0], f"ndcg@{k}", f"recall@{k}"))
    training = training_blocks(history, model.best_epoch_, tuple(metrics))
    sections += [
        Section("Training", [solution(model)] if config.closed_form else training),
        Section("Next", [next_commands(path, model, data, missing)]),
        Section("Run", _provenance(path, model, history)),
    ]
    trained_on = model.trained_on_
    title = f"{config.title} on {trained_on['name']} ({trained_on['scenario']})"
    return Document(title, verdict, sections, summary)


def _dataset_of(
    model: Recommender, path: Path, moved_to: Path | None
) -> tuple[Dataset | None, str | None]:
    """The dataset of the run, or why there is none."""
    place = moved_to or model.dataset_path_
    if place is None:
        return None, "It was trained on a dataset in memory"
    try:
        data = load_dataset(place)
    except CnsdiffError:
        if moved_to is not None:
            raise
        return None, f"Its dataset is no longer in {place}"
    if data.fingerprint != model.trained_on_["fingerprint"]:
        if moved_to is not None:
            raise InputError(
                f"{moved_to}: is not the dataset that {path} was trained on, or its content "
                "changed; name that one"
            )
        return None, f"The dataset in {place} is no longer the one that it was trained on"
    return data, None


def _metric(model: Recommender) -> str:
    """The metric of the figures: the one that selects, where it is one of accuracy."""
    chosen, ks = model.config_.training.select_metric, model.config_.evaluation.ks
    name, _, k = chosen.partition("@")
    return chosen if name in ACCURACY and k.isdigit() and int(k) in ks else f"ndcg@{max(ks)}"


def _measure(
    model: Recommender,
    data: Dataset,
    held_out: Mapping[str, Split],
    path: Path,
    reporter: Reporting,
) -> tuple[list[Measured], list[str]]:
    """The run and the references on the tests, and what was left out, a sentence each."""
    train, ks = model.model_.train, model.config_.evaluation.ks
    reporter.note(f"ranking for the users of {data.name}")
    name = f"{model.config_.method} (this run)"
    measured = [measure_model(name, model.model_.scorer(), held_out, train, ks)]
    left_out: list[str] = []
    failures: dict[str, str] = {}
    # Beside a model that was rehearsed, references are, too.
    settings, rehearsal = model.config_.training, None
    if model.environment_ is not None:
        rehearsal = rehearse(data, settings.horizon)
    for name in STANDARD if rehearsal is None else REHEARSED:
        if name == "ease" and data.n_items > EASE_ITEMS:
            left_out.append(
                f"EASE is left out: its time grows with the cube of the {data.n_items:,} items. "
                f"`{verbatim(Command('evaluate', path, references=True))}` measures it."
            )
            continue
        reporter.note(f"fitting {name}")
        with left_out_if_it_fails(name, failures):
            scorer = reference_scorer(name, data, rehearsal=rehearsal, settings=settings)
            measured.append(measure_model(name, scorer, held_out, train, ks))
    left_out += [f"{name} is left out: {reason}." for name, reason in failures.items()]
    return measured, left_out


def _last_evaluation(path: Path, metric: str) -> Block | None:
    """The metrics that ``cnsdiff evaluate`` wrote last, if it did: without intervals."""
    file = path / "metrics.parquet"
    if not file.is_file():
        return None
    name, _, k = metric.partition("@")
    try:
        chosen = read_parquet(file).filter(pl.col("metric") == name, pl.col("k") == int(k))
        wide = chosen.pivot("split", index="model", values="value", maintain_order=True)
        rows = [([str(model)], values) for model, *values in wide.iter_rows()]
    except (pl.exceptions.PolarsError, OSError, ValueError, KeyError):
        return Prose("The file `metrics.parquet` of the run is damaged; evaluate it again.")
    return Table.of(
        f"{metric_title(metric)} when it was last evaluated",
        ["method"],
        [Column(split, SPLIT_TITLES.get(split, split)) for split in wide.columns[1:]],
        rows,
        "from metrics.parquet of the run; without the dataset there are no intervals",
    )


def _or_why_not(build: Callable[[], list[Block]]) -> list[Block]:
    """The blocks of a section, or the sentence that says why it has none."""
    try:
        return build()
    except CnsdiffError as error:
        return [Prose(f"Left out: {verbatim(error)}")]


# --- The verdict


def verdict_on_tests(
    standing: Standing, data: Dataset, *, complete: bool = True
) -> tuple[str, str]:
    """One sentence, and what has to be known beside it.

    ``complete`` says that no reference was left out.
    """
    own, *others = standing.measured
    metric, title = standing.metric, metric_title(standing.metric)
    judged = "test_ood" if "test_ood" in own.splits else "test_iid"
    means = {split: own.splits[split][metric] for split in own.splits}

    def best_on(split: str) -> tuple[Measured, float]:
        best = max(others, key=lambda other: other.splits[split][metric])
        return best, best.splits[split][metric]

    # Beside the best reference.
    the_best = "the best reference" if complete else "the best of the references measured here"
    best, reached = best_on(judged)
    if reached:
        times = f"{means[judged] / reached:.2f} × {the_best} ({best.name})"
    else:
        times = f"where {the_best} ({best.name}) has 0"
    gap = standing.differences[best.name, judged]
    chance = "more than" if gap.p_value < ALPHA else "within what"
    summary = (
        f"The difference to that reference is {chance} chance makes "
        f"({number(gap.value, signed=True)}, 95% interval "
        f"{number_span(gap.low, gap.high, signed=True)}, paired bootstrap over users)."
    )
    if len(means) < 2:
        other = SPLIT_TITLES["test_ood" if judged == "test_iid" else "test_iid"]
        return (
            f"{title} of {number(means[judged])} on the {SPLIT_TITLES[judged]}, {times}.",
            f"{summary} The dataset has no {other}, so what the shift costs is not known.",
        )

    # What it keeps under the shift, and what the references keep.
    kept = standing.kept[own.name]
    shift = "shift" if data.scenario == "given" else f"{data.scenario} shift"
    moved = f"{number(means['test_iid'])}\u00a0→\u00a0{number(means['test_ood'])}"
    if math.isnan(kept.value):
        verdict = f"{title} under the {shift}: {moved}, {times}."
    elif kept.value >= 1:
        verdict = f"Loses nothing of its {title} under the {shift} ({moved}), {times}."
    else:
        verdict = f"Keeps {_share(kept)} of its {title} under the {shift} ({moved}), {times}."
    keeps = [
        f"{other.name} {_share(standing.kept[other.name])}"
        for other in others
        if not math.isnan(standing.kept[other.name].value)
    ]
    if keeps:
        summary += f" The references keep: {', '.join(keeps)}."

    # What that costs today.
    today, reached = best_on("test_iid")
    if reached > 0:
        summary += (
            f" What it costs today: on the IID test it has **{means['test_iid'] / reached:.2f} ×** "
            f"{the_best} ({verbatim(today.name)})."
        )
    return verdict, summary + " [What to run next](#next)."


def _share(kept: Interval) -> str:
    inside = "" if math.isnan(kept.low) else f" ({percent_span(kept.low, kept.high)})"
    return percent(kept.value, 0) + inside


def verdict_without_tests(
    model: Recommender, history: pl.DataFrame, missing: str | None
) -> tuple[str, str]:
    """One sentence on what validation says, and why the tests say nothing."""
    selecting = model.config_.training.selection_metrics[0]
    best = history.filter(pl.col("epoch") == model.best_epoch_)
    reached = "Trained"
    if best.height and (column := f"valid/{selecting}") in best.columns:
        reached = f"{metric_title(selecting)} of {number(best[column][0])} on validation"
    epoch = "" if model.config_.closed_form else f" at epoch {model.best_epoch_}"
    verdict = f"{reached}{epoch}; nothing is known of a test."
    why = missing or "Its dataset has no test split"
    mend = (
        f"name where it is now with `{parameter('dataset')}` for the rest of this report"
        if missing
        else "prepare it with a test for the rest of this report"
    )
    return verdict, f"{verbatim(why)}: {mend}. [What to run next](#next)."


# --- The section "Training": what its history holds, and nothing that it does not


#: What the scalars of a history are; one that is not here is shown under its own name.
MEANINGS = {
    "loss": ("Loss", "What training minimises: the sum of its terms."),
    "bpr": ("BPR", "The ranking loss of pairs."),
    "softmax": ("Softmax", "The ranking loss over many negatives."),
    "l2": ("L2", "The penalty on the size of the embeddings."),
    "contrastive": ("Contrastive term", "The alignment of positives with themselves."),
    "sampler": ("The sampler's own loss", "What the sampler learns by, as it is weighted."),
    "reconstruction": ("Reconstruction", "How far the denoiser is from the positive it had."),
    "causal": ("Causal term", "How much the generated negative depends on the environment."),
    "capped": ("Capped negatives", "Share of the generated that were pulled back by the cap."),
    "hardness": (
        "Hardness",
        "σ of the score of a negative less that of its positive: above ½, it scores higher.",
    ),
    "cos_to_positive": (
        "Nearness to the positive",
        "Cosine of a generated negative and its positive; at 1 they are the same.",
    ),
    "cos_to_source": (
        "Nearness to the source",
        "Cosine of a generated negative and the item that it was made from.",
    ),
    "hard_share": (
        "Hard negatives",
        "Share of the negatives that score above the user's median candidate.",
    ),
    "known_positive": (
        "Known positives",
        "Share of the synthesised negatives whose nearest item the user is known to like.",
    ),
}
#: Shown together, in another figure, or of no use to a reader.
_ELSEWHERE = {"fhn", "fhn_hard", "fhn_judged"}


def training_blocks(history: pl.DataFrame, best_epoch: int, metrics: Sequence[str]) -> list[Block]:
    """Small figures over the epochs: validation, the dial, each term of the loss, the negatives.

    Parameters
    ----------
    history
        ``history.parquet`` of a run.
    best_epoch
        The one whose weights were kept.
    metrics
        Validation metrics to draw, the one that selects first.
    """
    epochs = history["epoch"].to_list()
    style = method_styles(["run"])["run"]
    seconds = history["seconds"].sum()
    blocks: list[Block] = [
        Prose(
            f"{len(epochs)} epochs in {seconds:,.0f} s; the weights are those of epoch "
            f"**{best_epoch}**, the dotted line. Validation alone picked it."
        )
    ]

    def draw(title: str, caption: str, lines: dict[str, tuple[Style, str]]) -> None:
        there = {
            name: (one, history[column].to_list())
            for name, (one, column) in lines.items()
            if column in history.columns and history[column].is_not_null().any()
        }
        if there:
            figure, numbers = curves(epochs, there, x_title="epoch")
            mark_x(figure, best_epoch, f"epoch {best_epoch}")
            blocks.append(Figure(title, caption, figure, numbers, small=True))

    for metric in metrics:
        selects = metric == metrics[0]
        draw(
            f"{metric_title(metric)} on validation",
            "What picks the epoch." if selects else "Reported, and picks nothing.",
            {metric: (SPLITS["valid"], f"valid/{metric}")},
        )
    draw(
        "Dial",
        "The best of a coarse grid on validation; 0 reads the scores as trained.",
        {"dial": (style, "valid/dial")},
    )
    hard = method_styles(["all", "hard"])
    draw(
        "False negatives",
        "Share of the judged negatives that the user likes, by pairs held out in validation.",
        {"all": (hard["all"], "train/fhn"), "hard": (hard["hard"], "train/fhn_hard")},
    )
    for column in history.columns:
        kind, _, name = column.partition("/")
        if kind == "train" and name not in _ELSEWHERE:
            title, caption = MEANINGS.get(name, (name, "As the sampler or the loss reports it."))
            draw(title, caption, {name: (style, column)})
    return blocks


def solution(model: Recommender) -> Prose:
    """Of a model in closed form: what it took, and what it reached where it was chosen."""
    (record,) = model.history_
    chosen = model.config_.training.selection_metrics[0]
    where = "in the rehearsal" if model.selected_on_ == "rehearsal" else "on validation"
    facts = [
        f"{metric_title(chosen)} of {number(record['validation'][chosen])} {where}",
        *(f"{name.replace('_', ' ')} {value:g}" for name, value in record["train"].items()),
    ]
    seconds = record["seconds"] + record["validation_seconds"]
    return Prose(f"Solved in closed form, in {seconds:,.1f} s: {', '.join(facts)}.")


# --- What to run next, and where the run came from


def next_commands(
    path: Path, model: Recommender, data: Dataset | None, missing: str | None
) -> Source:
    """The commands that go on from the run in ``path``."""
    commands = []
    if missing:
        whole = "The whole of this report needs the dataset:"
        commands.append(Command("report", path, dataset="DATASET", purpose=whole))
    lists = "Lists for some users, as this model serves them:"
    commands.append(Command("recommend", path, users=model.users_[0], k=10, purpose=lists))
    if data is not None and data.path is not None:
        commands += _more_trainings(path, model, data.path, data.scenario)
        if model.config_.closed_form:
            beside = "Beside the references, as they are without a dial:"
            commands.append(Command("evaluate", path, references=True, purpose=beside))
        else:
            false = "How many of the sampler's negatives are false:"
            judge = {"references": True, "false_negatives": "valid"}
            commands.append(Command("evaluate", path, **judge, purpose=false))
    text = "".join(f"# {command.purpose}\n{command}\n" for command in commands)
    return Source("next.sh", text)


def _more_trainings(path: Path, model: Recommender, data: Path, scenario: str) -> list[Command]:
    """Other trainings on the same dataset."""
    expected = SHIFTS.get(scenario)
    chosen = model.selected_on_
    same = {"config": path / "config.yaml"}
    commands = []
    if expected is not None and chosen != expected.anticipate:
        purpose = (
            f"The same, with epoch and dial chosen for a {scenario} shift, still on validation "
            f"alone (this run: {chosen}):"
        )
        out = f"{path}-{expected.anticipate}"
        select = {"select_on": expected.anticipate, "set": expected.training, "out": out}
        commands.append(Command("train", data, **same, **select, purpose=purpose))
    elif expected is None and chosen == "valid":
        purpose = (
            "The same, with epoch and dial chosen for a shift of popularity, if that is what you "
            "expect:"
        )
        select = {"select_on": "inverse-popularity", "out": f"{path}-anticipated"}
        commands.append(Command("train", data, **same, **select, purpose=purpose))
    if model.config_.method != "exposure":
        select = {"select_on": "valid"}
        if expected is not None:
            select = {"select_on": expected.anticipate, "set": expected.training}
        default = "The default model, for comparison:"
        if not model.config_.closed_form:
            default = "The default sampler, for comparison:"
        commands.append(Command("train", data, **select, out=f"{path}-default", purpose=default))
    if model.config_.closed_form and CLOSED_FORM[model.config_.method].deterministic:
        return commands
    luck = "How much of this is luck of the seed:"
    again = Command("train", data, **same, seed=1, out=f"{path}-seed-1", purpose=luck)
    return [*commands, again]


def _provenance(path: Path, model: Recommender, history: pl.DataFrame) -> list[Block]:
    manifest, trained_on = read_manifest(path), model.trained_on_
    facts = [
        ("users", f"{len(model.users_):,}"),
        ("items", f"{len(model.items_):,}"),
        ("training pairs", f"{model.model_.train.nnz:,}"),
        *(
            []
            if model.config_.closed_form
            else [("epochs", f"{history.height}, the best {model.best_epoch_}")]
        ),
        ("seconds of training", f"{history['seconds'].sum():,.0f}"),
        *(
            [("weights of the stack", " : ".join(f"{w:g}" for w in model.stack_.weights))]
            if model.stack_
            else []
        ),
        *(
            [("dial", in_words(model.dial_))]
            if model.model_.bias is None and model.config_.dialled
            else []
        ),
        ("seed", str(model.config_.seed)),
        ("written by", manifest.created_by),
        ("Python", manifest.versions["python"]),
        ("torch", manifest.versions["torch"]),
        ("numpy", manifest.versions["numpy"]),
        ("this report by", f"cnsdiff {version('cnsdiff')}"),
        ("dataset", f"{trained_on['name']} ({trained_on['scenario']})"),
        ("fingerprint of the dataset", trained_on["fingerprint"]),
        ("fingerprint of the configuration", manifest.config_fingerprint),
        ("run", str(path)),
    ]
    config = (path / "config.yaml").read_text(encoding="utf-8")
    return [Facts(facts), Source("config.yaml", config)]
