"""Plans of streams: the programs of a chunk are those of generation, and a cache that is written over counts once."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lcv_jax import pipeline, plan
from lcv_jax.planning import requests
from lcv_jax.planning.requests import StreamVideo, programs_of
from lcv_jax.sampling import streaming
from lcv_jax.sampling.options import SamplingOptions
from lcv_jax.sampling.streaming import StreamWindow

TINY = StreamVideo(height=32, width=48, chunk=1, sink=1, ring=2)
OPTIONS = {"num_steps": 2, "max_sequence_length": 16}


@pytest.mark.filterwarnings("ignore:this checkpoint was not trained on causal chunks")
@pytest.mark.parametrize("distilled", [False, True])
def test_the_programs_of_a_chunk_are_those_that_generation_runs(distilled, tiny_checkpoint, monkeypatch):
    calls = []

    def shapes(arguments, options):
        return jax.tree.map(lambda x: (x.shape, str(x.dtype)) if hasattr(x, "shape") else x, (arguments, options))

    def next_latents(*arguments, **options):
        calls.append(("denoise", shapes(arguments, options)))
        return jnp.zeros(arguments[4].shape, jnp.float32), arguments[2]

    decode_next = streaming.decode_next

    def decode(*arguments):
        calls.append(("decode", shapes(arguments, {})))
        made = jax.eval_shape(lambda *given: decode_next(arguments[0], *given), *arguments[1:])
        return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), made)

    monkeypatch.setattr(pipeline, "next_latents", next_latents)
    monkeypatch.setattr(streaming, "decode_next", decode)
    options = {**OPTIONS, "distilled": distilled}
    real = pipeline.load_pipeline(tiny_checkpoint, dtype="float32")
    monkeypatch.setattr(real, "encode_text", lambda prompts, length: _text(real, prompts, length))
    window = StreamWindow(chunk=TINY.chunk, sink=TINY.sink, ring=TINY.ring)
    stream = real.stream("a", height=TINY.height, width=TINY.width, window=window, **options)
    for _ in range(1 + 4 * window.size):  # the first frame, three chunks until the cache is full, and one after
        next(stream)
    monkeypatch.undo()

    known = requests.networks_of(tiny_checkpoint)
    found = programs_of(TINY, SamplingOptions(**options), known, dtype="float32")
    planned = [(one.name, shapes(one.arguments, one.options)) for one in found if one.name != "encode text"]
    assert calls[-2:] == planned


def _text(real, prompts, length):
    shape = len(prompts), length
    return jnp.zeros((*shape, real.text_encoder.cfg.d_model)), jnp.zeros(shape, bool)


def test_a_chunk_has_the_work_of_its_steps_and_of_keeping_its_keys_and_values():
    programs = programs_of(StreamVideo(), SamplingOptions(num_steps=4, guidance_scale=1.0))
    (known,) = (program.sampling for program in programs if program.sampling)
    tokens, seen, D, F, layers = 3 * 30 * 52, 24 * 30 * 52, 4096, 11008, 48
    assert known.steps == 4
    assert known.flops.attention == pytest.approx(5 * layers * 4 * tokens * seen * D)
    caption = 2 * layers * tokens * 2 * D * D  # a clean chunk is kept without a caption
    assert known.flops.linear == pytest.approx(5 * 2 * layers * tokens * (4 * D * D + 3 * D * F) + 4 * caption)


def test_a_cache_that_is_written_over_is_counted_once(tiny_checkpoint, tmp_path, capsys, compiled_for_here):
    where = tmp_path / "plan.json"
    sizes = {"height": 32, "width": 48, "chunk": 1, "sink": 1, "ring": 2, "num-steps": 2, "max-sequence-length": 16}
    size = [word for name, value in sizes.items() for word in (f"--{name}", str(value))]
    plan.main(["stream", "--checkpoint", str(tiny_checkpoint), *size, "--dtype", "float32", "--json", str(where)])
    read = json.loads(where.read_text())
    assert [one["name"] for one in read["stages"]] == ["encode text", "denoise", "decode"]
    _, denoising, decoding = read["stages"]
    cfg = requests.networks_of(tiny_checkpoint).dit
    cache = 2 * cfg.depth * 3 * (4 * 6 // np.prod(cfg.patch_size)) * cfg.hidden_size * 4
    rest = 4 * 6 * 16 * 4 + 2 * 16 * (32 * 4 + 1) + 3 * 4 + 4 + 8 + 4  # noise, captions, levels, guidance, key, count
    assert denoising["input_bytes"] == pytest.approx(cache + rest, abs=16)
    assert denoising["output_bytes"] == pytest.approx(4 * 6 * 16 * 4, abs=64)  # latents, and no second cache
    assert decoding["output_bytes"] == pytest.approx(4 * 32 * 48 * 3 * 4, abs=1024)
    assert "Stream: 4 frames in at least" in capsys.readouterr().out.replace("\n", " ")
