"""Several processes: they change the speed of a training, and not its result."""

from __future__ import annotations

import json
import re
import signal
import subprocess
from pathlib import Path

import pytest
import torch
from launching import ENVIRONMENT, TORCHRUN, forked, furthest, scalars, torchrun, train_together

from cnsdiff import Recommender, load_dataset
from cnsdiff.base.errors import ConfigError, RunError
from cnsdiff.recommender.fitting import assemble
from cnsdiff.recommender.run_directory import CHECKPOINT
from cnsdiff.training.checkpoint import TrainingState
from cnsdiff.training.config import TrainingConfig
from cnsdiff.training.loop import Trainer
from cnsdiff.training.processes import Processes, make_fabric
from cnsdiff.training.slices import Slices, Streams, number_of_slices

#: The last of each epoch's batches is smaller than the others.
TRAINING = {"epochs": 3, "batch_size": 200, "patience": None}
#: So small that many a slice has no rows.
TINY = {**TRAINING, "epochs": 1, "batch_size": 3}
VARIANTS = {
    "default": {"training": TRAINING},
    "random": {"sampler": "random", "training": TRAINING},
    "mf": {"backbone": "mf", "sampler": "random", "training": TRAINING},
    "layers": {"sampler": "mixgcf", "training": TRAINING},
    "learning": {"sampler": "cnsdiff", "training": TRAINING},
    "in-batch": {"preset": "ssm-lightgcn", "training": TRAINING},
    "more slices": {"training": {**TRAINING, "slices": 4}, "sampler": "dns"},
    "rehearsed": {"training": {**TRAINING, "select_on": "rehearsal"}},
    "tiny": {"training": TINY},
    "tiny random": {"sampler": "random", "training": TINY},
    "tiny learning": {"sampler": "exposure_diffusion", "training": TINY},
}
#: Adam divides by the size of gradients, and so makes much of the rounding of small ones.
ROUNDING = 1e-5
#: Counts of false negatives look at a sample of the first slice only.
COUNTED = ("fhn", "hard_share", "known_positive")


@pytest.fixture(scope="module")
def together(dataset, tmp_path_factory) -> Path:
    """Runs of all variants by two processes."""
    out = tmp_path_factory.mktemp("together") / "runs"
    train_together(dataset, VARIANTS, out)
    return out


def alone(dataset: Path, run: Path, variant: str, **training) -> Path:
    """The same training by one process."""
    options = VARIANTS[variant]
    settings = {**options["training"], **training}
    Recommender(**{**options, "training": settings}).fit(load_dataset(dataset), run=run)
    return run


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_two_processes_are_two_slices(dataset, together, tmp_path, variant):
    slices = {"slices": VARIANTS[variant]["training"].get("slices", 2)}
    run = alone(dataset, tmp_path / "run", variant, **slices)
    assert furthest(together / variant, run) < ROUNDING
    ours, theirs = scalars(together / variant), scalars(run)
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        assert one == pytest.approx(other, rel=1e-5, abs=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["default", "tiny", "tiny learning"])
def test_with_shared_draws_slices_change_nothing(dataset, together, tmp_path, variant):
    run = alone(dataset, tmp_path / "run", variant, slices=1)
    assert furthest(together / variant, run) < ROUNDING
    ours, theirs = (scalars(path, without=COUNTED) for path in (together / variant, run))
    for one, other in zip(ours, theirs, strict=True):
        assert one == pytest.approx(other, rel=1e-5, abs=1e-6)


@pytest.mark.slow
def test_negatives_of_each_row_do_depend_on_the_slices(dataset, together, tmp_path):
    run = alone(dataset, tmp_path / "run", "random", slices=1)
    assert furthest(together / "random", run) > 1e-3


