"""What MLflow itself reads from a local store."""

from __future__ import annotations

import json
import math
import socket

import pytest
from mlflow import MlflowClient

from cnsdiff import Recommender
from cnsdiff.base.errors import InputError
from cnsdiff.recommender.callbacks import without_passwords
from cnsdiff.recommender.run_directory import history_row
from cnsdiff.tracking import MLflowCallback
from cnsdiff.tracking.mlflow import _has_password
from cnsdiff.training.config import TrainingConfig


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> str:
    """One database for all tests: MLflow takes seconds to make it."""
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/mlflow.db"


@pytest.fixture(autouse=True)
def no_request_leaves(monkeypatch):
    """Every connection to elsewhere is an error."""
    connect = socket.socket.connect

    def local(self, address):
        assert self.family == socket.AF_UNIX or address[0] in ("127.0.0.1", "::1"), address
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", local)


def in_mlflow(name: str) -> str:
    return name.replace("@", "_at_")


def assert_same_curves(client: MlflowClient, run_id: str, history) -> None:
    rows = [history_row(record) for record in history]
    for name in {name for row in rows for name in row} - {"epoch"}:
        points = [(row["epoch"], row[name]) for row in rows if name in row]
        found = client.get_metric_history(run_id, in_mlflow(name))
        assert sorted((metric.step, metric.value) for metric in found) == points, name


def test_an_environment_is_logged_in_place_of_a_dial(dated, store):
    callback = MLflowCallback(store)
    model = Recommender("mf", training={"epochs": 1})
    model.fit(dated, select_on="rehearsal", callbacks=[callback])
    metrics = MlflowClient(store).get_run(callback.run_id_).data.metrics
    environment = model.environment_
    assert environment is not None and "dial" not in metrics
    for name, coefficient in zip(environment.names, environment.coefficients, strict=True):
        assert metrics[f"environment/{name}"] == coefficient


def test_parameters_curves_tags_and_the_run_itself(world, recommender, tmp_path, store, noting):
    model = recommender(seed=5)
    callback = MLflowCallback(store, experiment="audit", run_name="first")
    model.fit(world, run=tmp_path / "run", reporter=noting, callbacks=[callback])
    client = MlflowClient(store)
    run = client.get_run(callback.run_id_)
    assert client.get_experiment(run.info.experiment_id).name == "audit"
    assert (run.info.run_name, run.info.status) == ("first", "FINISHED")
    assert_same_curves(client, callback.run_id_, model.history_)
    assert run.data.params["training.epochs"] == "4"
    assert run.data.params["sampler.name"] == model.config_.sampler.name
    assert run.data.params["objective.contrastive.weight"] == str(
        model.config_.objective.contrastive.weight
    )
    assert run.data.params["training.patience"] == "null"
    assert {f"training.{name}" for name in TrainingConfig.model_fields} <= run.data.params.keys()
    assert run.data.tags["dataset.fingerprint"] == world.fingerprint
    assert run.data.tags["seed"] == "5"
    assert {"version.cnsdiff", "version.torch", "config_fingerprint"} <= run.data.tags.keys()
    assert run.data.metrics["best_epoch"] == model.best_epoch_
    assert run.data.metrics["dial"] == model.dial_
    best = model.history_[model.best_epoch_ - 1]["validation"]
    assert run.data.metrics["best/ndcg_at_20"] == best["ndcg@20"]
    stored = {entry.path for entry in client.list_artifacts(callback.run_id_, "run")}
    assert {"run/manifest.json", "run/weights.safetensors", "run/config.yaml"} <= stored
    assert noting.notes[-1].startswith(f"MLflow: run {callback.run_id_} of the experiment 'audit'")
    # An evaluation, by the callback that heard of the training and by a new one.
    evaluation = model.evaluate(world)
    callback.log_evaluation(evaluation)
    metrics = client.get_run(callback.run_id_).data.metrics
    for split in ("valid", "test_iid", "test_ood"):
        expected = evaluation[split]["ndcg@20"]
        assert metrics[f"{split}/ndcg_at_20"] == expected or split == "valid"
    assert math.isclose(metrics["kept/recall_at_10"], evaluation.kept()["recall@10"])
    MLflowCallback().log_evaluation(evaluation, tmp_path / "run")
    (first, second) = client.get_metric_history(callback.run_id_, "test_ood/mrr_at_10")
    assert first.step == second.step == model.best_epoch_


