"""How fast the service answers and keeps events, beside the floor of the same shapes.

    python benchmarks/serving.py [--items 100000] [--users 100000] [--only process ...]

Sections:

- ``process``: one list of 20 with a filter and 200 exclusions in process, as a ratio to one product
  and ``topk`` of the same shapes, which no exact service can go below;
- ``http``: the same over HTTP at 50 requests a second, each in its own process; percentiles;
- ``batch``: users a second in batches of 50 from two clients;
- ``events``: durable events a second, 16 clients in batches of 20;
- ``memory``: resident memory of a process that serves the run, after it has answered;
- ``index``: recall of the 20 best and processor time of the index of faiss beside the exact product
  and ``topk``, each with 200 exclusions, on one core;
- ``items``: how long it takes to put new items, many and one, or one filter value, over a service
  that holds them all in memory, and lists with a filter meanwhile;
- ``alarm``: how often the hit rate raises an alarm without a reason, and how late it sees one.

The run is made of vectors in clusters (:func:`clustered`), by which an index finds something. From
800,000 items of 64 dimensions on, what is served comes from the index.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from cnsdiff import ConfoundedWorld
from cnsdiff.data.splits import pair_matrix
from cnsdiff.environment import Activity, Covariates, Environment
from cnsdiff.recommender.config import resolve_config
from cnsdiff.recommender.embedding_model import EmbeddingModel
from cnsdiff.recommender.run_directory import Fitted, provenance
from cnsdiff.serving.index import ItemIndex, largest
from cnsdiff.serving.monitor import HitRate
from cnsdiff.serving.ranking import best
from cnsdiff.serving.schemas import ItemBody, RecommendRequest
from cnsdiff.serving.service import Service
from cnsdiff.serving.store import Event, Store

SECTIONS = ("process", "http", "batch", "events", "memory", "items", "index", "alarm")
#: Those that need no run.
ALONE = ("index", "alarm")
K, EXCLUDED, RATE, BATCH = 20, 200, 50, 50


def make_run(path: Path, n_users: int, n_items: int, dim: int, per_user: int = 20) -> None:
    """A run directory of vectors in clusters."""
    rng = np.random.default_rng(0)
    generator = torch.Generator().manual_seed(0)
    users = np.repeat(np.arange(n_users), per_user)
    items = rng.integers(0, n_items, len(users))
    item_vectors, user_vectors, _ = clustered(n_items, n_users, dim)
    activity = Activity.of(items, rng.uniform(0, 1e7, len(items)), n_items)
    columns = list(Covariates.of(activity).names)
    environment = Environment(
        names=columns,
        coefficients=(rng.normal(size=len(columns)) / len(columns)).tolist(),
        half_lives=list(activity.half_lives),
        span=activity.span,
        moment=activity.moment,
    )
    model = EmbeddingModel(
        users=pl.Series("id", [f"user-{n}" for n in range(n_users)]),
        items=pl.Series("id", [f"item-{n}" for n in range(n_items)]),
        train=pair_matrix(users, items, (n_users, n_items)),
        dial_step=torch.randn(n_items, generator=generator),
        dial=0.5,
        environment=environment,
        activity=activity,
        bias=environment.bias(activity),
        sigma=1.0,
        user_embeddings=user_vectors,
        item_embeddings=item_vectors,
    )
    config = resolve_config({})
    dataset = ConfoundedWorld(n_users=50, n_items=40, exposures=20, seed=0).dataset()
    record: Any = {
        "epoch": 1, "train": {}, "validation": {}, "seconds": 0.0, "validation_seconds": 0.0
    }  # fmt: skip
    path.mkdir()
    Fitted(config, model, {}, [record], 1, provenance(config, dataset)).write(path)


def request_of(user: int) -> RecommendRequest:
    """A list with a filter and exclusions."""
    exclude = [f"item-{n}" for n in range(user, user + EXCLUDED)]
    return RecommendRequest(user=f"user-{user}", k=K, exclude=exclude, where={"stock": True})


def service_of(run: Path, store: str) -> Service:
    """A service over a run, nine tenths of whose items are in stock."""
    service = Service(Store.open(store))
    service.serve(run)
    n = len(service._now().arm_of(None)[1].snapshot.model.items)
    bodies = [ItemBody(item=f"item-{i}", features={"stock": i % 10 != 0}) for i in range(n)]
    for start in range(0, n, 10_000):
        service.store.put_items(
            {body.item: dict(body.features) for body in bodies[start : start + 10_000]}
        )
    service.follow()
    return service


def percentiles(seconds: list[float]) -> dict[str, float]:
    ms = 1000 * np.array(seconds)
    return {f"p{p}_ms": round(float(np.percentile(ms, p)), 2) for p in (50, 95, 99)}


def timed(work: Any, seconds: float) -> list[float]:
    """How long each call took, for so many seconds after a warm-up."""
    for n in range(20):
        work(n)
    times, ends = [], time.perf_counter() + seconds
    while time.perf_counter() < ends:
        begun = time.perf_counter()
        work(len(times))
        times.append(time.perf_counter() - begun)
    return times


def in_process(run: Path, store: str, seconds: float) -> dict[str, float]:
    service = service_of(run, store)
    model = service._now().arm_of(None)[1].snapshot.model
    assert isinstance(model, EmbeddingModel)
    requests = [request_of(n) for n in range(500)]
    items, users = model.item_embeddings, model.user_embeddings

    def floor(n: int) -> None:
        (items @ users[n % len(users)]).topk(K)

    halves = [timed(floor, seconds / 4)]
    ours = timed(lambda n: service.recommend(requests[n % 500]), seconds / 2)
    halves.append(timed(floor, seconds / 4))
    base = float(np.median(halves[0] + halves[1]))
    service.close()
    return {
        "floor_ms": round(1000 * base, 3),
        **percentiles(ours),
        "floors": round(float(np.median(ours)) / base, 2),
    }


@contextlib.contextmanager
def server(run: Path, store: str) -> Iterator[tuple[str, int]]:
    """``cnsdiff serve`` in a process of its own: its address and process id."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "cnsdiff", "serve", str(run), "--store", store]
    process = subprocess.Popen([*command, "--port", str(port)], stdout=subprocess.DEVNULL)
    place = f"http://127.0.0.1:{port}"
    try:
        for _ in range(1200):
            with contextlib.suppress(httpx.HTTPError):
                if httpx.get(f"{place}/health/ready", timeout=30).status_code == 200:
                    break
            time.sleep(0.1)
        yield place, process.pid
    finally:
        process.terminate()
        process.wait()


