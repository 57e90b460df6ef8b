"""The same seed gives the same video on one device and on eight, however they share the work.

Run as a program (in a process of its own, for the number of devices) this file is the comparison.
"""

import os
import subprocess
import sys

import pytest

CASES = {
    "text, guidance in halves, two-dimensional context": (
        {"data": 2, "seq": 4},
        {"strategy": "ulysses_ring", "ring_size": 2},
        "whole",
    ),
    "image, ring": ({"seq": 8}, {"strategy": "ring"}, "whole"),
    "continuation with cache, parameters split": ({"fsdp": 2, "seq": 4}, {"strategy": "ring"}, "split"),
    "refinement with sparse attention": ({"data": 4, "seq": 2}, {"strategy": "ulysses"}, "whole"),
}


@pytest.mark.slow
def test_eight_devices_make_what_one_makes(tiny_checkpoint):
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": "8", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, __file__, str(tiny_checkpoint)], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert done.stdout.splitlines() == [f"{name}: same" for name in CASES]


def compare(weights):
    import numpy as np

    from lcv_jax.parallel.context import ContextParallel
    from lcv_jax.parallel.mesh import make_mesh
    from lcv_jax.parallel.sharding import REPLICATED, full_sharding
    from lcv_jax.pipeline import load_pipeline

    clip = np.random.default_rng(0).random((9, 64, 96, 3), np.float32)
    small = {"num_steps": 2, "seed": 3, "max_sequence_length": 16}
    sized = {"size": (64, 96), "num_frames": 9, **small}
    refined = {"size": (128, 192), "t_thresh": 0.9, **small}

    def run(name, pipeline):
        if name.startswith("text"):
            return pipeline.text_to_video(["a cat", "a dog"], height=64, width=96, num_frames=9, **small)
        if name.startswith("image"):
            return pipeline.image_to_video(clip[0], "it waves", **sized)
        if name.startswith("continuation"):
            return pipeline.continue_video(clip, "it dives", num_cond_frames=5, **sized)
        return pipeline.refine(clip, "a cat", **refined)

    for name, (shape, context, parameters) in CASES.items():
        rules = full_sharding(("fsdp", "seq")) if parameters == "split" else REPLICATED
        one = run(name, load_pipeline(weights))
        eight = run(
            name, load_pipeline(weights, mesh=make_mesh(**shape), context=ContextParallel(**context), rules=rules)
        )
        error = np.abs(one - eight)
        # Selection is a hard choice: where two blocks score alike, rounding decides.
        same = np.quantile(error, 0.99) if name.startswith("refinement") else error.max()
        print(f"{name}: {'same' if same < 3e-5 else f'differs by {same}, at most {error.max()}'}", flush=True)


if __name__ == "__main__":
    compare(sys.argv[1])
