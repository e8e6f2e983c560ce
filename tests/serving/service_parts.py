"""A small run, and a service over it."""

from __future__ import annotations

import contextlib
import threading
import time

import uvicorn

import cnsdiff

N_USERS, N_ITEMS = 60, 40


def train(path, *, seed=0, **settings):
    """A run of a small world whose log has times, with a rehearsed environment."""
    world = cnsdiff.ConfoundedWorld(n_users=N_USERS, n_items=N_ITEMS, exposures=20, seed=0)
    model = cnsdiff.Recommender("mf", training={"epochs": 2}, seed=seed, **settings)
    model.fit(world.dataset("temporal")).save(path)
    return path


def event(n, user, item, timestamp=1000.0, **more):
    return {"event_id": f"e{n}", "user": user, "item": item, "timestamp": timestamp, **more}


@contextlib.contextmanager
def listening(app, **settings):
    """The address of an application in this process."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning", **settings))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join()
