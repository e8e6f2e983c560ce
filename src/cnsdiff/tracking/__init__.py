"""Trackers: callbacks that write a training into TensorBoard or MLflow."""

from cnsdiff.tracking.choices import resumed_trackers, trackers
from cnsdiff.tracking.mlflow import MLflowCallback
from cnsdiff.tracking.tensorboard import TensorBoardCallback

__all__ = ["MLflowCallback", "TensorBoardCallback", "resumed_trackers", "trackers"]
