"""Everything that a server is started with; the command line is made of it."""

import dataclasses
from pathlib import Path
from typing import Annotated

from lcv_jax.bounds import Bounds, Count, check_fields
from lcv_jax.generate import Devices, Weights
from lcv_jax.serving.limits import Defaults, Limits, LiveStreams


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
    """Where jobs and their videos are. Servers that share a database share it too."""
    database: str | None = None
    """Jobs of several servers: postgresql://USER@HOST/NAME; the password in PGPASSWORD or ~/.pgpass. None: a file in
    `folder`, for one server."""
    lease_seconds: Annotated[float, Bounds(least=1)] = 20.0
    """A server that is silent for so long is taken to be dead: another one settles the jobs that it was making."""
    replicas: Count = 1
    """Workers, each with devices of its own: data x fsdp x seq of the GPUs that are visible, in their order, or of
    those of the Ray cluster."""
    ray: str | None = None
    """Run the replicas by Ray Serve: auto joins the cluster that this machine is part of, HOST:PORT another one, local
    starts one here. Needs `database`. None: the replicas run on this machine, without Ray."""
    model: str = "longcat-video"
    """Name that clients see."""
    cors_origins: tuple[str, ...] = ()
    """Web sites whose pages may use the server, such as https://example.org."""

    def __post_init__(self) -> None:
        check_fields(self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """Serve a model over HTTP: the Videos API and a page. Ctrl-C ends it."""

    weights: Weights
    server: Server = Server()
    devices: Devices = Devices()  # noqa: RUF009  (frozen, as the next)
    defaults: Defaults = Defaults()  # noqa: RUF009
    limits: Limits = Limits()  # noqa: RUF009
    live: LiveStreams = LiveStreams()  # noqa: RUF009