def over_http(run: Path, store: str, seconds: float) -> dict[str, float]:
    bodies = [request_of(n).model_dump(mode="json", exclude_defaults=True) for n in range(500)]
    with server(run, store) as (place, _), httpx.Client(base_url=place) as client:
        times: list[float] = []
        for n in range(20):
            client.post("/recommend", json=bodies[n]).raise_for_status()
        begun = time.perf_counter()
        for n in range(int(RATE * seconds)):
            wait = begun + n / RATE - time.perf_counter()
            if wait > 0:
                time.sleep(wait)
            at = time.perf_counter()
            client.post("/recommend", json=bodies[n % 500]).raise_for_status()
            times.append(time.perf_counter() - at)
    return percentiles(times)


def clients(n: int, work: Any, seconds: float) -> float:
    """Units of work a second that ``n`` threads get done."""
    done = [0] * n
    ends = time.perf_counter() + seconds

    def run(client: int) -> None:
        while time.perf_counter() < ends:
            done[client] += work(client, done[client])

    threads = [threading.Thread(target=run, args=[client]) for client in range(n)]
    begun = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(done) / (time.perf_counter() - begun)


def in_batches(run: Path, store: str, seconds: float) -> dict[str, float]:
    with server(run, store) as (place, _):
        sessions = [httpx.Client(base_url=place, timeout=60) for _ in range(2)]

        def work(client: int, done: int) -> int:
            users = range(done % 10_000, done % 10_000 + BATCH)
            requests = [{"user": f"user-{n}", "k": K} for n in users]
            answer = sessions[client].post("/recommend/batch", json={"requests": requests})
            return len(answer.raise_for_status().json()["answers"])

        return {"users_a_second": round(clients(2, work, seconds))}


def events(run: Path, store: str, seconds: float) -> dict[str, float]:
    with server(run, store) as (place, _):
        sessions = [httpx.Client(base_url=place, timeout=60) for _ in range(16)]

        def send(client: int, done: int) -> int:
            batch = [
                {
                    "event_id": f"{client}-{done + n}",
                    "user": f"user-{n}",
                    "item": f"item-{(done + n) % 1000}",
                    "timestamp": 1e9,
                }
                for n in range(20)
            ]
            answer = sessions[client].post("/events", json={"events": batch})
            return int(answer.raise_for_status().json()["new"])

        over = clients(16, send, seconds)
    with tempfile.TemporaryDirectory() as folder, Store.open(f"sqlite:///{folder}/s.db") as own:

        def keep(client: int, done: int) -> int:
            return own.add_events(
                [Event(f"{client}-{done + n}", f"user-{n}", f"item-{n}", 1e9) for n in range(20)]
            )

        return {
            "over_http_a_second": round(over),
            "in_process_a_second": round(clients(16, keep, seconds)),
        }


