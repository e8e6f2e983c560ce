"""Callbacks hear of a training, and cannot spoil it."""

from __future__ import annotations

import contextlib

import pytest

from cnsdiff import ConfoundedWorld, Recommender, load_dataset
from cnsdiff.base.errors import InputError, TrainingError
from cnsdiff.recommender.callbacks import Callback
from cnsdiff.training.processes import Processes
from cnsdiff.training.progress import PlainReporter, Reporter

TRAINING = {"epochs": 3, "batch_size": 64}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    made = ConfoundedWorld(n_users=60, n_items=50, exposures=20, seed=0).dataset()
    return load_dataset(made.save(tmp_path_factory.mktemp("world") / "dataset"))


def recommender(**options) -> Recommender:
    return Recommender("mf", "random", training=TRAINING, **options)


class Hearing(Callback):
    """Keeps all it hears, and fails where told."""

    def __init__(self, fails: str = "", error: type[BaseException] = OSError) -> None:
        self.fails, self.error = fails, error
        self.heard: list[str] = []
        self.context = self.fitted = self.aborted = None
        self.records: list[dict] = []
        self.past: list[dict] = []
        self.files: set[str] = set()

    def _hear(self, what: str) -> None:
        self.heard.append(what)
        if what == self.fails:
            raise self.error(f"{what} at http://me:secret@there\nand more")

    def begin_fit(self, context):
        self.context = context
        self._hear("begin_fit")

    def before(self, history, stopping):
        self.past = list(history)
        self._hear("before")

    def begin(self, first_epoch, epochs, steps):
        self._hear("begin")

    def step(self, epoch, scalars):
        if self.heard[-1] != "step":
            self._hear("step")

    def epoch(self, record, *, best):
        self.records.append(record)
        self._hear("epoch")

    def end_fit(self, fitted):
        self.fitted = fitted
        if self.context.run is not None:
            self.files = {entry.name for entry in self.context.run.iterdir()}
        self._hear("end_fit")

    def abort_fit(self, error):
        self.aborted = error
        self._hear("abort_fit")


class Notes(Reporter):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, message):
        self.notes.append(message)


def test_what_is_heard_in_which_order(world, tmp_path):
    callback = Hearing()
    model = recommender(seed=3).fit(world, run=tmp_path / "run", callbacks=[callback])
    each = ["step", "epoch"] * 3
    assert callback.heard == ["begin_fit", "before", "begin", *each, "end_fit"]
    assert callback.context.config == model.config_
    assert callback.context.provenance.dataset.fingerprint == world.fingerprint
    assert callback.context.run == tmp_path / "run"
    assert callback.records == model.history_
    assert callback.past == []
    assert callback.fitted.best_epoch == model.best_epoch_
    assert callback.fitted.model is model.model_
    assert "weights.safetensors" in callback.files, "the run was written before"


def test_of_a_resumed_training_the_epochs_before_are_heard(world, tmp_path):
    class Stop(Reporter):
        def epoch(self, record, *, best):
            if record["epoch"] == 2:
                raise KeyboardInterrupt

    first, second = Hearing(), Hearing()
    with pytest.raises(KeyboardInterrupt):
        recommender().fit(world, run=tmp_path / "run", reporter=Stop(), callbacks=[first])
    assert isinstance(first.aborted, KeyboardInterrupt)
    assert first.heard[-1] == "abort_fit"
    model = recommender().fit(world, run=tmp_path / "run", callbacks=[second])
    assert second.past == model.history_[:2]
    assert second.records == model.history_[2:]


@pytest.mark.parametrize("fails", ["before", "begin", "step", "epoch", "end_fit"])
def test_one_that_fails_is_left_out_and_the_rest_goes_on(world, tmp_path, fails):
    reporter, broken, other = Notes(), Hearing(fails), Hearing()
    model = recommender().fit(
        world, run=tmp_path / "run", reporter=reporter, callbacks=[broken, other]
    )
    assert broken.heard[-1] == fails
    assert broken.heard.count(fails) == 1
    assert other.heard[-1] == "end_fit"
    assert reporter.notes == [
        f"Hearing failed (OSError: {fails} at http://…@there and more); training goes on without it"
    ]
    assert Recommender.load(tmp_path / "run").history_ == model.history_


def test_one_that_cannot_begin_ends_it_before_training(world, tmp_path):
    broken, other = Hearing("begin_fit"), Hearing()
    with pytest.raises(OSError, match="begin_fit"):
        recommender().fit(world, run=tmp_path / "run", callbacks=[other, broken])
    assert other.heard == ["begin_fit", "abort_fit"]
    # Mended, the same command goes on.
    recommender().fit(world, run=tmp_path / "run", callbacks=[other])


def test_ctrl_c_in_a_callback_is_ctrl_c(world):
    callback = Hearing("epoch", KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        recommender().fit(world, callbacks=[callback])
    assert callback.heard[-1] == "abort_fit"


def test_a_training_that_fails_is_told(world):
    callback, model = Hearing(), recommender()
    model.set_params(objective={"loss": "softmax", "temperature": 1e-40})
    with pytest.raises(TrainingError):
        model.fit(world, callbacks=[callback])
    assert isinstance(callback.aborted, TrainingError)
    assert not hasattr(model, "model_")


@pytest.mark.parametrize("given", [Callback, PlainReporter(), "tensorboard"])
def test_what_is_no_callback(world, given):
    with pytest.raises(InputError, match=r"recommender\.callbacks\.Callback, not "):
        recommender().fit(world, callbacks=[given])


def test_of_several_processes_the_first_alone_tells(world, monkeypatch):
    class Another(Processes):
        first = False

    @contextlib.contextmanager
    def joined(device):
        yield Another()

    monkeypatch.setattr("cnsdiff.recommender.fitting.joined", joined)
    reporter, callback = Notes(), Hearing()
    model = recommender().set_params(training__select_on="inverse-popularity")
    model.fit(world, reporter=reporter, callbacks=[callback])
    assert model.history_
    assert callback.heard == reporter.notes == []
