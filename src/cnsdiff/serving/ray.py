"""The service on a Ray cluster: replicas of one application, which share a store."""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from fastapi import FastAPI

from cnsdiff.base.errors import ConfigError, InputError
from cnsdiff.base.text import install_command, parameter
from cnsdiff.serving.app import create_app
from cnsdiff.serving.config import ServiceConfig
from cnsdiff.serving.service import Service
from cnsdiff.serving.store import Store
from cnsdiff.training.cluster import connected, require_room

_NAME = "cnsdiff"
#: Requests that one replica works on at once; a web server has as many threads.
_AT_ONCE = 40


class Replica:
    """One process of the service; Ray Serve sends it what the application answers."""


@contextmanager
def replicated(
    store: Store,
    config: ServiceConfig,
    expected: Mapping[str, str] | None = None,
    *,
    host: str,
    port: int,
    replicas: int,
) -> Iterator[int]:
    """Answer requests by several processes, until the context ends; the port.

    Parameters
    ----------
    store
        With an active version. The run directories of its versions must be where every machine
        can read them, by the same path.
    config, expected
        Settings of each replica, and what an audit expects of each scenario.
    host, port
        Where each machine of the cluster listens; 0 takes a port that is free on this one.
    replicas
        How many processes, each with ``config.threads`` CPUs.

    Raises
    ------
    ConfigError
        No cluster answers or it is too small, or the store is of one machine and the cluster of
        several.
    InputError
        The replicas do not start, or Serve listens elsewhere.
    """
    url, config = _for_elsewhere(store, config)
    with connected(logging_level=logging.WARNING):
        try:
            import ray
            from ray import serve
        except ImportError as error:
            raise ConfigError(
                f"{parameter('ray')} needs Ray Serve; install it with: {install_command('ray')}"
            ) from error
        machines = sum(node["Alive"] for node in ray.nodes())
        if store.database.path is not None and machines > 1:
            raise ConfigError(
                f"{parameter('store')}: SQLite is of one machine, and the cluster has {machines}; "
                "name one on PostgreSQL (postgresql+psycopg://USER@HOST/NAME)"
            )
        require_room(replicas, config.threads)
        logging.getLogger("ray.serve").setLevel(logging.WARNING)
        port = _start(host, port)

        def build() -> FastAPI:
            torch.set_num_threads(config.threads)
            service = Service(Store.open(url), config, expected=expected)
            service._begin()  # else Serve tells only that it did not start
            return create_app(service)

        deployment = serve.deployment(
            serve.ingress(build)(Replica),
            name=_NAME,
            num_replicas=replicas,
            max_ongoing_requests=_AT_ONCE,
            ray_actor_options={"num_cpus": config.threads},
        )
        try:
            try:
                serve.run(deployment.bind(), name=_NAME)
            except RuntimeError as error:
                why = str(error).strip().rpartition("\n")[2]
                raise InputError(f"the replicas do not start: {why}") from error
            _require_listener(host, port)
            yield port
        finally:
            serve.delete(_NAME)


def _start(host: str, port: int) -> int:
    """Have Serve listen on every machine; the port, a free one of this machine for 0.

    Others may take that before Serve does, which then takes another.
    """
    from ray import serve

    attempts = 1 if port else 5
    while True:
        attempts -= 1
        chosen = port or _free_port(host)
        try:
            serve.start(
                proxy_location="EveryNode",
                http_options={"host": host, "port": chosen},
                logging_config={"log_level": "WARNING", "enable_access_log": False},
            )
            return chosen
        except RuntimeError as error:
            serve.shutdown()
            if not attempts:
                why = str(error).strip().rpartition("\n")[2]
                raise InputError(
                    f"{parameter('host', host)} {parameter('port', port)}: Serve cannot listen "
                    f"there ({why}); choose another port"
                ) from error


def _free_port(host: str) -> int:
    family = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0][0]
    with socket.create_server((host, 0), family=family) as listening:
        return int(listening.getsockname()[1])


def _require_listener(host: str, port: int, patience: float = 30.0) -> None:
    """Refuse a cluster where Serve ran before: it goes on listening where it did."""
    ends = time.monotonic() + patience
    while True:
        try:
            socket.create_connection((host, port), timeout=5).close()
            return
        except OSError as error:
            if time.monotonic() >= ends:
                place = f"{parameter('host', host)} {parameter('port', port)}"
                raise InputError(
                    f"{place}: nobody listens there, so Serve was on this cluster before, with "
                    "another address; give that one, or end Serve there with `serve shutdown`"
                ) from error
            time.sleep(0.2)


def _for_elsewhere(store: Store, config: ServiceConfig) -> tuple[str, ServiceConfig]:
    """The address of a store and the settings, as a process in another folder takes them."""
    url, path = store.database.url, store.database.path
    if path is not None:
        url = url.set(database=str(path.resolve()))
    changes: dict[str, object] = {}
    if config.item_features is not None:
        changes["item_features"] = config.item_features.resolve()
    if config.environment not in ("live", "trained"):
        changes["environment"] = str(Path(config.environment).resolve())
    return url.render_as_string(hide_password=False), config.model_copy(update=changes)