@pytest.mark.slow
def test_the_command_line_speaks_with_one_voice(dataset, tmp_path):
    options = ("--set", "training.epochs=2", "--set", "training.batch_size=200")
    done = torchrun("-m", "cnsdiff", "train", dataset, "--out", tmp_path / "run", *options)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("best epoch") == done.stdout.count("Next:") == 1
    assert len(re.findall(r": epoch \d/2 ", done.stderr)) == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--set", "training.slices=3"], r"3 slices cannot be shared evenly by 2 processes; set"),
        (["--set", "training.epoch=3"], r"unknown key 'training.epoch' \(did you mean"),
    ],
)
def test_bad_input_is_one_sentence(dataset, tmp_path, arguments, sentence):
    done = forked("-m", "cnsdiff", "train", dataset, "--out", tmp_path / "run", *arguments)
    (line,) = done.stderr.splitlines()
    assert line.startswith("cnsdiff: ")
    assert re.search(sentence, line)
    assert done.returncode == 2
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_what_only_the_first_process_finds_ends_all(dataset, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "something").touch()
    done = forked("-m", "cnsdiff", "train", dataset, "--out", tmp_path / "run")
    (line,) = done.stderr.splitlines()
    assert "exists and is not a run directory" in line
    assert done.returncode == 2


@pytest.mark.slow
def test_interrupted_and_resumed(dataset, tmp_path):
    """After Ctrl-C the run goes on to the same end: in two processes, and in one."""
    settings = {"epochs": 12, "batch_size": 20, "patience": None}
    variant = {"sampler": "random", "training": settings}
    train_together(dataset, {"whole": variant}, tmp_path)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train = ("-m", "cnsdiff", "train")
    options = ["--sampler", "random"]
    for name, value in settings.items():
        options += ["--set", f"training.{name}={json.dumps(value)}"]
    command = [*TORCHRUN, *train, dataset, "--out", parts, *options]
    running = subprocess.Popen(
        list(map(str, command)),
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    try:
        assert any(": epoch 3/" in line for line in running.stderr)
        running.send_signal(signal.SIGINT)
        _, said = running.communicate(timeout=60)
    finally:
        running.kill()
    assert said.count("cnsdiff: interrupted; the epochs completed are saved") == 1, said
    assert "cnsdiff: another" not in said
    assert (parts / CHECKPOINT).exists()
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in parts.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())

    resumed = forked(*train, "--resume", parts)
    assert resumed.returncode == 0, resumed.stderr
    assert resumed.stderr.count("going on after epoch") == 1
    assert furthest(whole, parts) == 0
    # One process goes on in two slices, as the run was begun.
    Recommender(**variant).fit(load_dataset(dataset), run=copy)
    assert furthest(whole, copy) < ROUNDING


@pytest.mark.slow
def test_the_end_of_one_process_is_the_end_of_all(dataset, tmp_path):
    script = tmp_path / "dying.py"
    script.write_text(
        "import os, sys; from cnsdiff import Recommender, load_dataset\n"
        "from cnsdiff.training.loop import Trainer\n"
        "save = Trainer._save\n"
        "def dying(self, state):\n"
        "    save(self, state)\n"
        "    if state.epoch == 2 and self.processes.rank == 1: os._exit(9)\n"
        "Trainer._save = dying\n"
        "Recommender().fit(load_dataset(sys.argv[1]), run=sys.argv[2])\n"
    )
    done = forked(script, dataset, tmp_path / "run")  # which has a limit in time
    assert done.returncode == 9
    assert (tmp_path / "run" / CHECKPOINT).exists()
    assert not (tmp_path / "run" / "weights.safetensors").exists()


# -- in this process ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("device", "available", "sentence"),
    [
        ("cuda:0", 2, "'cuda:0' is one device, and each of 2 processes takes its own; set device"),
        ("cuda", 0, r"'cuda:1' not found \(0 CUDA devices found\); set device to auto or cpu$"),
        (
            "cuda",
            1,
            r"'cuda:1' not found \(1 CUDA devices found\); .* start fewer processes$",
        ),
    ],
)
def test_each_process_takes_a_device_of_its_own(monkeypatch, device, available, sentence):
    place = {"RANK": 1, "WORLD_SIZE": 2, "LOCAL_RANK": 1, "MASTER_ADDR": "here", "MASTER_PORT": 1}
    for name, value in place.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: available)
    with pytest.raises(ConfigError, match=sentence):
        make_fabric(device, "32-true")


