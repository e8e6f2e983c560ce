"""What limits that which is said of a shift."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cnsdiff.audit.judging import TESTS, Judged
from cnsdiff.audit.methods import METHODS
from cnsdiff.display.wording import SPLIT_TITLES

#: Fewer users than this in a test make wide intervals.
FEW_USERS = 100
#: Fewer validation pairs than this, counted as they weigh, make a choice uncertain.
FEW_PAIRS = 500


def limits_of(told: Mapping[str, Any], judged: Judged) -> list[str]:
    """What keeps the numbers of a shift from saying more, a sentence each.

    Parameters
    ----------
    told
        All else that is said of the shift.
    judged
        Its settings on both tests.
    """
    limits = []
    for test in TESTS:
        if judged.n_users[test] < FEW_USERS:
            limits.append(
                f"The {SPLIT_TITLES[test]} has {judged.n_users[test]:,} users only, so its "
                "intervals are wide and small differences cannot be seen."
            )
    if not judged.kept.comparable:
        limits.append(
            "The users of the OOD test have far more or fewer items to find than those of the IID "
            "test, so what is lost cannot be told; methods can be compared all the same."
        )
    if told["effective_pairs"] < FEW_PAIRS:
        limits.append(
            f"For this shift the validation pairs weigh as much as {told['effective_pairs']:,.0f} "
            "equal ones, so that its choice is uncertain."
        )
    dropped = told["size"]["splits"]["test_ood"]["dropped_unknown"] or 0
    kept = told["size"]["splits"]["test_ood"]["pairs"]
    if dropped > kept:
        limits.append(
            f"{dropped:,} of {dropped + kept:,} pairs of the OOD test are of users or items that "
            "train does not know and were left out: what is said holds for the known ones alone."
        )
    cut = sorted({r["method"] for r in told["table"] if r["stopped_by"] == "time"})
    if cut:
        names = " and ".join(METHODS[name].title for name in cut)
        limits.append(
            f"The clock ended the training of {names}: with a longer budget the numbers may rise."
        )
    limits += [
        f"{METHODS[name].title} was left out: the time was up." for name in told["unfinished"]
    ]
    limits += told["size"]["problems"]
    return limits
