"""Row ``authors_epoch``: an epoch of the published code with its evaluation, over ours with ours.

The published code is no part of this repository: ``--authors COMMAND`` runs it (``peers.py`` says
what is expected of the command). Ours is trained at the preset ``default``, and at ``authors``,
which computes what the published code does. All rank users of the validation split after the epoch:
their code and the preset ``authors`` all of them, ``default`` at most 2000 but at several dials.
"""

from __future__ import annotations

from collections.abc import Iterator

from measurement import Finding, Options, Target, at, over_ours, places
from peers import PeerError, peer
from training import Epoch, train

ROW = "authors_epoch"
TARGETS = {"default": Target(20, at_least=True), "authors": Target(3, at_least=True)}


def measure(options: Options) -> Iterator[Finding]:
    for place in places(options):
        findings = {
            preset: at(
                ROW, f"epoch with evaluation, their code over {preset}", place, target=target
            )
            for preset, target in TARGETS.items()
        }
        theirs: list[float] = []
        ours: dict[str, list[Epoch]] = {preset: [] for preset in TARGETS}
        missing = None if options.authors else "--authors not given"
        if options.authors:
            try:
                with peer(options.authors, place, options.peer_epochs) as command:
                    for _ in range(options.rounds):
                        theirs.append(command.turn(["epoch_seconds"])["epoch_seconds"])
                        for preset, epochs in ours.items():
                            turn = train(
                                place.dataset, options.epochs, place.threads, preset=preset
                            )
                            epochs.append(turn)
            except PeerError as error:
                missing = str(error)
        for preset, finding in findings.items():
            if missing is None:
                over_ours(finding, [epoch.both for epoch in ours[preset]], theirs)
            finding.missing = missing
            yield finding