def memory(run: Path, store: str, seconds: float) -> dict[str, float]:
    with server(run, store) as (place, pid):
        for n in range(200):
            httpx.post(f"{place}/recommend", json={"user": f"user-{n}"}).raise_for_status()
        status = Path(f"/proc/{pid}/status").read_text()
        fields = dict(line.split(":", 1) for line in status.splitlines())
        return {
            name: round(int(fields[field].split()[0]) / 1e6, 3)
            for name, field in (("resident_gb", "VmRSS"), ("peak_gb", "VmHWM"))
        }


def put_items(run: Path, store: str, seconds: float) -> dict[str, float]:
    service = service_of(run, store)
    n_new, numbers, others = 10_000, iter(range(10**9)), iter(range(0, 10**9, 10))

    def new(n: int) -> list[ItemBody]:
        return [ItemBody(item=f"new-{next(numbers)}", features={"stock": True}) for _ in range(n)]

    def changed() -> list[ItemBody]:  # one that was not in stock
        return [ItemBody(item=f"item-{next(others)}", features={"stock": True})]

    begun = time.perf_counter()
    service.put_items(new(n_new))
    many = time.perf_counter() - begun
    single = timed(lambda _: service.put_items(new(1)), seconds / 3)
    change = timed(lambda _: service.put_items(changed()), seconds / 3)
    requests = [request_of(n) for n in range(500)]
    alone = timed(lambda n: service.recommend(requests[n % 500]), seconds / 3)
    done = threading.Event()

    def put() -> None:
        while not done.wait(0.1):
            service.put_items(new(1))

    thread = threading.Thread(target=put)
    thread.start()
    meanwhile = timed(lambda n: service.recommend(requests[n % 500]), seconds / 3)
    done.set()
    thread.join()
    service.close()
    return {
        f"put_{n_new}_s": round(many, 2),
        **{f"put_one_{name}": ms for name, ms in percentiles(single).items()},
        **{f"change_one_{name}": ms for name, ms in percentiles(change).items()},
        **{f"list_{name}": ms for name, ms in percentiles(alone).items()},
        **{f"list_meanwhile_{name}": ms for name, ms in percentiles(meanwhile).items()},
    }


def clustered(n_items: int, n_users: int, dim: int) -> tuple[torch.Tensor, ...]:
    """Vectors of items and users, and the items' log popularity (in standard deviations).

    Items lie around 2,000 centres, as many around one as Zipf's law says (exponent 0.8), which lie
    around 50 others themselves. Popularity is Pareto's (exponent 1.2), popular items have longer
    vectors. A user is a mixture of three centres. All noise is as large as what it is added to.
    """
    rng, n_centres = np.random.default_rng(0), 2_000

    def noise(*shape: int) -> Any:
        return 0.8 * rng.standard_normal(shape, dtype=np.float32)

    share = 1 / np.arange(1, n_centres + 1) ** 0.8
    share /= share.sum()
    wide = 1.25 * noise(50, dim)
    centres = wide[rng.integers(0, 50, n_centres)] + noise(n_centres, dim)
    popularity = np.log1p(rng.pareto(1.2, n_items)).astype(np.float32)
    popularity /= popularity.std()
    items = centres[rng.choice(n_centres, n_items, p=share)]
    for start in range(0, n_items, 100_000):
        own = slice(start, start + 100_000)
        items[own] += noise(len(items[own]), dim)
        items[own] *= (1 + 0.15 * popularity[own, None]) / np.linalg.norm(
            items[own], axis=1, keepdims=True
        )
    mixture = rng.dirichlet(np.ones(3), n_users).astype(np.float32)
    users = (centres[rng.choice(n_centres, (n_users, 3), p=share)] * mixture[:, :, None]).sum(
        axis=1
    )
    users += noise(n_users, dim)
    users /= np.linalg.norm(users, axis=1, keepdims=True)
    return torch.from_numpy(items), torch.from_numpy(users), torch.from_numpy(popularity)


