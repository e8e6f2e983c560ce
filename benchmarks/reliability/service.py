"""``cnsdiff serve``, killed (``kill -9``) at random moments while it takes events and answers.

Clients send batches of events and ask for lists, each over a connection of its own. A batch that
was not acknowledged is sent again to the next process, as a client does that has lost its
connection. Then:

- every batch is there, whole, and each of its events once;
- a list shows nothing that an acknowledged event says the user has;
- ``Store.check`` finds nothing.

    python benchmarks/reliability/service.py                              # SQLite, 100 kills
    python benchmarks/reliability/service.py --url postgresql+psycopg://user@host/database

It counts the lists that were shown and are not in the log: answers wait for up to a second to be
written, and are lost with the process.

Exits with 1 if anything is lost, doubled, torn or wrong.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import random
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import httpx
import uvicorn  # noqa: F401

import cnsdiff.cli.commands.serve
import cnsdiff.serving.app
from cnsdiff import ConfoundedWorld, Recommender
from cnsdiff.serving.store import Store

CLIENTS, BATCH, K = 6, 5, 10
#: Seconds until a kill, from when the process answers; a tenth is killed while it starts.
WRITING, STARTING = 3.0, 0.5


class Client(threading.Thread):
    """Sends batches, one after another, until the process is gone."""

    def __init__(self, name: str, items: list[int], batch: int) -> None:
        super().__init__()
        self.user, self.items, self.batch, self.lists = name, items, batch, 0
        self.place, self.wrong = "", list[str]()

    def events(self, number: int) -> list[dict[str, object]]:
        """Those of a batch, the same whenever it is sent."""
        start = number * BATCH
        return [
            {
                "event_id": f"{self.user}-{n}",
                "user": f"{self.user}-{number}",
                "item": self.items[n % len(self.items)],
                "timestamp": 1e9,
            }
            for n in range(start, start + BATCH)
        ]

    def run(self) -> None:
        """Until the connection is lost; ``batch`` is the first that was not acknowledged."""
        with httpx.Client(base_url=self.place, timeout=30) as client:
            try:
                while True:
                    events = self.events(self.batch)
                    sent = client.post("/events", json={"events": events})
                    asked = {"user": events[0]["user"], "k": K}
                    self.batch += sent.is_success
                    shown = client.post("/recommend", json=asked)
                    self.lists += shown.is_success
                    if not (sent.is_success and shown.is_success):
                        self.wrong.append(f"{sent.text} {shown.text}")
                        return
                    has = {event["item"] for event in events}
                    if has & {item["item"] for item in shown.json()["items"]}:
                        self.wrong.append(f"shown again: {shown.text}")
            except httpx.TransportError:
                return


def forked(work: Callable[[], object]) -> int:
    """A process that does some work with all modules imported already; its number.

    This one computes nothing itself: threads of a library's would be lost in a fork, and waited
    for.
    """
    child = os.fork()
    if child:
        return child
    code = 70
    try:
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # Linux: dies with its parent
        work()
        code = 0
    finally:
        os._exit(code)


def train(folder: Path) -> None:
    """A run, and the ids of its items."""
    world = ConfoundedWorld(n_users=60, n_items=40, exposures=20, seed=0)
    model = Recommender("mf", training={"epochs": 1}).fit(world.dataset("temporal"))
    model.save(folder / "run")
    (folder / "items.json").write_text(json.dumps(model.items_.to_list()))


def serve(run: Path, url: str, port: int) -> None:
    """The command, which says nothing."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    sys.argv = ["cnsdiff", "serve", str(run), "--store", url, "--port", str(port)]
    cnsdiff.cli.main()


def is_up(place: str, child: int) -> bool:
    """Whether the process answers, once it does; False if it has ended."""
    while os.waitpid(child, os.WNOHANG) == (0, 0):
        try:
            if httpx.get(f"{place}/health/ready").is_success:
                return True
        except httpx.TransportError:
            time.sleep(0.02)
    return False


def problems(url: str, clients: list[Client]) -> tuple[list[str], int, int]:
    """What is wrong; and how many events and answers there are."""
    wrong = [sentence for client in clients for sentence in client.wrong]
    with Store.open(url) as store:
        wrong += store.check()
        counts = store.counts()
        there: dict[str, list[str]] = {}
        for own in clients:
            for user, item, _ in store.histories([f"{own.user}-{n}" for n in range(own.batch + 1)]):
                there.setdefault(user, []).append(item)
    known = 0
    for client in clients:
        for number in range(client.batch + 1):
            events = client.events(number)
            expected = sorted(str(event["item"]) for event in events)
            own = sorted(there.pop(str(events[0]["user"]), []))
            # The last was perhaps not acknowledged; then it is there whole, or not at all.
            if own != expected and (number < client.batch or own):
                wrong.append(f"{events[0]['user']}: has {own}, not {expected}")
            known += len(own)
    if counts["events"] != known:
        wrong.append(f"{counts['events']} events, of which {known} were sent")
    return wrong, counts["events"], counts["answers"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--url", help="an empty database (default: SQLite, in a folder of its own)")
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    given = parser.parse_args()
    draw, begun, early = random.Random(given.seed), time.monotonic(), 0
    with tempfile.TemporaryDirectory() as folder:
        if os.waitpid(forked(lambda: train(Path(folder))), 0)[1]:
            sys.exit("the run could not be trained")
        run = Path(folder) / "run"
        items = json.loads((Path(folder) / "items.json").read_text())
        url = given.url or f"sqlite:///{folder}/events.db"
        clients = [Client(f"c{number}", items, 0) for number in range(CLIENTS)]
        lists = 0
        for number in range(given.kills):
            with socket.create_server(("127.0.0.1", 0)) as free:
                port = free.getsockname()[1]
            child = forked(partial(serve, run, url, port))
            place = f"http://127.0.0.1:{port}"
            if draw.random() < 0.1:
                time.sleep(draw.uniform(0, STARTING))
                early += 1
            else:
                if not is_up(place, child):
                    sys.exit(f"{url}: does not start after kill {number}")
                clients = [Client(own.user, items, own.batch) for own in clients]
                for client in clients:
                    client.place = place
                    client.start()
                time.sleep(draw.uniform(0, WRITING))
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            for client in clients:
                if client.ident is not None:
                    client.join()
            lists += sum(client.lists for client in clients)
            wrong, events, answers = problems(url, clients)
            if wrong:
                print(f"{url}, kill {number}:", *wrong[:10], sep="\n")
                sys.exit(1)
            for client in clients:
                client.lists = 0
    sent = sum(client.batch for client in clients)
    print(
        f"{given.kills} kills, {early} of them while it started: {sent:,} batches of {BATCH} "
        f"acknowledged, {events:,} events there; none lost, doubled or torn, no list wrong; of "
        f"{lists:,} lists, {lists - answers:,} are not in the log "
        f"({time.monotonic() - begun:.0f} s)"
    )


if __name__ == "__main__":
    main()
