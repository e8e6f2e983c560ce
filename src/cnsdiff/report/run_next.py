"""What to run next with a trained model, as commands."""

from __future__ import annotations

from pathlib import Path

from cnsdiff.audit.shifts import SHIFTS
from cnsdiff.base.visible import shell_word
from cnsdiff.data import Dataset
from cnsdiff.recommender.recommender import Recommender
from cnsdiff.report.document import Block, Source


def next_steps(
    path: Path, model: Recommender, data: Dataset | None, missing: str | None
) -> list[Block]:
    run = shell_word(path)
    lines = []
    if missing:
        lines += [
            "# The whole of this report needs the dataset:",
            f"cnsdiff report {run} --dataset DATASET",
        ]
    first = shell_word(model.users_[0])
    lines += [
        "# Lists for some users, as this model serves them:",
        f"cnsdiff recommend {run} --users {first} --k 10",
    ]
    if data is not None and data.path is not None:
        place = shell_word(data.path)
        same = f"cnsdiff train {place} --config {run}/config.yaml"
        expected = SHIFTS.get(data.scenario)
        chosen = model.config_.training.select_on
        if expected is not None and chosen != expected.anticipate:
            lines += [
                f"# The same, with epoch and dial chosen for a {data.scenario} shift, still on "
                f"validation alone (this run: {chosen}):",
                f"{same} {' '.join(expected.options)} --out {run}-{expected.anticipate}",
            ]
        elif expected is None and chosen == "valid":
            lines += [
                "# The same, with epoch and dial chosen for a shift of popularity, if that is what "
                "you expect:",
                f"{same} --select-on inverse-popularity --out {run}-anticipated",
            ]
        if model.config_.sampler.name != "exposure":
            expecting = " ".join(expected.options) if expected else "--select-on valid"
            lines += [
                "# The default sampler, for comparison:",
                f"cnsdiff train {place} {expecting} --out {run}-default",
            ]
        lines += [
            "# How much of this is luck of the seed:",
            f"{same} --seed 1 --out {run}-seed-1",
            "# How many of the sampler's negatives are false:",
            f"cnsdiff evaluate {run} --references --false-negatives valid",
        ]
    return [Source("next.sh", "\n".join(lines) + "\n")]
