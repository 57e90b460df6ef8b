"""`--memory`: the estimates against the planner's numbers, the choices they lead to, and what does not fit."""

import dataclasses
from pathlib import Path

import pytest

from lcv_jax import generate
from lcv_jax.config import DiTConfig, UMT5Config
from lcv_jax.generation import memory
from lcv_jax.generation.memory import HOLDINGS, USUAL, Holding, Work, choose, needed_bytes, works_of
from lcv_jax.generation.tasks import ContinueVideo, LongVideo, Refine, TextToVideo
from lcv_jax.models.umt5 import UMT5Encoder
from lcv_jax.pipeline import Pipeline, load_pipeline
from lcv_jax.sampling.options import SamplingOptions

GUIDED_720P = Work(height=704, width=1280, frames=93, samples=2)
STREAMED = Holding(weights="stream", vae_tiles=True)


class Released(Pipeline):
    """The released model's configs in bfloat16, without a folder."""

    def __init__(self):
        self.dit_config, self.text_encoder = DiTConfig(), UMT5Encoder(UMT5Config())
        self.folder, self.dtype, self.fold_adapters = Path(), "bfloat16", False
        self.provenance = {"components": {"dit": {"dtypes": ["bfloat16"], "folded": []}}}


@pytest.fixture
def released(monkeypatch):
    """released(bytes of the transformer's layers) -> the pipeline."""

    def make(dit=27.08e9):
        monkeypatch.setattr(memory, "layer_bytes", lambda folder, name, _: int(dit if name == "dit" else 9.26e9))
        return Released()

    return make


def table(name):
    """The rows of a table of docs/scaling.md, without its head."""
    page = (Path(__file__).parents[2] / "docs" / "scaling.md").read_text()
    lines = page.split(f"<!-- {name} -->\n")[1].split("<!-- end -->")[0].splitlines()[2:]
    return [[cell.strip(" `") for cell in line.strip("|").split("|")] for line in lines]


ONE, CONDITION = dataclasses.replace(USUAL, samples=1), dataclasses.replace(USUAL, cached=True, encodes=True)
REFINED = dataclasses.replace(GUIDED_720P, samples=1, encodes=True)
WORKS = {
    "text-to-video": USUAL,
    "text-to-video --distilled --fold cfg_step_lora": ONE,
    "text-to-video --distilled": dataclasses.replace(ONE, adapters=1),
    "text-to-video --height 704 --width 1280": GUIDED_720P,
    "text-to-video --height 704 --width 1280 --distilled --fold cfg_step_lora": dataclasses.replace(
        GUIDED_720P, samples=1
    ),
    "image-to-video": dataclasses.replace(CONDITION, condition_frames=1),
    "continue-video": dataclasses.replace(CONDITION, condition_frames=13),
    "refine --spatial-only --fold refinement_lora": REFINED,
    "refine --fold refinement_lora": dataclasses.replace(REFINED, frames=189),
}


@pytest.mark.parametrize(("task", "gpu", "gigabytes", "_", "on_8", "on_12", "on_16", "largest"), table("tasks"))
def test_estimates_are_those_of_the_planner_and_promise_no_more(
    released, task, gpu, gigabytes, _, on_8, on_12, on_16, largest
):
    needed = needed_bytes(released(), WORKS[task], STREAMED)
    assert needed / 1e9 == pytest.approx(float(gigabytes.removesuffix(" GB")), rel=0.1)
    for size, fits in ((8, on_8), (12, on_12), (16, on_16), (24, largest)):
        assert fits == "yes" or needed > 0.92e9 * size


def test_the_autoencoder_takes_no_more_than_estimated():
    for task, _, whole, tiled, *_ in table("frames"):
        for tiles, gigabytes in ((False, whole), (True, tiled)):
            if gigabytes:
                planned = float(gigabytes.removesuffix(" GB"))
                assert 0.98 * planned < memory.frames_bytes(WORKS[task], tiles=tiles) / 1e9 < 1.6 * planned


def test_resident_weights_are_counted(released):
    # python -m lcv_jax.plan text-to-video --gpu rtx4090 --keep-text-encoder host [--quantize int8] --only denoise
    assert needed_bytes(released(), USUAL, Holding(vae_tiles=True)) / 1e9 == pytest.approx(32.4, rel=0.03)
    assert needed_bytes(released(14.16e9), USUAL, Holding(vae_tiles=True)) / 1e9 == pytest.approx(19.5, rel=0.03)


@pytest.mark.parametrize(
    ("gigabytes", "work", "index"),
    [
        ("80", USUAL, 0),
        ("48", USUAL, 1),
        ("24", USUAL, 3),
        ("8", USUAL, 3),
        ("16", GUIDED_720P, 3),
        ("12", GUIDED_720P, 4),
    ],
)
def test_the_fastest_that_fits_is_chosen(released, gigabytes, work, index):
    holding, needed = choose(released(), [work], gigabytes)
    assert holding == HOLDINGS[index]
    assert needed <= 0.92e9 * int(gigabytes)


def test_eight_bits_stay_on_a_card_of_24_gigabytes(released):
    assert choose(released(14.16e9), [USUAL], "24")[0].weights == "resident"


def test_what_does_not_fit_is_told_with_the_least_need(released):
    with pytest.raises(ValueError, match=r"--memory 8: 7\.4 GB are usable, and the least .* is 10\.\d GB"):
        choose(released(), [GUIDED_720P], "8")


def test_the_sizes_of_tasks(tiny_checkpoint):
    pipeline = load_pipeline(tiny_checkpoint)
    assert works_of(TextToVideo(prompt=("a",)), pipeline) == [USUAL]
    two = works_of(TextToVideo(prompt=("a", "b"), options=SamplingOptions(distilled=True)), pipeline)
    assert two == [dataclasses.replace(USUAL, adapters=1)]
    (continued,) = works_of(ContinueVideo(video=tiny_checkpoint, resolution="720p"), pipeline)
    assert (continued.height, continued.condition_frames, continued.cached) == (704, 13, True)
    (refined,) = works_of(Refine(video=tiny_checkpoint), pipeline)
    assert (refined.frames, refined.samples, refined.adapters) == (186, 1, 1)
    assert len(works_of(LongVideo(prompt="a", refine=True), pipeline)) == 2


def test_the_command_tells_what_it_chose(tiny_checkpoint, capsys):
    def load(**given):
        weights = generate.Weights(checkpoint=tiny_checkpoint, **given)
        return generate.load(weights, generate.Devices(), [TextToVideo(prompt=("a",), height=32, width=48)])

    pipeline = load(memory="8")
    assert (pipeline.weights, pipeline.keep_text_encoder, pipeline.vae_tiles) == ("resident", "device", False)
    assert "--memory 8: --weights resident --keep-text-encoder device (about" in capsys.readouterr().err
    with pytest.raises(ValueError, match="leave those out, or --memory"):
        load(memory="8", vae_tiles=True)
    with pytest.raises(ValueError, match="does not report its memory"):
        load(memory="auto")
