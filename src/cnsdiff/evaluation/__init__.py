"""Exact full ranking, metrics and their comparison across splits."""

from cnsdiff.evaluation.anticipation import Anticipation, anticipate
from cnsdiff.evaluation.dial import Dialled, exposure_score, readings
from cnsdiff.evaluation.protocol import evaluate, evaluate_split
from cnsdiff.evaluation.ranking import rank
from cnsdiff.evaluation.relevance import Relevance
from cnsdiff.evaluation.results import Evaluation, SplitEvaluation
from cnsdiff.evaluation.scorer import EmbeddingScorer, Scorer

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
