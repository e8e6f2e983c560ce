"""Configuration, curves and run directory on an MLflow tracking server or in a local store.

Everything goes through a client of our own: the active run, the tracking address and the
experiment of a program that uses MLflow itself stay as they are.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from cnsdiff.base.errors import CnsdiffError, InputError
from cnsdiff.base.storage import first_line
from cnsdiff.base.text import install_command
from cnsdiff.evaluation import Evaluation
from cnsdiff.recommender.callbacks import FitContext, without_passwords
from cnsdiff.recommender.run_directory import Fitted, read_manifest
from cnsdiff.tracking.tracker import (
    MLflowPlace,
    Tracker,
    dotted,
    epoch_scalars,
    evaluation_scalars,
    read_places,
    reading_scalars,
    write_place,
)
from cnsdiff.training.checkpoint import EpochRecord

if TYPE_CHECKING:
    from mlflow import MlflowClient

#: In force during our calls, unless set otherwise. MLflow would ask a silent server for minutes.
_PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "30"}
#: What a store takes at once, and the length of a value.
_PARAMS, _VALUE = 100, 6000


class MLflowCallback(Tracker):
    """Writes a training as an MLflow run.

    Settings as parameters, one point per epoch of each loss term, validation metric, count of
    false negatives, hardness and time; at the end the best epoch, the dial and the run directory
    as an artifact. MLflow allows no ``@`` in names, so ``valid/ndcg@20`` is
    ``valid/ndcg_at_20``. A resumed training goes on in the same MLflow run.

    MLflow's telemetry is switched off (``MLFLOW_DISABLE_TELEMETRY``) unless your environment
    says otherwise: no request goes anywhere but to the tracking address.

    Parameters
    ----------
    tracking_uri
        A server, or a database as ``sqlite:///mlflow.db``; by default where MLflow itself would
        write (``MLFLOW_TRACKING_URI``, or ``mlflow.db`` in the working folder).
    experiment
        The experiment's name; made if there is none.
    run_name
        By default that of the run directory, or one of MLflow's own making.
    artifacts
        Whether to store the run directory.

    Attributes
    ----------
    run_id_
        MLflow's id of the run, from the beginning of the training on.

    Raises
    ------
    InputError
        MLflow is not installed.
    """

    run_id_: str

    def __init__(
        self,
        tracking_uri: str | None = None,
        experiment: str = "cnsdiff",
        run_name: str | None = None,
        *,
        artifacts: bool = True,
    ) -> None:
        if find_spec("mlflow") is None:
            raise InputError(
                "MLflowCallback needs MLflow, which is not installed; "
                f"install it with: {install_command('mlflow')}"
            )
        self.tracking_uri = tracking_uri
        self.experiment = experiment
        self.run_name = run_name
        self.artifacts = artifacts
        self._run: Path | None = None
        self._client: MlflowClient | None = None
        self._logged = 0  # epochs

    def begin_fit(self, context: FitContext) -> None:
        self._run, self._client = context.run, None
        before = read_places(context.run).mlflow
        try:
            with _patience():
                client = _client(self.tracking_uri or (before.tracking_uri if before else None))
                self._logged = 0
                if before is None or not self._goes_on(client, before.run_id):
                    self.run_id_ = self._created(client, context)
        except CnsdiffError:
            raise
        except Exception as error:  # of MLflow, of its database, of the network
            address = self.tracking_uri or "its default place"
            raise InputError(
                without_passwords(f"MLflow at {address}: cannot be used ({first_line(error)})")
                + "; check the address, or train without tracking"
            ) from error
        self._client = client
        uri = client.tracking_uri
        place = MLflowPlace(
            run_id=self.run_id_,
            experiment=self.experiment,
            tracking_uri=None if _has_password(uri) else _from_anywhere(uri),
        )
        write_place(context.run, mlflow=place)
        context.note(
            f"MLflow: run {self.run_id_} of the experiment {self.experiment!r} at "
            f"{without_passwords(uri)}"
        )

    def log_epoch(self, record: EpochRecord) -> None:
        # A killed training may have a checkpoint of an epoch that was not logged any more.
        if record["epoch"] > self._logged:
            with _patience():
                self._put(epoch_scalars(record), record["epoch"])
            self._logged = record["epoch"]

    def end_fit(self, fitted: Fitted) -> None:
        values = {
            "best_epoch": float(fitted.best_epoch),
            "epochs": float(len(fitted.history)),
        } | reading_scalars(fitted.model)
        best = next(r for r in fitted.history if r["epoch"] == fitted.best_epoch)["validation"]
        values |= {f"best/{name}": value for name, value in best.items()}
        with _patience():
            self._put(values, fitted.best_epoch)
            if self.artifacts and self._run is not None:
                self._open.log_artifacts(self.run_id_, str(self._run), "run")
            self._open.set_terminated(self.run_id_, "FINISHED")
        self._client = None

    def abort_fit(self, error: BaseException) -> None:
        if self._client is not None:
            status = "KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED"
            with _patience():
                self._client.set_terminated(self.run_id_, status)
        self._client = None

    def log_evaluation(self, evaluation: Evaluation, run: str | Path | None = None) -> None:
        """Add an evaluation's metrics to the MLflow run.

        Parameters
        ----------
        evaluation
            As :meth:`cnsdiff.Recommender.evaluate` returns it.
        run
            The run directory of a training that was tracked; by default, the training that this
            callback has just heard of.

        Raises
        ------
        InputError
            There is no such training.
        """
        run_id, address, step = getattr(self, "run_id_", None), self.tracking_uri, 0
        folder = self._run if run is None else Path(run)
        if folder is not None:
            place = read_places(folder).mlflow
            run_id = place.run_id if place else None
            address = address or (place.tracking_uri if place else None)
            step = getattr(read_manifest(folder), "best_epoch", 0)
        if run_id is None:
            raise InputError(
                f"{run or 'log_evaluation'}: no training was tracked by MLflow; fit with this "
                "callback first, or name its run directory"
            )
        with _patience():
            _put(_client(address), run_id, evaluation_scalars(evaluation), step)

    @property
    def _open(self) -> MlflowClient:
        assert self._client is not None, "begin_fit comes first"
        return self._client

    def _goes_on(self, client: MlflowClient, run_id: str) -> bool:
        """Whether this store has the run of before, which is then open again."""
        from mlflow.exceptions import MlflowException

        try:
            run = client.get_run(run_id)
            if run.info.lifecycle_stage != "active":
                return False
            client.update_run(run_id, status="RUNNING")
            logged = client.get_metric_history(run_id, "seconds")
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":  # another store, or wiped
                return False
            raise
        self.run_id_ = run_id
        self._logged = max((metric.step for metric in logged), default=0)
        return True

    def _created(self, client: MlflowClient, context: FitContext) -> str:
        from mlflow.entities import Param

        known = client.get_experiment_by_name(self.experiment)
        experiment = known.experiment_id if known else client.create_experiment(self.experiment)
        name = self.run_name or (context.run.resolve().name if context.run else None)
        run = client.create_run(experiment, tags=_tags(context), run_name=name)
        params = [
            Param(key, (value if isinstance(value, str) else json.dumps(value))[:_VALUE])
            for key, value in dotted(context.config.model_dump(mode="json"))
        ]
        for start in range(0, len(params), _PARAMS):
            client.log_batch(run.info.run_id, params=params[start : start + _PARAMS])
        run_id: str = run.info.run_id
        return run_id

    def _put(self, values: Mapping[str, float], step: int) -> None:
        _put(self._open, self.run_id_, values, step)


def _client(address: str | None) -> MlflowClient:
    # Telemetry asks when it is imported and at each call whether it shall send.
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=address)


def _put(client: MlflowClient, run_id: str, values: Mapping[str, float], step: int) -> None:
    from mlflow.entities import Metric

    now = round(time.time() * 1000)
    metrics = [Metric(_allowed(name), value, now, step) for name, value in values.items()]
    client.log_batch(run_id, metrics=metrics)


def _tags(context: FitContext) -> dict[str, str]:
    provenance = context.provenance
    tags = {f"dataset.{name}": value for name, value in provenance.dataset.model_dump().items()}
    tags |= {f"version.{name}": value for name, value in provenance.versions.items()}
    tags["version.cnsdiff"] = provenance.created_by.removeprefix("cnsdiff ")
    tags["config_fingerprint"] = provenance.config_fingerprint
    tags["seed"] = context.config.seed
    tags["run"] = None if context.run is None else context.run.resolve()
    return {name: str(value) for name, value in tags.items() if value is not None}


def _allowed(name: str) -> str:
    """A metric's name in the letters that MLflow allows everywhere."""
    return re.sub(r"[^\w\-. /]+", "_", name.replace("@", "_at_")).strip("_ ")


def _from_anywhere(address: str) -> str:
    """The address, valid in other working folders too."""
    database = address.removeprefix("sqlite:///")
    place = str(Path(database).resolve())
    # Behind a question mark an address has its options, and in a path it cannot be quoted.
    return address if database == address or "?" in place else f"sqlite:///{place}"


def _has_password(address: str) -> bool:
    try:
        return urlsplit(address).password is not None
    except ValueError:
        return True


@contextlib.contextmanager
def _patience() -> Iterator[None]:
    added = {name: value for name, value in _PATIENCE.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)
