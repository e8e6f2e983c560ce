"""Row ``profile``: where a training step goes, phase by phase.

PyTorch's profiler tells the time of every operation without that of the operations inside it. Each
is put to a phase: by the module it runs in (backbone, sampler, optimiser), in the backward pass by
the module whose forward pass it belongs to, and otherwise by what it does (rows gathered and
scattered, products of matrices, the rest of the loss). ``other`` is what belongs to none: picking
the batch, and Python between the operations. Profiling makes a step longer, mostly where operations
are many and small; the seconds beside are of steps without it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import torch
from measurement import Finding, Options, at, places, seconds_of
from steps import Steps
from torch.autograd.profiler import record_function
from torch.profiler import ProfilerActivity, profile

from cnsdiff.kernels.memory import freed_memory_kept

ROW = "profile"
PRESETS = ("bpr-lightgcn", "default", "authors")

FORWARD, BACKWARD = "propagation forward", "propagation backward"
SAMPLING, OPTIMISER, OTHER = "sampling", "optimiser", "other"
GATHERS, DENSE, LOSS = "gathers", "loss: dense products", "loss: the rest"
PHASES = (FORWARD, SAMPLING, GATHERS, DENSE, LOSS, BACKWARD, OPTIMISER, OTHER)

#: By the beginning of an operation's name.
_GATHER = ("aten::index", "aten::gather", "aten::embedding", "aten::take", "aten::scatter")
_PRODUCT = ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm", "aten::matmul")
_LABEL = "phase: "
_NODE = "autograd::engine::evaluate_function: "


def measure(options: Options) -> Iterator[Finding]:
    for place in places(options):
        for preset in PRESETS:
            steps = Steps(place.dataset, preset)
            with freed_memory_kept():
                steps()  # warm up
                turns = [seconds_of(steps, options.steps) for _ in range(options.rounds)]
                shares = phases_of(steps, options.steps)
            finding = at(ROW, f"training step, {preset}", place, unit="s").of(turns)
            finding.details = {"preset": preset, "batch": steps.batch_size, "shares": shares}
            yield finding


def phases_of(steps: Steps, n: int) -> dict[str, float]:
    """The share of each phase in the time of ``n`` steps."""
    handles = [
        handle
        for module, phase in ((steps.step.backbone, FORWARD), (steps.step.sampler, SAMPLING))
        for handle in _labelled(module, phase)
    ]
    try:
        with profile(activities=[ProfilerActivity.CPU]) as profiler:
            for _ in range(n):
                with record_function(_LABEL + OTHER):
                    loss = steps.forward()
                    with record_function(_LABEL + LOSS):
                        loss.backward()
                    with record_function(_LABEL + OPTIMISER):
                        steps.optimizer.step()
    finally:
        for handle in handles:
            handle.remove()
    events = profiler.events()
    # A node of the backward pass has the number of the operation that it is the gradient of.
    made_in: dict[int, str] = {}
    for event in events:
        phase = _enclosing(event)
        if event.sequence_nr >= 0 and phase in (FORWARD, SAMPLING) and not _in_backward(event):
            made_in[event.sequence_nr] = phase
    times: Counter[str] = Counter()
    for event in events:
        if _enclosing(event) is not None:
            times[_phase(event, made_in)] += event.self_cpu_time_total
    total = sum(times.values())
    return {phase: times[phase] / total for phase in PHASES}


def _labelled(module: torch.nn.Module, phase: str) -> Iterator[Any]:
    """Hooks that put a label around a module's forward pass."""
    open_labels: list[record_function] = []

    def enter(*_: object) -> None:
        label = record_function(_LABEL + phase)
        label.__enter__()
        open_labels.append(label)

    def leave(*_: object) -> None:
        open_labels.pop().__exit__(None, None, None)

    yield module.register_forward_pre_hook(enter)
    yield module.register_forward_hook(leave)


def _ancestors(event: Any) -> Iterator[Any]:
    while event is not None:
        yield event
        event = event.cpu_parent


def _first(event: Any, test: Callable[[Any], bool]) -> Any | None:
    return next((above for above in _ancestors(event) if test(above)), None)


def _enclosing(event: Any) -> str | None:
    """The phase of the label around an event."""
    label = _first(event, lambda above: above.name.startswith(_LABEL))
    return None if label is None else str(label.name.removeprefix(_LABEL))


def _in_backward(event: Any) -> bool:
    return _first(event, lambda above: above.name.startswith(_NODE)) is not None


def _phase(event: Any, made_in: dict[int, str]) -> str:
    enclosing = _enclosing(event)
    assert enclosing is not None
    if enclosing in (FORWARD, SAMPLING, OPTIMISER):
        return enclosing
    node = _first(event, lambda above: above.name.startswith(_NODE))
    if node is not None:
        origin = made_in.get(node.sequence_nr)
        if origin is not None:
            return BACKWARD if origin == FORWARD else origin
    for names, phase in ((_GATHER, GATHERS), (_PRODUCT, DENSE)):
        if _first(event, lambda above, names=names: above.name.startswith(names)) is not None:
            return phase
    if event.name.startswith(_LABEL):
        return OTHER  # Python between the operations
    return LOSS
