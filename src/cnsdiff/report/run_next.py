"""What to run next with a trained model, as commands."""

from __future__ import annotations

from pathlib import Path

from cnsdiff.audit.shifts import SHIFTS
from cnsdiff.base.spelling import Command
from cnsdiff.data import Dataset
from cnsdiff.recommender.recommender import Recommender
from cnsdiff.report.document import Block, Source


def next_steps(
    path: Path, model: Recommender, data: Dataset | None, missing: str | None
) -> list[Block]:
    """The block of commands that ends the report of the run in ``path``."""
    commands = []
    if missing:
        whole = "The whole of this report needs the dataset:"
        commands.append(Command("report", path, dataset="DATASET", purpose=whole))
    lists = "Lists for some users, as this model serves them:"
    commands.append(Command("recommend", path, users=model.users_[0], k=10, purpose=lists))
    if data is not None and data.path is not None:
        commands += _with_the_dataset(path, model, data.path, data.scenario)
    return [Source("next.sh", "".join(f"# {step.purpose}\n{step}\n" for step in commands))]


def _with_the_dataset(path: Path, model: Recommender, data: Path, scenario: str) -> list[Command]:
    """Other trainings on the same dataset, and what a measurement of this one would add."""
    expected = SHIFTS.get(scenario)
    chosen = model.config_.training.select_on
    same = {"config": path / "config.yaml"}
    commands = []
    if expected is not None and chosen != expected.anticipate:
        commands.append(
            Command(
                "train",
                data,
                **same,
                **expected.options,
                out=f"{path}-{expected.anticipate}",
                purpose=f"The same, with epoch and dial chosen for a {scenario} shift, still on "
                f"validation alone (this run: {chosen}):",
            )
        )
    elif expected is None and chosen == "valid":
        commands.append(
            Command(
                "train",
                data,
                **same,
                select_on="inverse-popularity",
                out=f"{path}-anticipated",
                purpose="The same, with epoch and dial chosen for a shift of popularity, if that "
                "is what you expect:",
            )
        )
    if model.config_.sampler.name != "exposure":
        options = expected.options if expected else {"select_on": "valid"}
        default = "The default sampler, for comparison:"
        commands.append(Command("train", data, **options, out=f"{path}-default", purpose=default))
    luck = "How much of this is luck of the seed:"
    false = "How many of the sampler's negatives are false:"
    judge = {"references": True, "false_negatives": "valid"}
    return [
        *commands,
        Command("train", data, **same, seed=1, out=f"{path}-seed-1", purpose=luck),
        Command("evaluate", path, **judge, purpose=false),
    ]
