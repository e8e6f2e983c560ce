"""A small run, and a service over it."""

from __future__ import annotations

import contextlib
import threading
import time

import numpy as np
import uvicorn

import cnsdiff
from cnsdiff.recommender.embedding_model import EmbeddingModel

N_USERS, N_ITEMS = 60, 40


def train(path, *, seed=0, **settings):
    """A run of a small world whose log has times, with a rehearsed environment."""
    world = cnsdiff.ConfoundedWorld(n_users=N_USERS, n_items=N_ITEMS, exposures=20, seed=0)
    model = cnsdiff.Recommender("mf", training={"epochs": 2}, seed=seed, **settings)
    model.fit(world.dataset("temporal")).save(path)
    return path


def event(n, user, item, timestamp=1000.0, **more):
    return {"event_id": f"e{n}", "user": user, "item": item, "timestamp": timestamp, **more}


def assert_as_made_anew(version):
    """A version's snapshot, which changes of items have reached bit by bit, is as one from all."""
    ours = version.snapshot
    version._catalogue = None
    version._changed = {*version._features, *version._withdrawn, *version._added}
    version.renew()
    anew = version.snapshot
    assert ours.model.items.to_list() == anew.model.items.to_list()
    index, n = ours.catalogue.index, len(ours.model.items)
    assert index.find_text(ours.model.items.cast(str).to_list()).tolist() == [*range(n)]
    assert index.names(np.arange(n)) == ours.model.items.to_list()
    pairs = [(ours, anew, ("bias", "popular")), (ours.model, anew.model, ("dial_step", "offsets"))]
    if isinstance(ours.model, EmbeddingModel):
        pairs.append((ours.model, anew.model, ("item_embeddings",)))
    if ours.activity is not None:
        names = ("counts", "first", "last", "decayed", "moment")
        pairs.append((ours.activity, anew.activity, names))
    for one, other, names in pairs:
        for name in names:
            if getattr(other, name) is None:
                assert getattr(one, name) is None
            else:
                values = (np.asarray(getattr(own, name)) for own in (one, other))
                np.testing.assert_allclose(*values, rtol=1e-5, atol=1e-6, err_msg=name)
    assert ours.model.train.shape == anew.model.train.shape
    assert ours.catalogue.names == anew.catalogue.names
    assert ours.catalogue.shown.tolist() == anew.catalogue.shown.tolist()
    assert ours.catalogue._attributes == anew.catalogue._attributes
    assert ours.item_seq == anew.item_seq


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
