"""``cnsdiff serve``: a run behind HTTP."""

from __future__ import annotations

import ipaddress
import socket
from pathlib import Path
from typing import Annotated

import typer

from cnsdiff.cli.options import Json

EXAMPLE = "Example: cnsdiff serve runs/food --store sqlite:///food.db --port 8000"


def serve(
    run: Annotated[Path, typer.Argument(help="Run directory.", show_default=False)],
    store: Annotated[
        str,
        typer.Option(
            metavar="STORE",
            help="Where events, answers and versions are kept: sqlite:///FILE, the path of one "
            "that is there, or postgresql+psycopg://USER@HOST/NAME for several processes.",
        ),
    ] = "sqlite:///cnsdiff.db",
    host: Annotated[str, typer.Option(help="Address to listen at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8000,
    environment: Annotated[
        str | None,
        typer.Option(
            metavar="live|trained|FILE",
            help="Follow the events, stay as trained, or add the column bias of a table of items. "
            "[default: live]",
        ),
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="YAML file of all other settings (docs/serving.md).")
    ] = None,
    audit: Annotated[
        Path | None,
        typer.Option(help="Directory of an audit, whose expectations an alarm of drift names."),
    ] = None,
    ray: Annotated[
        bool,
        typer.Option(
            "--ray",
            help="Answer by replicas under Ray Serve: on the cluster that RAY_ADDRESS names or "
            "that runs on this machine, else on one of this command's own.",
        ),
    ] = False,
    replicas: Annotated[
        int | None, typer.Option(min=1, help="How many, with --ray.", show_default="2")
    ] = None,
    json: Json = False,
) -> None:
    """Answer requests over HTTP, keep events, and follow the environment."""
    import threading
    from contextlib import ExitStack

    import torch

    from cnsdiff.base.errors import ConfigError, InputError
    from cnsdiff.base.text import install_command, say, say_json
    from cnsdiff.cli.failure import interruptible

    try:
        import uvicorn

        from cnsdiff.serving.app import create_app
        from cnsdiff.serving.bounds import protocol
        from cnsdiff.serving.store import Store
    except ModuleNotFoundError as error:
        raise InputError(
            f"serving needs {error.name}; install it with: {install_command('serve')}"
        ) from error
    from cnsdiff.serving.config import read_config
    from cnsdiff.serving.service import Service

    settings = read_config(config, environment=environment)
    settings = settings.model_copy(update={"hosts": (*settings.hosts, host)})
    if not settings.tokens and not _is_local(host):
        raise ConfigError(
            f"--host {host}: other machines could write without a token; name tokens in the "
            "environment variable CNSDIFF_TOKENS, or under 'tokens' of --config"
        )
    if replicas is not None and not ray:
        raise ConfigError("--replicas is for --ray; give both, or neither")
    torch.set_num_threads(settings.threads)
    kept_sentence = "what was acknowledged is kept"
    with interruptible(kept_sentence), ExitStack() as stack:
        listening = stack.enter_context(_listen(host, port))
        kept = stack.enter_context(Store.open(store))
        expected = _expected(audit)
        service = Service(kept, settings, expected=expected)
        told = service.serve(run)
        version = service.state().active

        def announce(port: int) -> None:
            place = f"http://{f'[{host}]' if ':' in host else host}:{port}"
            if json:
                say_json({"url": place, "version": version})
                return
            say(told)
            say(f"listening at {place}, with a description at {place}/docs; Ctrl-C ends")

        if ray:
            from cnsdiff.serving.ray import replicated

            listening.close()  # Ray listens there
            del service  # which is as large as a replica
            with (
                replicated(
                    kept, settings, expected, host=host, port=port, replicas=replicas or 2
                ) as listened,
                interruptible(kept_sentence),  # Ray took the signals
            ):
                announce(listened)
                threading.Event().wait()
        announce(listening.getsockname()[1])
        config_of_server = uvicorn.Config(
            create_app(service),
            http=protocol(settings.transfer_timeout),
            log_level="warning",
            access_log=False,
            timeout_graceful_shutdown=10,
        )
        uvicorn.Server(config_of_server).run(sockets=[listening])


def _listen(host: str, port: int) -> socket.socket:
    """A socket that waits for connections."""
    from cnsdiff.base.errors import InputError

    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise InputError(
            f"--host {host} --port {port}: cannot be listened at ({error.strerror or error}); "
            "choose another port"
        ) from error


def _expected(audit: Path | None) -> dict[str, str]:
    """What an audit expects of each shift that it measured."""
    if audit is None:
        return {}
    from cnsdiff.audit.record import read_audit
    from cnsdiff.display.wording import percent

    sentences = {}
    for shift in read_audit(audit).shifts:
        usual, use = shift.row(shift.usual), shift.row(shift.recommendation.use)
        sentence = f"The audit advises {use.title} for it"
        lost = usual.lost_matched.value
        if lost is not None:
            sentence = (
                f"The audit expects {usual.title} to lose {percent(lost)} of its accuracy under "
                f"it, and advises {use.title}"
            )
        sentences[shift.name] = f"{sentence}."
    return sentences


def _is_local(host: str) -> bool:
    """Whether an address can be reached from this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