def test_a_resumed_training_goes_on_in_the_same_run(
    world, recommender, interrupting, tmp_path, store
):
    class Deaf(MLflowCallback):
        """Killed between the checkpoint of an epoch and its log."""

        def epoch(self, record, *, best):
            if record["epoch"] != 2:
                super().epoch(record, best=best)

    callback = Deaf(store)
    run, client = tmp_path / "run", MlflowClient(store)
    for epoch, heard in ((2, [1]), (3, [1, 2, 3])):
        with pytest.raises(KeyboardInterrupt):
            recommender().fit(world, run=run, reporter=interrupting(epoch), callbacks=[callback])
        steps = [m.step for m in client.get_metric_history(callback.run_id_, "train/loss")]
        # The reporter's Ctrl-C comes before the callbacks hear of that epoch.
        assert steps == [step for step in heard if step != epoch]
        assert client.get_run(callback.run_id_).info.status == "KILLED"
    # From the directory of the run it is known where to go on.
    again = MLflowCallback(artifacts=False)
    model = recommender().fit(world, run=run, callbacks=[again])
    assert again.run_id_ == callback.run_id_
    assert_same_curves(client, callback.run_id_, model.history_)
    found = client.get_run(callback.run_id_)
    assert (found.info.run_name, found.info.status) == ("run", "FINISHED")
    assert not client.list_artifacts(callback.run_id_)
    assert json.loads((run / "tracking.json").read_text())["mlflow"] == {
        "run_id": callback.run_id_, "experiment": "cnsdiff", "tracking_uri": store,
    }  # fmt: skip


def test_where_the_run_is_gone_another_has_all_epochs(
    world, recommender, interrupting, tmp_path, store
):
    callback, run = MLflowCallback(store), tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        recommender().fit(world, run=run, reporter=interrupting(3), callbacks=[callback])
    gone, client = callback.run_id_, MlflowClient(store)
    client.delete_run(gone)
    model = recommender().fit(world, run=run, callbacks=[callback])
    assert callback.run_id_ != gone
    assert_same_curves(client, callback.run_id_, model.history_)


def test_without_a_run_directory_and_twice(world, recommender, store):
    callback, client = MLflowCallback(store), MlflowClient(store)
    ids = []
    for seed in (1, 2):
        recommender(seed=seed).fit(world, callbacks=[callback])
        ids.append(callback.run_id_)
    assert ids[0] != ids[1]
    assert [client.get_run(run_id).data.tags["seed"] for run_id in ids] == ["1", "2"]
    assert not client.list_artifacts(ids[0])


def test_a_training_that_fails(world, recommender, store):
    callback = MLflowCallback(store)
    model = recommender(objective={"loss": "softmax", "temperature": 1e-40})
    with pytest.raises(Exception, match="NaN"):
        model.fit(world, callbacks=[callback])
    assert MlflowClient(store).get_run(callback.run_id_).info.status == "FAILED"


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("http://user:secret@127.0.0.1:9", r"MLflow at http://…@127\.0\.0\.1:9: cannot be used"),
        ("nonsense://there", r"MLflow at nonsense://there: cannot be used .*nonsense"),
        ("sqlite:////dev/null/mlflow.db", "cannot be used .*; check the address"),
    ],
)
def test_a_store_that_is_not_there_ends_it_before_training(
    world, recommender, tmp_path, monkeypatch, noting, address, words
):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(InputError, match=words) as caught:
        recommender().fit(
            world, run=tmp_path / "run", reporter=noting, callbacks=[MLflowCallback(address)]
        )
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run" / "tracking.json").exists()


def test_passwords_are_not_written_down():
    assert _has_password("postgresql://me:secret@there/mlflow")
    assert not _has_password("sqlite:///C:/mlflow.db")
    told = "cannot reach http://me:secret@there:5000/api or http://there/a@b"
    assert without_passwords(told) == "cannot reach http://…@there:5000/api or http://there/a@b"


def test_nothing_tracked(tmp_path):
    for run in (None, tmp_path):
        with pytest.raises(InputError):
            MLflowCallback().log_evaluation(None, run)


def test_without_the_package(monkeypatch):
    monkeypatch.setattr("cnsdiff.tracking.mlflow.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"install 'cnsdiff\[mlflow\]'"):
        MLflowCallback()
