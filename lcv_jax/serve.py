"""Serves a model over HTTP: `python -m lcv_jax.serve CHECKPOINT`, the Videos API and a page.

    python -m lcv_jax.serve weights
    python -m lcv_jax.serve weights --host 0.0.0.0 --keys keys.txt --replicas 8
    python -m lcv_jax.serve --help

The process here answers requests and computes nothing; each worker, a process of its own, owns a pipeline and its
devices. docs/serving.md has the API.
"""

import dataclasses
import logging
import os
import re
import socket
import sys
from pathlib import Path
from typing import Annotated, Any

import jax
import tyro

from lcv_jax.bounds import Bounds, Count, check_fields
from lcv_jax.command_line import mistakes_in_one_line, parse_arguments
from lcv_jax.data.buckets import buckets
from lcv_jax.extras import import_extra
from lcv_jax.generate import Devices, Weights
from lcv_jax.pipeline import load_pipeline
from lcv_jax.serving.limits import Defaults, Limits

_PACKAGES = ("starlette", "uvicorn", "python_multipart", "prometheus_client", "av", "PIL")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Server:
    """Where it listens, and for whom."""

    host: str = "127.0.0.1"
    """Address to listen on. Any but this machine's own needs --keys."""
    port: Annotated[int, Bounds(least=0, most=65535)] = 8000
    """0 is any that is free."""
    keys: Path | None = None
    """File of lines NAME KEY. Each request then needs a key, and sees the videos of its own name."""
    folder: Path = Path("outputs/serve")
    """Where jobs and their videos are."""
    replicas: Count = 1
    """Workers, each with devices of its own: data x fsdp x seq of the GPUs that are visible, in their order."""
    model: str = "longcat-video"
    """Name that clients see."""
    cors_origins: tuple[str, ...] = ()
    """Web sites whose pages may use the server, such as https://example.org."""

    def __post_init__(self) -> None:
        check_fields(self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Command:
    """Serve a model over HTTP: the Videos API and a page. Ctrl-C ends it."""

    weights: Weights
    server: Server = Server()
    devices: Devices = Devices()  # noqa: RUF009  (frozen, as the next)
    defaults: Defaults = Defaults()  # noqa: RUF009
    limits: Limits = Limits()  # noqa: RUF009


def main(arguments: list[str] | None = None, prog: str = "python -m lcv_jax.serve") -> None:
    """Runs the command line; a user's mistake is one line and exit status 2."""
    logging.getLogger("absl").setLevel(logging.ERROR)
    with mistakes_in_one_line("stopped"):
        config = (tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff)
        chosen = parse_arguments(Command, arguments, prog=prog, description=Command.__doc__, config=config)
        for name in _PACKAGES:
            import_extra(name, "serve", "serving needs")
        jax.config.update("jax_platforms", "cpu")  # devices are the workers'
        run(chosen)


def run(chosen: Command) -> None:
    """Serves until it is interrupted.

    Raises:
        ValueError: settings that do not go together, or a checkpoint that is none.
        OSError: the port is taken, or the folder cannot be written.
    """
    from lcv_jax.serving.app import Handlers, make_app
    from lcv_jax.serving.guard import is_loopback, read_keys
    from lcv_jax.serving.http import serve
    from lcv_jax.serving.jobs import JobStore
    from lcv_jax.serving.metrics import Metrics
    from lcv_jax.serving.scheduler import Scheduler
    from lcv_jax.serving.submission import Submissions

    server, limits = chosen.server, chosen.limits
    keys = read_keys(server.keys) if server.keys else {}
    if not keys and not is_loopback(server.host):
        raise ValueError(f"{server.host} can be reached from other machines: give --keys FILE, or listen on 127.0.0.1")
    for origin in server.cors_origins:
        if not re.fullmatch(r"https?://[\w.:\[\]-]+", origin):
            raise ValueError(f"cors_origins must be like https://example.org, got {origin!r}")
    pipeline = load_pipeline(chosen.weights.checkpoint)
    with listening(server.host, server.port) as sockets:
        store, metrics = JobStore(server.folder), Metrics()
        workers = make_workers(chosen)
        scheduler = Scheduler(store, workers, limits, metrics)
        submissions = Submissions(store, pipeline, chosen.defaults, limits, server.model)
        handlers = Handlers(store, scheduler, submissions, metrics, facts_of(chosen))
        app = make_app(handlers, keys=keys, origins=server.cors_origins, host=server.host, metrics=metrics)
        port = sockets.getsockname()[1]
        host = f"[{server.host}]" if ":" in server.host else server.host
        print(f"serving {chosen.weights.checkpoint} on http://{host}:{port}", flush=True)
        serve(app, sockets)
        store.close()


def listening(host: str, port: int) -> socket.socket:
    """A socket that listens.

    Raises:
        OSError: the address is not this machine's, or the port is taken.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        found = socket.socket(family, kind, protocol)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(address)
        found.listen(128)
    except OSError as error:
        raise OSError(f"{host}:{port}: {error.strerror}; choose another --host or --port") from error
    return found


def make_workers(chosen: Command) -> Any:
    """One worker a replica, each with its part of the visible GPUs.

    Raises:
        ValueError: there are fewer GPUs than the replicas need.
    """
    from lcv_jax.serving.scheduler import Worker

    devices, replicas = chosen.devices, chosen.server.replicas
    if devices.coordinator or devices.num_processes or devices.process_id is not None:
        raise ValueError("a worker is one process: leave out coordinator, num_processes and process_id")
    if replicas == 1:
        return [Worker(chosen.weights, devices, None)]
    axes = (devices.data, devices.fsdp, devices.seq)
    if -1 in axes:
        raise ValueError("with replicas, data, fsdp and seq must be given: -1 takes all devices")
    each = axes[0] * axes[1] * axes[2]
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    visible = given.split(",") if given else [str(number) for number in range(each * replicas)]
    if len(visible) < each * replicas:
        raise ValueError(f"{replicas} replicas of {each} GPUs need {each * replicas}, CUDA_VISIBLE_DEVICES has {given}")
    parts = [",".join(visible[each * i : each * (i + 1)]) for i in range(replicas)]
    return [Worker(chosen.weights, devices, part) for part in parts]


def facts_of(chosen: Command) -> dict[str, Any]:
    """What /v1/models says beside the name: for the page, and for clients that ask."""
    weights = chosen.weights
    return {
        "sizes": sizes_of(chosen.defaults, chosen.limits),
        "defaults": dataclasses.asdict(chosen.defaults),
        "limits": dataclasses.asdict(chosen.limits),
        "memory": {
            "dtype": weights.dtype,
            "weights": weights.weights,
            "text_encoder": weights.keep_text_encoder,
            "vae_tiles": weights.vae_tiles,
            "fold_adapters": weights.fold_adapters,
        },
        "replicas": chosen.server.replicas,
    }


def sizes_of(defaults: Defaults, limits: Limits) -> list[str]:
    """WIDTHxHEIGHT of usual shapes, the default first: of the model's own table, or of the area of the default size."""
    if defaults.size is None:
        sizes = [(480, 832), *(size for table in ("480p", "720p") for size in buckets(table))]
    else:
        height, width = defaults.size
        area, ratios = height * width, (16 / 9, 4 / 3, 1.0, 3 / 4, 9 / 16)
        shapes = [((area / ratio) ** 0.5, (area * ratio) ** 0.5) for ratio in ratios]
        sizes = [defaults.size, *((max(16, round(h / 16) * 16), max(16, round(w / 16) * 16)) for h, w in shapes)]
    fitting = [f"{width}x{height}" for height, width in sizes if height * width <= limits.max_pixels]
    return list(dict.fromkeys(fitting))


if __name__ == "__main__":
    main(sys.argv[1:])