def index_of(n_items: int, dim: int, n_users: int = 100) -> Iterator[dict[str, Any]]:
    """What the index finds: under biases, with a filter, and before it is told of a bias."""
    items, users, popularity = clustered(n_items, n_users, dim)
    rng = np.random.default_rng(1)
    spread = float((items[:100_000] @ users.T).std())

    def normal() -> torch.Tensor:
        return torch.from_numpy(rng.standard_normal(n_items, dtype=np.float32)) * spread

    # What the environment makes of popularity, and what an hour of unusual events adds: a little
    # to all, and much to one item in a thousand.
    popular = (popularity - popularity.mean()) * spread / 2
    moved = popular + 0.15 * normal()
    hot = torch.from_numpy(rng.choice(n_items, n_items // 1000, replace=False))
    moved[hot] += 1.5 * normal()[hot].abs()
    begun = time.process_time()
    index = ItemIndex(items)
    built = time.process_time() - begun
    begun = time.process_time()
    index.set_bias(popular)
    largest(popular)
    refreshed = time.process_time() - begun
    yield {
        "items": n_items,
        "lists": index.n_lists,
        "probed": index.probed,
        "build_s": round(built, 1),
        "refresh_s": round(refreshed, 2),
    }
    every, tenth = np.ones(n_items, dtype=bool), rng.random(n_items) < 0.1
    for name, told, bias in (
        ("none", popular * 0, popular * 0),
        ("popularity", popular, popular),
        ("popularity that moved, before the refresh", popular, moved),
        ("popularity that moved", moved, moved),
        ("normal, half as wide as taste", *(2 * [0.5 * normal()])),
        ("normal, as wide as taste", *(2 * [normal()])),
    ):
        index.set_bias(told)
        for allowed in (every, tenth):
            yield {"bias": name, **compared(index, items, users, bias, allowed)}
    del index
    items, users = (torch.randn(n, dim) for n in (n_items, n_users))
    bias = torch.zeros(n_items)
    yield {"bias": "none, random vectors", **compared(ItemIndex(items), items, users, bias, every)}


def compared(
    index: ItemIndex,
    items: torch.Tensor,
    users: torch.Tensor,
    bias: torch.Tensor,
    allowed: NDArray[np.bool_],
) -> dict[str, float]:
    """Recall and time of users' lists, each with exclusions of its own."""
    rng, n_items, by_bias = np.random.default_rng(2), len(items), largest(bias)
    penalty = torch.zeros(n_items).masked_fill_(torch.from_numpy(~allowed), -torch.inf)
    hits, exact_s, index_s = 0, [], []
    for user in users:
        excluded = rng.integers(0, n_items, EXCLUDED)
        begun = time.process_time()
        scores = (items @ user).add_(bias).add_(penalty)
        scores[torch.from_numpy(excluded)] = -torch.inf
        right = best(scores, K)[0]
        exact_s.append(time.process_time() - begun)
        begun = time.process_time()
        eligible = allowed.copy()
        eligible[excluded] = False
        among = index.candidates(user, eligible, by_bias, K)
        numbers = torch.from_numpy(among)
        ours = among[best(items[numbers] @ user + bias[numbers], K)[0]]
        index_s.append(time.process_time() - begun)
        hits += len(np.intersect1d(right, ours))
    return {
        "allowed": round(float(allowed.mean()), 1),
        "recall": round(hits / K / len(users), 4),
        "exact_ms": round(1000 * float(np.median(exact_s)), 2),
        "index_ms": round(1000 * float(np.median(index_s)), 2),
        "index_p99_ms": round(1000 * float(np.percentile(index_s, 99)), 2),
    }


def alarm(streams: int = 40, still: int = 50_000) -> dict[str, float]:
    """Alarms of a hit rate that stands still at 20 %, and events until a fall to 15 % is seen."""
    false, waits = 0, []
    for seed in range(streams):
        rng, rate = np.random.default_rng(seed), HitRate()
        before = False
        for hit in rng.random(still) < 0.2:
            rate.add(bool(hit))
            fallen = rate.fallen
            false += fallen and not before
            before = fallen
        rate = HitRate()
        for hit in rng.random(5_000) < 0.2:
            rate.add(bool(hit))
        waited = 0
        while not rate.fallen:
            rate.add(bool(rng.random() < 0.15))
            waited += 1
        waits.append(waited)
    return {
        "events": streams * still,
        "false_alarms": false,
        "wait_median": float(np.median(waits)),
        "wait_most": max(waits),
    }


WORK = dict(
    zip(SECTIONS[:-2], (in_process, over_http, in_batches, events, memory, put_items), strict=True)
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--users", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=SECTIONS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if "index" in args.only:
        for line in index_of(args.items, args.dim):
            print(json.dumps({"section": "index", **line}), flush=True)
    if "alarm" in args.only:
        print(json.dumps({"section": "alarm", **alarm()}), flush=True)
    sections = [name for name in args.only if name not in ALONE]
    if not sections:
        return
    with tempfile.TemporaryDirectory() as folder:
        run, place = Path(folder) / "run", f"sqlite:///{folder}/store.db"
        make_run(run, args.users, args.items, args.dim)
        service_of(run, place).close()
        for name in sections:
            print(json.dumps({"section": name, **WORK[name](run, place, args.seconds)}), flush=True)


if __name__ == "__main__":
    main()
