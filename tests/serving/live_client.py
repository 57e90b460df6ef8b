"""A client of live streams, on any WebSocket library's terms."""

import json

from websockets.sync.client import connect


class LiveClient:
    """Reads with bounded patience; frames are (header, JPEG)."""

    def __init__(self, server, **options):
        self._connection = connect(server.address.replace("http:", "ws:") + "/v1/live", max_size=None, **options)

    def __enter__(self):
        self.socket = self._connection.__enter__()
        return self

    def __exit__(self, *error):
        self._connection.__exit__(*error)

    def send(self, kind, **fields):
        self.socket.send(json.dumps({"type": kind, **fields}))

    def receive(self):
        message = self.socket.recv(timeout=120)
        if isinstance(message, str):
            return json.loads(message), None
        length = int.from_bytes(message[:4], "big")
        return json.loads(message[4 : 4 + length]), message[4 + length :]

    def until(self, kind):
        """The first message of a kind, and those before it."""
        before = []
        while (message := self.receive())[0]["type"] != kind:
            before.append(message)
        return message, before

    def start(self, **fields):
        self.send("start", seed=7, **{"prompt": "a cat", **fields})
        return self.until("begun")[0][0]

    def frames(self, last):
        """The frames up to a number, each acknowledged."""
        found = []
        while not found or found[-1][0]["frame"] < last:
            header, picture = self.until("frame")[0]
            found.append((header, picture))
            self.send("ack", frame=header["frame"])
        return found
