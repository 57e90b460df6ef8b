"""The Qwen2-VL of golden/rewards/videoreward, converted once."""

from pathlib import Path

import pytest

from lcv_jax.convert import main as convert

PUBLISHED = Path(__file__).parent.parent / "golden" / "rewards" / "videoreward" / "Qwen2-VL-2B-Instruct"


@pytest.fixture(scope="package")
def folder(tmp_path_factory):
    """The converted folder: a captioner with random weights."""
    folder = tmp_path_factory.mktemp("captioner") / "converted"
    convert([str(PUBLISHED), str(folder), "--dtype", "float32"])
    return folder
