"""One server, and one PostgreSQL, for the files that only use them."""

import pytest

from tests.serving.postgres import Postgres
from tests.serving.served_model import ServedModel


@pytest.fixture(scope="session")
def server(tiny_checkpoint, tmp_path_factory):
    with ServedModel(tiny_checkpoint, tmp_path_factory.mktemp("served") / "videos") as served:
        yield served


@pytest.fixture(scope="session")
def postgres():
    started = Postgres()
    yield started
    started.close()
