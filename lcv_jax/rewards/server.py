"""Serves a reward over HTTP: `python -m lcv_jax.rewards.server my_package.my_module:make_reward --port 8000`.

`GET /` returns its names. `POST /` takes a request as wire.py writes it and answers with JSON: 200 and scores, 400
where it is no request, 500 and the reason where the reward raised an exception, which never becomes a score. It trusts
whoever reaches it: keep it inside a cluster.
"""

import dataclasses
import io
import json
import sys
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Annotated, Any

from lcv_jax.bounds import Bounds, check_fields
from lcv_jax.command_line import mistakes_in_one_line, parse_arguments
from lcv_jax.rewards.factory import make_reward
from lcv_jax.rewards.wire import WireError, read_message
from lcv_jax.rewards.worker import answer, greeting
from lcv_jax.user_files import parse_json


def make_server(reward: Any, host: str, port: int, most_bytes: int = 4 << 30) -> ThreadingHTTPServer:
    """A server that has its port already; `serve_forever` answers. Requests are scored one at a time.

    Args:
        reward: has `names` and `score`.
        host: address to listen on.
        port: 0 is any that is free; `server_port` tells which.
        most_bytes: longer requests are refused, and clips that decode to more.

    Raises:
        OSError: the port is taken.
    """
    scoring = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        timeout = 60  # seconds for a client to send something

        def do_GET(self) -> None:
            self._reply(200, greeting(reward))

        def do_POST(self) -> None:
            length = self.headers.get("Content-Length", "")
            if not (length.isascii() and length.isdigit()):
                self._reply(411, {"error": "a request needs a Content-Length"})
            elif int(length) > most_bytes:
                self._reply(413, {"error": f"a request of {length} bytes, at most {most_bytes} are taken"})
            else:
                self._score(self.rfile.read(int(length)))

        def _score(self, data: bytes) -> None:
            try:
                header, body = read_message(io.BytesIO(data), most_bytes)
                with scoring:
                    reply = answer(reward, header, body, most_bytes)
            except (WireError, EOFError) as error:
                self._reply(400, {"error": str(error)})
            except Exception as error:
                self._reply(500, {"error": f"{type(error).__name__}: {error}"})
            else:
                self._reply(500 if "error" in reply else 200, reply)

        def _reply(self, status: int, reply: Mapping[str, Any]) -> None:
            data = json.dumps(reply, allow_nan=False).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    class Server(ThreadingHTTPServer):
        def handle_error(self, request: Any, client_address: Any) -> None:
            if not isinstance(sys.exc_info()[1], ConnectionError | TimeoutError):  # the client has gone away
                super().handle_error(request, client_address)

    return Server((host, port), Handler)


def main(arguments: list[str] | None = None, prog: str = "python -m lcv_jax.rewards.server") -> None:
    """Runs the command line; a user's mistake is one line and exit status 2."""
    # A reward's environment may lack it, and worker.py does without.
    import tyro

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Arguments:
        """Serve a reward over HTTP."""

        factory: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="MODULE:FACTORY")]
        """A function or class whose call gives a reward."""
        options: str = "{}"
        """Its keywords, as JSON."""
        host: str = "127.0.0.1"
        """Address to listen on; 0.0.0.0 is all."""
        port: Annotated[int, Bounds(least=0, most=65535)] = 8000
        """Likewise; 0 is any that is free."""
        most_megabytes: Annotated[int, Bounds(least=1, most=2**20)] = 4096
        """Longer requests are refused, and clips that decode to more."""

        def __post_init__(self) -> None:
            check_fields(self)

    config = (tyro.conf.FlagCreatePairsOff,)
    with mistakes_in_one_line("stopped"):
        chosen = parse_arguments(Arguments, arguments, prog=prog, config=config)
        reward = make_reward(chosen.factory, parse_json(chosen.options, "--options"))
        with make_server(reward, chosen.host, chosen.port, chosen.most_megabytes << 20) as server:
            url = f"http://{chosen.host}:{server.server_port}"
            print(f"serving {', '.join(reward.names)} on {url}", file=sys.stderr, flush=True)
            server.serve_forever()


if __name__ == "__main__":
    main()
