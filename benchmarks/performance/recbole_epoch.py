"""Row ``recbole``: RecBole's LightGCN over ours, an epoch of training and a full-sort evaluation.

RecBole is no dependency: ``--recbole COMMAND`` runs it (``peers.py`` says what is expected of the
command). Both have two layers, 64 dimensions, batches of 2048, BPR with one random negative, the
same training pairs; both rank the whole catalogue for the same users after the epoch, and compute
recall and NDCG at 10 and 20. Ours is the preset ``bpr-lightgcn``, and its evaluation the validation
of the training loop, which propagates the embeddings anew and computes more metrics than those.
"""

from __future__ import annotations

from collections.abc import Iterator

from measurement import Finding, Options, Target, at, over_ours, places
from peers import PeerError, peer
from training import Epoch, train

ROW = "recbole"
TRAINING, EVALUATION = "epoch_seconds", "evaluation_seconds"
TARGETS = {TRAINING: Target(3, at_least=True), EVALUATION: Target(5, at_least=True)}
SAID = {TRAINING: "training epoch", EVALUATION: "full-sort evaluation"}
PRESET, BATCH = "bpr-lightgcn", 2048


def measure(options: Options) -> Iterator[Finding]:
    for place in places(options):
        theirs: list[dict[str, float]] = []
        epochs: list[Epoch] = []
        missing = None if options.recbole else "--recbole not given"
        if options.recbole:
            try:
                with peer(options.recbole, place, options.peer_epochs) as command:
                    for _ in range(options.rounds):
                        theirs.append(command.turn(list(TARGETS)))
                        turn = train(
                            place.dataset,
                            options.epochs,
                            place.threads,
                            preset=PRESET,
                            training={"batch_size": BATCH},
                        )
                        epochs.append(turn)
            except PeerError as error:
                missing = str(error)
        ours = {
            TRAINING: [epoch.seconds for epoch in epochs],
            EVALUATION: [epoch.validation_seconds for epoch in epochs],
        }
        for name, target in TARGETS.items():
            finding = at(ROW, f"{SAID[name]}, RecBole over {PRESET}", place, target=target)
            if missing is None:
                over_ours(finding, ours[name], [turn[name] for turn in theirs])
            finding.missing = missing
            yield finding
