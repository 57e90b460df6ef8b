"""A study's server, as people start it."""

import http.client
import json
import subprocess
import sys
import urllib.request

from lcv_jax.evaluation.studies import read_study


class Served:
    """A study's server in a process of its own."""

    def __init__(self, folder, port=0):
        command = [sys.executable, "-m", "lcv_jax.evaluate", "rate", str(folder), "--port", str(port)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        num = len(read_study(folder).raters)
        self.links = dict(self.process.stdout.readline().strip().split(": ", 1) for _ in range(num))
        self.address = next(iter(self.links.values())).split("/?")[0]

    def ask(self, path, body=None, headers=()):
        return self.post(path, None if body is None else json.dumps(body).encode(), headers)

    def status(self, path, headers):
        host, port = self.address.removeprefix("http://").split(":")
        connection = http.client.HTTPConnection(host, int(port), timeout=60)
        try:
            connection.request("GET", path, headers=headers)
            return connection.getresponse().status
        finally:
            connection.close()

    def post(self, path, data, headers=()):
        request = urllib.request.Request(self.address + path, data, dict(headers))
        with urllib.request.urlopen(request, timeout=60) as reply:
            content = reply.read()
            return json.loads(content) if reply.headers["content-type"] == "application/json" else content

    def stop(self):
        self.process.kill()  # SIGKILL: nothing is told to finish
        self.process.wait()
        self.process.stdout.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()
