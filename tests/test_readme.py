"""What the pages print as Python runs as printed."""

import pathlib
import re

import jax
import pytest

ROOT = pathlib.Path(__file__).parents[1]


@pytest.mark.parametrize("page", ["README.md", "docs/kernels.md"])
def test_the_attention_alone(page):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)
    (snippet,) = (block for block in blocks if "from lcv_jax.kernels import block_sparse_attention" in block)
    names: dict = {}
    exec(compile(snippet, page, "exec"), names)
    assert names["out"].shape == names["gradient"].shape == (1, 2048, 4, 64)
    assert jax.numpy.isfinite(names["gradient"]).all()
