"""Encoded clips without networks that cost anything."""

import pytest
from small_clips import StubNetworks, write_clips, write_manifest

from lcv_jax import encode


@pytest.fixture
def stub_networks(monkeypatch):
    monkeypatch.setattr(encode, "Networks", StubNetworks)


@pytest.fixture(scope="session")
def encoded(tmp_path_factory):
    """Thirteen clips of 5x16x16, seven of 9x16x32, a single frame of each; with refinement's inputs."""
    folder = tmp_path_factory.mktemp("encoded")
    rows = write_clips(folder, [6] * 13) + write_clips(folder, [9] * 7, size=(16, 32), first=13)
    manifest = write_manifest(folder, rows)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encode, "Networks", StubNetworks)
        arguments = ("--sizes", "5,16,16", "9,16,32", "--fps", "8", "--images-from-clips", "1", "--refine", "8,8,4")
        encode.main([str(manifest), "none", str(folder / "out"), *arguments, "--negative-prompt", "bad and ugly"])
    return folder / "out"
