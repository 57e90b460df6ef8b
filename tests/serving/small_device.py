"""`python -m lcv_jax.serve` on a device that has room for one latent frame: a stand-in for a GPU that is too small.

Everything but the error is real: it is JAX's own, raised where the sampling loop is called.
"""

import sys

import jax

from lcv_jax import serve
from lcv_jax.pipeline import Pipeline
from lcv_jax.serving import processes
from lcv_jax.serving.worker import work


def work_on_small_device(connection, settings):
    text_to_video = Pipeline.text_to_video

    def bounded(self, *arguments, num_frames=93, **keywords):
        if num_frames > 1:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 9 bytes.")
        return text_to_video(self, *arguments, num_frames=num_frames, **keywords)

    Pipeline.text_to_video = bounded
    work(connection, settings)


if __name__ == "__main__":
    processes.work = work_on_small_device
    serve.main(sys.argv[1:])