def test_slices_share_out_every_row_once():
    users = torch.randint(0, 23, (100,), generator=torch.Generator().manual_seed(0))
    order = torch.randperm(100, generator=torch.Generator().manual_seed(1))
    of_all = [Slices(users, 6, Processes(rank, 3)) for rank in range(3)]
    for number, batch in enumerate(torch.split(order, 7)):
        found = []
        for rank, slices in enumerate(of_all):
            step = slices.epoch(order, 7)[number]
            assert step.rows == len(batch)
            assert [part.number for part in step.parts] == [rank, rank + 3]
            for part in step.parts:
                assert (users[part.index] % 6 == part.number).all()
                assert part.share == pytest.approx(len(part.index) / len(batch))
                # In the order of the batch.
                places = [(batch == row).nonzero().item() for row in part.index]
                assert places == sorted(places)
                found += part.index.tolist()
        assert sorted(found) == sorted(batch.tolist())


def test_slices_of_some_rows():
    users = torch.arange(30) % 7
    rows = (users != 2).nonzero()[:, 0]
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(1))
    for count in (1, 3):
        own = [Slices(users, count, Processes(rank, count), rows=rows) for rank in range(count)]
        steps = [slices.epoch(order, 8) for slices in own]
        seen = [part.index for each in steps for step in each for part in step.parts]
        assert sorted(torch.cat(seen).tolist()) == rows.tolist()
        assert all(slices.n_rows == len(rows) for slices in own)
        assert [step.rows for step in steps[0]] == [len(b) for b in torch.split(order, 8)]


def test_one_slice_is_the_batch():
    order = torch.randperm(50)
    steps = Slices(torch.arange(50), 1, Processes()).epoch(order, 8)
    for step, batch in zip(steps, torch.split(order, 8), strict=True):
        (part,) = step.parts
        assert torch.equal(part.index, batch)
        assert part.share == 1


def test_streams_of_slices_differ_unless_alike():
    slices = Slices(torch.arange(9), 3, Processes())
    for alike in (True, False):
        streams = Streams(0, 1, slices, alike=alike, device=torch.device("cpu"))
        draws = [torch.rand(4, generator=streams.context(p, 0.0, 1).negatives) for p in slices.own]
        assert torch.equal(draws[0], draws[1]) == alike
        assert torch.equal(draws[1], draws[2]) == alike


def test_number_of_slices():
    assert number_of_slices(1, Processes()) == 1
    assert number_of_slices(3, Processes()) == 3
    assert number_of_slices(1, Processes(0, 4)) == 4
    assert number_of_slices(8, Processes(0, 4)) == 8
    with pytest.raises(ConfigError, match="6 slices cannot be shared evenly by 4 processes"):
        number_of_slices(6, Processes(0, 4))


def test_sampler_with_memory_trains_in_slices(world):
    """One process has one memory, however many slices."""
    training = {"epochs": 2, "batch_size": 64, "slices": 2}
    model = Recommender(sampler="srns", training=training).fit(world)
    assert len(model.history_) == 2


def test_a_run_is_gone_on_with_in_as_many_slices(world, tmp_path, interrupting):
    training = {"epochs": 3, "batch_size": 64, "slices": 2, "patience": None}
    with pytest.raises(KeyboardInterrupt):
        Recommender(sampler="random", training=training).fit(
            world, run=tmp_path / "run", reporter=interrupting(1)
        )
    resumed = Recommender(sampler="random", training=training).fit(world, run=tmp_path / "run")
    whole = Recommender(sampler="random", training=training).fit(world)
    assert torch.equal(resumed.user_embeddings_, whole.user_embeddings_)


def trainer_of_two(world, sampler: str) -> Trainer:
    step, positives, *_ = assemble(Recommender(sampler=sampler).resolve(), world)
    fabric = make_fabric("cpu", "32-true")
    return Trainer(
        TrainingConfig(), step, positives, seed=0, fabric=fabric, processes=Processes(0, 2)
    )


def test_a_sampler_with_memory_is_refused_by_several_processes(world):
    with pytest.raises(ConfigError, match=r"'srns' remembers .*; train it in one process$"):
        trainer_of_two(world, "srns")
    trainer_of_two(world, "cnsdiff")  # all that it keeps is learnt


def test_slices_that_more_processes_cannot_share_are_refused(world, tmp_path, interrupting):
    with pytest.raises(KeyboardInterrupt):
        Recommender(sampler="random", training={"batch_size": 64}).fit(
            world, run=tmp_path / "run", reporter=interrupting(1)
        )
    state = TrainingState.load(tmp_path / "run" / CHECKPOINT)
    with pytest.raises(RunError, match=r"in 1 slice\(s\), which 2 processes cannot share"):
        trainer_of_two(world, "random")._slices_of(state)
