"""What TensorBoard itself reads from the event files."""

from __future__ import annotations

import math

import pytest
from tensorboard.backend.event_processing.event_accumulator import TENSORS, EventAccumulator
from tensorboard.summary.writer import event_file_writer

from cnsdiff import Recommender
from cnsdiff.base.errors import InputError, StorageError
from cnsdiff.recommender.run_directory import history_row, read_manifest
from cnsdiff.tracking import TensorBoardCallback


def read(folder) -> EventAccumulator:
    found = EventAccumulator(str(folder), size_guidance={TENSORS: 0})
    return found.Reload()


def assert_same_curves(folder, history) -> EventAccumulator:
    """Each scalar of each epoch once, and no others; they are kept as float32."""
    found = read(folder)
    rows = [history_row(record) for record in history]
    names = {name for row in rows for name in row} - {"epoch"}
    assert set(found.Tags()["scalars"]) == names
    assert {"train/loss", "train/fhn", "train/hardness", "valid/ndcg@20", "seconds"} <= names
    for name in names:
        points = [(row["epoch"], row[name]) for row in rows if name in row]
        events = found.Scalars(name)
        assert [event.step for event in events] == [step for step, _ in points], name
        for event, (_, value) in zip(events, points, strict=True):
            assert math.isclose(event.value, value, rel_tol=1e-5, abs_tol=1e-7)
    return found


def text(found: EventAccumulator, name: str) -> str:
    (event,) = found.Tensors(f"{name}/text_summary")
    return event.tensor_proto.string_val[0].decode()


def test_curves_configuration_and_outcome(world, recommender, tmp_path, noting):
    model = recommender(seed=5)
    callback = TensorBoardCallback()
    model.fit(world, run=tmp_path / "run", reporter=noting, callbacks=[callback])
    folder = tmp_path / "run" / "tensorboard"
    found = assert_same_curves(folder, model.history_)
    assert "    seed: 5\n" in text(found, "configuration")
    assert "      epochs: 4\n" in text(found, "configuration")
    assert world.fingerprint in text(found, "provenance")
    assert text(found, "outcome").startswith(f"best epoch {model.best_epoch_} of 4, dial ")
    assert noting.notes[-1] == f"TensorBoard: tensorboard --logdir {folder}"
    # An evaluation, from the callback that heard of the training and from a new one.
    evaluation = model.evaluate(world)
    callback.log_evaluation(evaluation)
    (event,) = read(folder).Scalars("test_ood/ndcg@20")
    assert event.step == model.best_epoch_ == read_manifest(tmp_path / "run").best_epoch
    assert math.isclose(event.value, evaluation["test_ood"]["ndcg@20"], rel_tol=1e-5)
    TensorBoardCallback().log_evaluation(evaluation, tmp_path / "run")
    kept = read(folder).Scalars("kept/ndcg@20")
    assert [round(event.value, 4) for event in kept] == [round(evaluation.kept()["ndcg@20"], 4)] * 2


@pytest.mark.parametrize("lost", [False, True], ids=["logged", "the last epoch not logged"])
def test_a_resumed_training_goes_on_in_the_same_curves(
    world, recommender, interrupting, tmp_path, lost, monkeypatch
):
    # The second writer's number has a digit more, so its file would be the first by name if both
    # were begun in the same second.
    monkeypatch.setattr(event_file_writer, "_global_uid", event_file_writer.AtomicCounter(9))

    class Deaf(TensorBoardCallback):
        """Killed between the checkpoint of an epoch and its log."""

        def epoch(self, record, *, best):
            if not (lost and record["epoch"] == 2):
                super().epoch(record, best=best)

    folder = tmp_path / "curves"
    with pytest.raises(KeyboardInterrupt):
        recommender().fit(
            world, run=tmp_path / "run", reporter=interrupting(2), callbacks=[Deaf(folder)]
        )
    # From the directory of the run it is known where to go on.
    model = recommender().fit(world, run=tmp_path / "run", callbacks=[TensorBoardCallback()])
    assert not (tmp_path / "run" / "tensorboard").exists()
    found = assert_same_curves(folder, model.history_)
    assert text(found, "configuration")


def test_a_resumed_training_that_was_not_tracked_before(world, recommender, interrupting, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        recommender().fit(world, run=tmp_path / "run", reporter=interrupting(2))
    model = recommender().fit(world, run=tmp_path / "run", callbacks=[TensorBoardCallback()])
    assert_same_curves(tmp_path / "run" / "tensorboard", model.history_)


def test_tracking_changes_no_number(world, recommender, tmp_path):
    tracked = recommender().fit(world, callbacks=[TensorBoardCallback(tmp_path / "curves")])
    assert tracked.recommend(world.users, 5).equals(
        recommender().fit(world).recommend(world.users, 5)
    )
    assert_same_curves(tmp_path / "curves", tracked.history_)


def test_nowhere_to_write(world, recommender, tmp_path):
    with pytest.raises(InputError, match="give it a log_dir, or fit a run directory"):
        recommender().fit(world, callbacks=[TensorBoardCallback()])
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageError, match=r"file/curves: cannot be written: .* for TensorBoard"):
        recommender().fit(world, callbacks=[TensorBoardCallback(tmp_path / "file" / "curves")])
    with pytest.raises(InputError, match="no finished training was tracked by TensorBoard"):
        TensorBoardCallback().log_evaluation(None)


def test_without_the_package(monkeypatch):
    monkeypatch.setattr("cnsdiff.tracking.tensorboard.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"install 'cnsdiff\[tensorboard\]'"):
        TensorBoardCallback()


def test_an_environment_is_told_in_place_of_a_dial(dated, tmp_path):
    callback = TensorBoardCallback(tmp_path / "curves")
    model = Recommender("mf", training={"epochs": 1})
    model.fit(dated, select_on="rehearsal", callbacks=[callback])
    (folder,) = (tmp_path / "curves").iterdir()
    told = text(read(folder), "outcome")
    assert "dial" not in told
    assert f", environment/count {model.environment_.coefficients[0]:g}, " in told
