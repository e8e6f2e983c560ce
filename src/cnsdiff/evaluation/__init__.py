"""Exact full ranking, metrics and their comparison across splits."""

from cnsdiff.evaluation.anticipation import Anticipation, anticipate
from cnsdiff.evaluation.dial import Dialled, exposure_score, readings
from cnsdiff.evaluation.metrics import Relevance
from cnsdiff.evaluation.protocol import Evaluation, SplitEvaluation, evaluate, evaluate_split
from cnsdiff.evaluation.ranking import EmbeddingScorer, Scorer, rank

__all__ = [
    "Anticipation",
    "Dialled",
    "EmbeddingScorer",
    "Evaluation",
    "Relevance",
    "Scorer",
    "SplitEvaluation",
    "anticipate",
    "evaluate",
    "evaluate_split",
    "exposure_score",
    "rank",
    "readings",
]
