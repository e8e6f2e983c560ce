"""Numbers in words: what is lost, what cannot be told, what is better."""

from __future__ import annotations

import pytest

from cnsdiff.audit.wording import cost_phrase, difference_phrase, lost_phrase, verdict
from cnsdiff.evaluation.significance import Interval

NONE = Interval(0.1, float("nan"), float("nan"))


@pytest.mark.parametrize(
    ("loss", "said"),
    [
        (Interval(0.62, 0.55, 0.69), "lose 62% (55–69%)"),
        (Interval(-0.08, -0.14, -0.03), "gain 8% (3–14%)"),
        (Interval(0.01, -0.03, 0.05), "lose nothing that this log can show (-3 to 5%)"),
        (Interval(0.2, -0.2, 0.5), "lose an amount that this log cannot tell (-20 to 50%)"),
        (NONE, "lose an amount that this log cannot tell"),
        (Interval(0.004, 0.001, 0.007), "lose 0.4% (0–1%)"),
    ],
)
def test_a_loss(loss, said):
    assert lost_phrase(loss) == said


def test_the_verdict_is_one_sentence_with_the_largest_loss_first():
    found = [
        ("as time goes by", Interval(0.08, 0.02, 0.14)),
        ("if popularity shifted", Interval(0.62, 0.55, 0.69)),
    ]
    assert verdict("Your recommender", "ndcg@20", found) == (
        "Your recommender would lose 62% (55–69%) of its NDCG@20 if popularity shifted and 8% "
        "(2–14%) as time goes by."
    )


def test_the_verdict_mixes_losses_gains_and_what_cannot_be_told():
    found = [
        ("A", Interval(-0.1, -0.2, -0.05)),
        ("B", NONE),
        ("C", Interval(0.3, 0.2, 0.4)),
    ]
    said = verdict("It", "recall@10", found)
    assert said == (
        "It would lose 30% (20–40%) of its Recall@10 C and gain 10% (5–20%) A; how much B, "
        "this log cannot tell."
    )
    assert "no shift of this log was measured" in verdict("It", "ndcg@20", [])


def test_a_verdict_of_what_cannot_be_told():
    said = verdict("It", "ndcg@20", [("A", Interval(0.2, -0.2, 0.5)), ("B", NONE)])
    assert said == (
        "It: this log cannot tell how much of its NDCG@20 it would lose A (-20 to 50%) or B."
    )


def test_a_verdict_without_a_loss():
    said = verdict("It", "ndcg@20", [("A", Interval(0.0, -0.02, 0.02))])
    assert said == "It would lose nothing of its NDCG@20 that this log can show (-2 to 2%) A."


@pytest.mark.parametrize(
    ("difference", "said"),
    [
        (Interval(0.012, 0.008, 0.016), "+0.0120 (+0.0080 to +0.0160)"),
        (Interval(-0.012, -0.016, -0.008), "-0.0120 (-0.0160 to -0.0080)"),
        (
            Interval(0.001, -0.003, 0.004),
            "no difference that this log can show (-0.0030 to +0.0040)",
        ),
        (NONE, "a difference that this log cannot tell"),
    ],
)
def test_a_difference(difference, said):
    assert difference_phrase(difference) == said


@pytest.mark.parametrize(
    ("difference", "of", "said"),
    [
        (Interval(-0.012, -0.016, -0.008), 0.12, "costs 10% (0.0120; 0.0080 to 0.0160)"),
        (Interval(0.012, 0.008, 0.016), 0.12, "gains 10% (0.0120; 0.0080 to 0.0160)"),
        (Interval(-0.012, -0.016, -0.008), None, "costs 0.0120 (0.0080 to 0.0160)"),
        (Interval(-0.001, -0.004, 0.003), 1.0, "costs nothing that this log can show"),
        (NONE, 1.0, "costs what this log cannot tell"),
    ],
)
def test_a_cost(difference, of, said):
    assert cost_phrase(difference, of).startswith(said)
