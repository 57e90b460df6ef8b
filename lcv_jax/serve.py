"""Serves a model over HTTP: `python -m lcv_jax.serve CHECKPOINT`, the Videos API and a page.

    python -m lcv_jax.serve weights
    python -m lcv_jax.serve weights --host 0.0.0.0 --keys keys.txt --replicas 8
    python -m lcv_jax.serve --help

The process here answers requests and computes nothing; each worker, a process of its own, owns a pipeline and its
devices. docs/serving.md has the API.
"""

import contextlib
import logging
import socket
import sys

import jax
import tyro

from lcv_jax.command_line import mistakes_in_one_line, parse_arguments
from lcv_jax.extras import import_extra
from lcv_jax.serving.settings import Settings

_PACKAGES = ("starlette", "uvicorn", "python_multipart", "prometheus_client", "websockets", "av", "PIL")


def main(arguments: list[str] | None = None, prog: str = "python -m lcv_jax.serve") -> None:
    """Runs the command line; a user's mistake is one line and exit status 2."""
    logging.getLogger("absl").setLevel(logging.ERROR)
    with mistakes_in_one_line("stopped"):
        config = (tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff)
        chosen = parse_arguments(Settings, arguments, prog=prog, description=Settings.__doc__, config=config)
        for name in _PACKAGES:
            import_extra(name, "serve", "serving needs")
        jax.config.update("jax_platforms", "cpu")  # devices are the workers'
        run(chosen)


def run(chosen: Settings) -> None:
    """Serves until it is interrupted.

    Raises:
        ValueError: settings that do not go together, a checkpoint that is none, or one that no worker can load.
        OSError: the port is taken, the folder cannot be written, or the database cannot be used.
    """
    from lcv_jax.serving.application import make_application, make_workers
    from lcv_jax.serving.http import serve
    from lcv_jax.serving.ray_app import serve_on_ray

    server = chosen.server
    if server.ray is not None:
        serve_on_ray(chosen)
        return
    app, scheduler = make_application(chosen, make_workers(chosen))
    with listening(server.host, server.port) as sockets, contextlib.closing(scheduler.store):
        port = sockets.getsockname()[1]
        host = f"[{server.host}]" if ":" in server.host else server.host
        print(f"serving {chosen.weights.checkpoint} on http://{host}:{port}", flush=True)
        serve(app, sockets, lambda: scheduler.unable is not None)
    if scheduler.unable:
        raise ValueError(f"{chosen.weights.checkpoint}: no worker can load it: {scheduler.unable}")


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


if __name__ == "__main__":
    main(sys.argv[1:])
