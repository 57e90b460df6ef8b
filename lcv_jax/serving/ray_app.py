"""The application as a deployment of Ray Serve: each replica is a server with one worker, wherever the cluster puts it.

Replicas meet in the database, as servers do that were started one by one. Ray starts replicas, gives each its GPUs, and
routes requests to any of them.
"""

import asyncio
import contextlib
import dataclasses
import logging
import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

import jax
from starlette.types import ASGIApp, Receive, Scope, Send

from lcv_jax.extras import import_extra
from lcv_jax.serving.application import gpus_of, make_application
from lcv_jax.serving.http import MOST_CONNECTIONS
from lcv_jax.serving.processes import Worker
from lcv_jax.serving.settings import Settings

NAME = "lcv_jax"
_REASON = "no worker can load the checkpoint: "


class Application:
    """What a replica runs."""

    def __init__(self, chosen: Settings):
        jax.config.update("jax_platforms", "cpu")  # devices are the worker's
        self.app, self.scheduler = make_application(chosen, [Worker(chosen, None)])

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.app(scope, receive, send)


class Replica:
    """Ray's side of a replica."""

    app: Application
    """Set by Ray Serve."""
    _loaded = False

    async def check_health(self) -> None:
        """Called by Ray: at the start, which is over when the weights are loaded, and then regularly."""
        scheduler = self.app.scheduler
        while not self._loaded and not scheduler.unable:
            self._loaded = any(worker.ready for worker in scheduler.workers)
            await asyncio.sleep(0.1)
        if scheduler.unable:
            raise RuntimeError(f"{_REASON}{' '.join(scheduler.unable.split())}")


def serve_on_ray(chosen: Settings) -> None:
    """Deploys the replicas, and serves until it is interrupted.

    Raises:
        ValueError: settings that do not go together, a cluster that cannot be reached or has too few GPUs, or a
            checkpoint that no worker can load.
    """
    server = chosen.server
    if server.database is None:
        raise ValueError("--ray needs --database postgresql://...: replicas share their jobs through it")
    if server.port == 0:
        raise ValueError("--ray needs a --port above 0")
    chosen = _with_whole_paths(chosen)
    make_application(chosen, [])[1].store.close()  # mistakes are told here, not in the log of a replica
    ray, serve = (import_extra(name, "cluster", "--ray needs") for name in ("ray", "ray.serve"))
    logging.getLogger("ray.serve").setLevel(logging.ERROR)  # what goes wrong is raised, too
    with _cluster(ray, serve, server.ray or ""):
        options = {"num_cpus": 1, "num_gpus": _gpus_each(ray, chosen)}
        deployment = serve.deployment(
            name=NAME, num_replicas=server.replicas, max_ongoing_requests=MOST_CONNECTIONS, ray_actor_options=options,
        )(serve.ingress(_builder(chosen))(Replica))  # fmt: skip
        serve.start(proxy_location="EveryNode", http_options={"host": server.host, "port": server.port})
        try:
            serve.run(deployment.bind(), name=NAME, route_prefix="/")
        except RuntimeError:
            raise ValueError(f"{chosen.weights.checkpoint}: {_why(serve)}") from None
        print(f"serving {chosen.weights.checkpoint} on http://{server.host}:{server.port}", flush=True)
        _wait()


def _with_whole_paths(chosen: Settings) -> Settings:
    """Replicas run in folders of their own."""
    weights = dataclasses.replace(chosen.weights, checkpoint=chosen.weights.checkpoint.absolute())
    keys = chosen.server.keys and chosen.server.keys.absolute()
    server = dataclasses.replace(chosen.server, folder=chosen.server.folder.absolute(), keys=keys)
    return dataclasses.replace(chosen, weights=weights, server=server)


def _builder(chosen: Settings) -> Any:
    def build() -> ASGIApp:
        return Application(chosen)

    return build


def _gpus_each(ray: Any, chosen: Settings) -> int:
    """GPUs of a replica; none in a cluster that has none."""
    there = int(ray.cluster_resources().get("GPU", 0))
    if there == 0:
        return 0
    each, replicas = gpus_of(chosen.devices), chosen.server.replicas
    if each * replicas > there:
        raise ValueError(f"{replicas} replicas of {each} GPUs need {each * replicas}, the cluster has {there}")
    return each


def _why(serve: Any) -> str:
    """Why the replicas could not be started, in a line."""
    message = serve.status().applications[NAME].deployments[NAME].message
    lines = [line.partition(_REASON)[2] for line in message.splitlines() if _REASON in line]
    return f"{_REASON}{lines[-1]}" if lines else f"the replicas cannot be started: {message}"


@contextlib.contextmanager
def _cluster(ray: Any, serve: Any, address: str) -> Iterator[None]:
    """Joins a cluster, or starts one on this machine; what was deployed is removed in the end."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    local: dict[str, Any] = {"include_dashboard": False} if address == "local" else {}
    try:
        ray.init(address=address, log_to_driver=False, configure_logging=False, **local)
    except ConnectionError as error:
        raise ValueError(f"--ray {address}: no Ray cluster can be reached ({' '.join(str(error).split())})") from None
    try:
        yield
    finally:
        with contextlib.suppress(Exception):  # the cluster may be gone
            serve.delete(NAME)
        ray.shutdown()


def _wait() -> None:
    """Until SIGTERM, or SIGINT, which is a KeyboardInterrupt."""
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    while not ended.wait(1.0):
        pass
