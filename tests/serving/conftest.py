"""One server for the files that only use it."""

import pytest

from tests.serving.served_model import ServedModel


@pytest.fixture(scope="session")
def server(tiny_checkpoint, tmp_path_factory):
    with ServedModel(tiny_checkpoint, tmp_path_factory.mktemp("served") / "videos") as served:
        yield served
