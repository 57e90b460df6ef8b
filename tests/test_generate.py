"""The command line: files made, files repeated, and every mistake answered in one line."""

import dataclasses
import functools
import inspect
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
from fractions import Fraction

import av
import jax
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from lcv_jax import generate
from lcv_jax.checkpoint import store
from lcv_jax.data.frames import resize_and_crop, to_uint8
from lcv_jax.data.media_reader import read_image, read_video
from lcv_jax.data.media_writer import VideoWriter
from lcv_jax.generation import tasks
from lcv_jax.generation.results import Listeners
from lcv_jax.pipeline import Pipeline, load_pipeline
from lcv_jax.sampling.options import SamplingOptions
from lcv_jax.sampling.streaming import StreamWindow

STEPS = ["--num-frames", "5", "--num-steps", "2", "--max-sequence-length", "16"]
SMALL = ["--height", "32", "--width", "48", *STEPS]
SIZE = ["--size", "32", "48", *STEPS]


def moving(length, height=32, width=48):
    """Frames of one brightness each, which rises."""
    return np.repeat(np.arange(length) * (255 // length), height * width * 3).reshape(length, height, width, 3)


def write_video(path, frames, fps=15):
    with VideoWriter(path, fps=fps, height=frames.shape[1], width=frames.shape[2], crf=10) as writer:
        writer.write(frames.astype(np.uint8))
    return path


@pytest.fixture(scope="session")
def media(tmp_path_factory):
    """Pictures, clips and adapters, good and bad."""
    folder = tmp_path_factory.mktemp("media")
    Image.fromarray(moving(2, 96, 40)[1].astype(np.uint8)).save(folder / "tall.png")
    write_video(folder / "clip.mp4", moving(30), fps=30)
    write_video(folder / "clip.webm", moving(9))
    write_video(folder / "short.mp4", moving(4))
    write_video(folder / "second.mp4", moving(10, 64, 64))
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    (folder / "broken.mp4").write_bytes(b"no video")
    (folder / "empty").mkdir()
    name = "lora___lorahyphen___blocks___lorahyphen___0___lorahyphen___attn___lorahyphen___proj"
    parts = {"lora_down.weight": (2, 24), "lora_up.blocks.0.weight": (24, 2), "alpha_scale": ()}
    save_file(
        {f"{name}.{key}": np.ones(shape, np.float32) for key, shape in parts.items()}, folder / "other.safetensors"
    )
    return folder


def without_compiling(err):
    """What is logged, but for the lines about loading and compiling."""
    return re.sub(r".*compiling.*\n", "", err)


@pytest.fixture
def cli(tmp_path, tiny_checkpoint, media, monkeypatch, capsys):
    """Runs the command line in a folder of its own, where CHECKPOINT and MEDIA stand for those.

    Gives the exit status, stdout and stderr.
    """
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        names = {"CHECKPOINT": str(tiny_checkpoint), "MEDIA": str(media)}
        replaced = [argument.replace("MEDIA", names["MEDIA"]) for argument in map(str, arguments)]
        replaced = [names["CHECKPOINT"] if argument == "CHECKPOINT" else argument for argument in replaced]
        capsys.readouterr()
        try:
            generate.main(replaced)
            status = 0
        except SystemExit as exit:
            status = exit.code
        out, err = capsys.readouterr()
        return status, out, without_compiling(err)

    return run


@pytest.fixture
def no_weights(monkeypatch):
    """A test fails in which weights are loaded."""

    def load(*_, **__):
        raise AssertionError("weights were loaded")

    monkeypatch.setattr(store, "load_component", load)
    monkeypatch.setattr(store, "load_adapter", load)


def test_text_to_video_writes_what_the_pipeline_makes(cli, tmp_path, tiny_checkpoint):
    prompt = "ein Wal \u2014 \u9cb8\u9c7c \U0001f40b"
    files = ["--output", "new/whale.mkv", "--crf", "0", "--frames", "--contact-sheet"]
    status, out, err = cli("text-to-video", "CHECKPOINT", "--prompt", prompt, *SMALL, "--seed", "3", *files)
    assert (status, out, err) == (0, "wrote new/whale.mkv: 5 frames of 48 x 32\n", "")
    given = {"height": 32, "width": 48, "num_frames": 5, "num_steps": 2, "max_sequence_length": 16}
    want = to_uint8(load_pipeline(tiny_checkpoint).text_to_video(prompt, **given, seed=3)[0])
    frames, fps = read_video(tmp_path / "new/whale.mkv")
    assert fps == 15
    assert frames.shape == want.shape
    pngs = sorted((tmp_path / "new/whale_frames").iterdir())
    np.testing.assert_array_equal(np.stack([read_image(png) for png in pngs]), want)
    assert np.abs(frames.astype(int) - want).mean() < 20  # chroma of noise is averaged over 2 x 2 pixels
    assert read_image(tmp_path / "new/whale.png").shape[2] == 3
    assert {path.name for path in (tmp_path / "new").iterdir()} == {
        "whale.mkv",
        "whale.json",
        "whale.png",
        "whale_frames",
    }

    sidecar = json.loads((tmp_path / "new/whale.json").read_text())
    assert sidecar["task"]["prompt"] == [prompt]
    assert sidecar["video"] == {"file": "whale.mkv", "num_frames": 5, "height": 32, "width": 48, "fps": "15"}
    assert sidecar["files"] == {"codec": None, "crf": 0, "codec_options": [], "frames": True, "contact_sheet": True}
    assert sidecar["provenance"] == store.read_provenance(tiny_checkpoint)
    assert {"jax", "jaxlib", "flax", "numpy", "av"} <= sidecar["versions"].keys()
    again = tasks.task_from_json(sidecar["task"])
    assert again.options == SamplingOptions(num_steps=2, max_sequence_length=16, seed=3)
    assert json.loads(json.dumps(tasks.task_to_json(again))) == sidecar["task"]


def test_several_prompts_are_numbered_and_frames_of_a_longer_video_go(cli, tmp_path):
    killed = tmp_path / ".v_1_frames.partial" / "frame_00009.png"
    killed.parent.mkdir()
    killed.touch()
    stale = tmp_path / "v_1_frames" / "frame_00007.png"
    stale.parent.mkdir()
    stale.touch()
    status, out, _ = cli(
        "text-to-video", "CHECKPOINT", "--prompt", "a cat", "", *SMALL, "--output", "v.mp4", "--frames"
    )
    assert status == 0
    assert [line.split()[1] for line in out.splitlines()] == ["v_0.mp4:", "v_1.mp4:"]
    assert {path.name for path in tmp_path.iterdir()} == {
        f"v_{number}{rest}" for number in (0, 1) for rest in (".mp4", ".json", "_frames")
    }
    assert len(list(stale.parent.iterdir())) == 5
    assert not np.array_equal(*(read_video(tmp_path / f"v_{number}.mp4")[0] for number in (0, 1)))


def test_image_to_video_begins_with_the_image(cli, tmp_path, media):
    status, _, err = cli(
        "image-to-video", "CHECKPOINT", "--image", "MEDIA/tall.png", *SIZE, "--output", "i.webm", "--fps", "12.5"
    )
    assert (status, err) == (0, "")
    frames, fps = read_video(tmp_path / "i.webm")
    assert (frames.shape, fps) == ((5, 32, 48, 3), 12.5)
    sidecar = json.loads((tmp_path / "i.json").read_text())
    assert len(sidecar["inputs"]["image_sha256"]) == 64
    assert sidecar["task"]["image"] == str(media / "tall.png")


def test_continue_video_reads_a_faster_clip_at_15(cli, tmp_path, monkeypatch):
    seen = {}

    def spy(self, video, prompt, **given):
        seen["video"] = video
        return np.zeros((len(prompt), 9, 32, 48, 3), np.float32)

    monkeypatch.setattr(Pipeline, "continue_video", spy)
    for name, want in (("clip.mp4", moving(30)[-9::2]), ("clip.webm", moving(9)[-5:])):
        flags = ["--num-cond-frames", "5", "--num-frames", "9", *SIZE[:3], "--output", "c.mp4"]
        status, *_ = cli("continue-video", "CHECKPOINT", "--video", f"MEDIA/{name}", *flags)
        assert status == 0
        np.testing.assert_allclose(seen["video"], want, atol=4)


def test_a_clip_on_its_side_is_turned(cli, tmp_path, media, monkeypatch):
    with av.open(str(media / "clip.mp4")) as source, av.open(str(tmp_path / "turned.mp4"), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(source.streams.video[0]):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    content = (tmp_path / "turned.mp4").read_bytes()
    matrix = np.array([1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30], ">i4").tobytes()
    quarter = np.array([0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30], ">i4").tobytes()
    place = content.index(matrix, content.index(b"tkhd"))
    (tmp_path / "turned.mp4").write_bytes(content[:place] + quarter + content[place + 36 :])
    sizes = []

    def spy(self, shape, *_, **__):
        sizes.append(shape.shape[1:3])
        return np.zeros((1, 93, 32, 48, 3), np.float32)

    monkeypatch.setattr(Pipeline, "continue_video", spy)
    assert cli("continue-video", "CHECKPOINT", "--video", "turned.mp4", "--output", "c.mp4")[0] == 0
    assert sizes == [(48, 32)]


def test_an_image_gets_the_nearest_bucket_and_its_centre(cli, monkeypatch, media):
    encoded = []

    def spy(self, frames, options):
        encoded.append(np.asarray(frames))
        raise ValueError("seen")

    monkeypatch.setattr(Pipeline, "_encode", spy)
    for more, want in (([], (960, 416)), (["--resolution", "720p"], (1504, 608)), (["--size", "48", "64"], (48, 64))):
        assert cli("image-to-video", "CHECKPOINT", "--image", "MEDIA/tall.png", *more)[2] == "error: seen\n"
        np.testing.assert_array_equal(encoded[-1], resize_and_crop(read_image(media / "tall.png")[None], *want))


def test_refine_doubles_frames_and_rate_and_leaves_no_folder(cli, tmp_path):
    flags = ["--video", "MEDIA/second.mp4", "--size", "64", "64", "--max-sequence-length", "16", "--num-steps", "2"]
    status, _, err = cli("refine", "CHECKPOINT", *flags, "--output", "r.mp4")
    assert (status, err) == (0, "refined segment 1 of 1\n")
    frames, fps = read_video(tmp_path / "r.mp4")
    assert (frames.shape, fps) == ((20, 64, 64, 3), 30)
    assert {path.name for path in tmp_path.iterdir()} == {"r.mp4", "r.json"}


def test_refine_keeps_an_odd_frame_rate(cli, tmp_path, monkeypatch):
    monkeypatch.setattr(Pipeline, "refine", lambda self, video, *_, spatial_only, num_cond_frames, **__:
                        video.repeat(1 if spatial_only else 2, axis=0)[None])  # fmt: skip
    write_video(tmp_path / "ntsc.mp4", moving(7), fps=Fraction(30000, 1001))
    flags = ["--video", "ntsc.mp4", "--segment-frames", "3", "--overlap", "1", "--output", "r.mp4"]
    for more, length, rate in (([], 14, Fraction(60000, 1001)), (["--spatial-only"], 7, Fraction(30000, 1001))):
        status, *_ = cli("refine", "CHECKPOINT", *flags, *more)
        assert status == 0
        frames, fps = read_video(tmp_path / "r.mp4")
        assert (len(frames), fps) == (length, rate)
    assert cli("refine", "CHECKPOINT", *flags, "--input-fps", "10")[0] == 0
    assert read_video(tmp_path / "r.mp4")[1] == 20


def test_interactive_video_from_an_image_as_a_process(tiny_checkpoint, media, tmp_path):
    command = [sys.executable, "-m", "lcv_jax.generate", "interactive-video", str(tiny_checkpoint), "--prompt", "a cat"]
    command += [
        "\u9cb8\u9c7c",
        "--image",
        str(media / "tall.png"),
        "--num-cond-frames",
        "1",
        *SIZE,
        "--output",
        "i.mp4",
    ]
    cache = {"JAX_COMPILATION_CACHE_DIR": jax.config.jax_compilation_cache_dir, "PYTHONPATH": os.getcwd()}
    done = subprocess.run(command, cwd=tmp_path, env={**os.environ, **cache}, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "wrote i.mp4: 9 frames of 48 x 32\n"), done.stderr
    assert without_compiling(done.stderr) == "draft segment 1 of 2\ndraft segment 2 of 2\n"
    assert len(read_video(tmp_path / "i.mp4")[0]) == 9
    assert json.loads((tmp_path / "i.json").read_text())["task"]["prompt"] == ["a cat", "\u9cb8\u9c7c"]


STREAM = """--height 32 --width 48 --num-steps 2 --max-sequence-length 16 --fps 8 --chunk 1 --sink 1
    --ring 2""".split()  # noqa: SIM905


@pytest.mark.filterwarnings("ignore:this checkpoint was not trained")
def test_a_stream_is_written_told_and_continued(cli, tmp_path, tiny_checkpoint):
    told = ["--prompt", "a cat", "a dog", "--prompt-at", "0.5", "--seconds", "1.5", "--frames"]
    status, out, _ = cli("stream", "CHECKPOINT", *told, *STREAM, "--save", "state", "--output", "a.mp4")
    assert (status, out) == (0, "wrote a.mp4: 12 frames of 48 x 32\n")
    status, out, _ = cli(
        "stream", "CHECKPOINT", "--prompt", "a dog", "--seconds", "0.5", *STREAM, "--resume", "state", "--frames",
        "--output", "b.mp4", "--contact-sheet",
    )  # fmt: skip
    assert (status, out) == (0, "wrote b.mp4: 4 frames of 48 x 32\n")

    pipeline = load_pipeline(tiny_checkpoint)
    given = {"height": 32, "width": 48, "num_steps": 2, "max_sequence_length": 16}
    stream = pipeline.stream("a cat", window=StreamWindow(chunk=1, sink=1, ring=2), **given)
    want = [stream.send("a dog" if count == 4 else None) for count in range(16)]
    got = [
        read_image(tmp_path / f"{name}_frames" / f"frame_{number:05d}.png")
        for name, count in (("a", 12), ("b", 4))
        for number in range(count)
    ]
    np.testing.assert_array_equal(np.stack(got), np.stack(want))
    assert json.loads((tmp_path / "a.json").read_text())["task"]["prompt_at"] == [0.5]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stream_that_is_interrupted_is_a_whole_file(number, monkeypatch, tmp_path):
    """The pipeline's part is played by one that interrupts at its sixth frame."""

    class Interrupting(Pipeline):
        def __init__(self):
            pass

        def stream(self, prompt, **_):
            self.taken = 0
            return self

        def send(self, prompt):
            self.taken += 1
            if self.taken == 6:
                os.kill(os.getpid(), number)
            return np.full((32, 48, 3), self.taken, np.uint8)

    pipeline, before = Interrupting(), signal.getsignal(number)
    task = tasks.StreamVideo(prompt=("",), fps=8.0, height=32, width=48)
    (result,) = task.run(pipeline, tmp_path, Listeners())
    files = generate.Files(output=tmp_path / "a.mp4")
    assert generate.write_result(result, files) == {"num_frames": 6, "height": 32, "width": 48}
    assert len(read_video(tmp_path / "a.mp4")[0]) == 6
    assert signal.getsignal(number) is before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--prompt", "a", "b"], "prompt_at gives the time of each prompt after the first: 1 for 2 prompts, got 0"),
        (
            ["--prompt", "a", "b", "--prompt-at", "2", "--seconds", "2"],
            "prompt_at must rise, all before the end at 2 s",
        ),
        (["--prompt", "a", "--sink", "30"], "sink must not exceed ring"),
        (["--prompt", "a", "--contact-sheet"], "give seconds, or leave contact_sheet out"),
        (["--prompt", "a", "--seconds", "nan"], "seconds must be"),
        (["--prompt", "a", "--seconds", "1", "--resume", "MEDIA/broken.png"], "not a saved stream"),
    ],
)
def test_mistakes_of_streams(cli, arguments, message):
    status, _, err = cli("stream", "CHECKPOINT", *arguments)
    assert status == 2
    assert message in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    "task",
    [
        tasks.TextToVideo(prompt=("a", ""), height=32, options=SamplingOptions(seed=(1, 2), shift=3.0)),
        tasks.ImageToVideo(image=pathlib.Path("a b.png"), size=(32, 48), fit="stretch"),
        tasks.ContinueVideo(video=pathlib.Path("v.mp4"), options=SamplingOptions(adapters=(("x", 1.0), ("y", 0.5)))),
        tasks.Refine(video=pathlib.Path("v.mp4"), input_fps=12.5, spatial_only=True),
        tasks.LongVideo(prompt="\u9cb8", num_segments=3, refine=True, refine_size=(64, 128)),
        tasks.InteractiveVideo(prompt=("a", "b"), image=pathlib.Path("a.png")),
        tasks.StreamVideo(prompt=("a", "b"), prompt_at=(1.5,), seconds=3.0, resume=pathlib.Path("state")),
    ],
)
def test_tasks_survive_json(task):
    assert tasks.task_from_json(json.loads(json.dumps(tasks.task_to_json(task)))) == task


class Batch:
    """A file of prompts and the run over it; the pipeline's methods are counted, and quick."""

    def __init__(self, cli, folder, monkeypatch):
        self.cli, self.path, self.made = cli, folder / "prompts.json", []

        def text_to_video(pipeline, prompt, *, num_frames, height, width, **given):
            self.made.append(prompt)
            return np.zeros((len(prompt), num_frames, height, width, 3), np.float32)

        monkeypatch.setattr(Pipeline, "text_to_video", text_to_video)

    def __call__(self, *entries, flags=()):
        self.made.clear()
        self.path.write_text(json.dumps(entries, ensure_ascii=False), encoding="utf-8")
        return self.cli("batch", "CHECKPOINT", self.path, "--folder", "out", *flags)


@pytest.fixture
def batch(cli, tmp_path, monkeypatch):
    return Batch(cli, tmp_path, monkeypatch)


TINY = {"height": 32, "width": 48, "num_frames": 5}


def test_a_batch_skips_what_is_done_and_redoes_what_changed(batch, tmp_path):
    cat = {**TINY, "prompt": "a cat", "output": "cat.mp4"}
    two = {**TINY, "prompt": ["\u9cb8", "\u9c7c"], "output": "sub/fish.mp4"}
    status, out, err = batch(cat, two, {**TINY, "prompt": ""})
    assert (status, err, batch.made) == (0, "", [["a cat"], ["\u9cb8", "\u9c7c"], [""]])
    videos = {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.mp4")}
    assert videos == {"cat.mp4", "sub/fish_0.mp4", "sub/fish_1.mp4", "video_2.mp4"}
    status, out, _ = batch(cat, two, {**TINY, "prompt": ""})
    assert (status, batch.made) == (0, [])
    assert out.count("done already") == 3
    for changed in ({"seed": 2}, {"prompt": "a dog"}, {"crf": 30}, {"contact_sheet": True}, {"codec": "libvpx-vp9"}):
        cat |= changed
        assert batch(cat, two)[0] == 0
        assert batch.made == [cat["prompt"]] or batch.made == [[cat["prompt"]]]
    (tmp_path / "out/sub/fish_0.mp4").unlink()
    assert batch(cat, two)[0] == 0
    assert batch.made == [["\u9cb8", "\u9c7c"]]


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (
            [{**TINY, "prompt": "x"}, {**TINY, "prompt": "x", "num_steps": 0}],
            "entry 1: num_steps must lie in 1..10000, got 0",
        ),
        ([{**TINY}], "entry 0: missing: prompt"),
        ([{**TINY, "prompt": "x", "seed": [1, 2]}], "entry 0: give one seed, or one a prompt: got 2 seeds for 1"),
        ([{**TINY, "prompt": "x", "sparse": True}], "entry 0: height and width must be multiples of 64"),
        ([{"prompt": "x", "num_stepz": 3}], "unknown key 'num_stepz' of text-to-video; did you mean 'num_steps'?"),
        ([{"task": "fly", "prompt": "x"}], "unknown task 'fly': have text-to-video, "),
        ([{"prompt": "x", "num_steps": "3"}], "num_steps must be int | None, got '3'"),
        ([{"prompt": "x", "height": 32.0}], "height must be int, got 32.0"),
        ([{"prompt": "x", "distilled": 1}], "distilled must be bool, got 1"),
        ([{"prompt": 3}], "prompt must be tuple[str, ...], got 3"),
        ([{"prompt": "x", "posterior": "smaple"}], "posterior must be Literal['mode', 'sample'], got 'smaple'"),
        ([{"task": "image-to-video", "image": "MEDIA/tall.png", "size": [32]}], "size must be tuple[int, int] | None"),
        ([{"task": "image-to-video", "image": "nowhere.png"}], "nowhere.png: cannot be read as an image"),
        ([{"prompt": "x", "output": 5}], "output must be Path, got 5"),
        ([{"prompt": "x", "output": "a.mp4"}, {"prompt": "y", "output": "a.mkv"}], "a.json is written by entry 0 too"),
        ([{"prompt": "x", "output": "a.xyz"}], "no such kind of video file"),
        ([{"prompt": "x", "output": "../prompts.mp4"}], "prompts.json is read, and would be overwritten"),
        ([{"prompt": "x", "adapters": [["nope", 1]]}], "entry 0: adapter nope: there is none"),
        ([{"prompt": []}], "give at least one prompt"),
        ([], "must hold a list of objects"),
        ([["prompt"]], "must hold a list of objects"),
    ],
)
def test_a_batch_is_checked_before_its_first_video(batch, no_weights, media, entries, message):
    status, _, err = batch(*json.loads(json.dumps(entries).replace("MEDIA", str(media))))
    assert (status, batch.made) == (2, [])
    assert_one_line(err, message)


def test_prompts_of_a_batch_are_encoded_at_once_where_the_text_encoder_does_not_stay(batch, monkeypatch):
    asked = []

    def encode_text(pipeline, prompts, length):
        asked.append((pipeline.keep_text_encoder, prompts, length))

    monkeypatch.setattr(Pipeline, "encode_text", encode_text)
    monkeypatch.setattr(generate, "_make", lambda *_: None)
    long = {"task": "long-video", "prompt": "a cat", "num_segments": 2, "refine": True, "output": "long.mp4"}
    entries = {**TINY, "prompt": "a dog"}, {**TINY, "prompt": ["a cat", "a fish"], "guidance_scale": 1.0}, long
    assert batch(*entries)[0] == 0
    assert asked == []
    assert batch(*entries, flags=["--keep-text-encoder", "disk"])[0] == 0
    assert asked == [("disk", ["a dog", "", "a cat", "a fish"], 512)]


def assert_one_line(err, message):
    assert err.startswith("error: "), err
    assert err.count("\n") == 1, err
    assert message in err


TEXT = ("text-to-video", "CHECKPOINT", "--prompt", "x")
IMAGE = ("image-to-video", "CHECKPOINT", "--image", "MEDIA/tall.png")
CLIP = ("continue-video", "CHECKPOINT", "--video", "MEDIA/clip.mp4")
LONG = ("long-video", "CHECKPOINT", "--prompt", "x")
REFINE = ("refine", "CHECKPOINT", "--video", "MEDIA/clip.mp4")
TALK = ("interactive-video", "CHECKPOINT", "--prompt")


@pytest.mark.usefixtures("no_weights")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((*TEXT, "--height", "40"), "multiples of 16, got 40 x 832; nearest is 32 x 832"),
        ((*TEXT, "--width", "0"), "width must lie in 1..16384, got 0"),
        ((*TEXT, "--sparse", "True"), "multiples of 64, got 480 x 832"),
        ((*IMAGE, "--size", "33", "48"), "multiples of 16, got 33 x 48"),
        ((*REFINE, "--size", "96", "64"), "multiples of 64, got 96 x 64"),
        ((*LONG, "--refine", "--refine-size", "65", "64"), "multiples of 64, got 65 x 64"),
        ((*LONG, "--refine-size", "64", "64"), "add refine, or leave it out"),
        ((*TEXT, "--num-steps", "0"), "num_steps must lie in 1..10000, got 0"),
        ((*TEXT, "--num-steps", "-3"), "num_steps must lie in 1..10000, got -3"),
        ((*TEXT, "--guidance-scale", "0.5", "--negative-prompt", "bad"), "guidance_scale must lie in 1..1000, got 0.5"),
        ((*TEXT, "--guidance-scale", "nan"), "guidance_scale must lie in 1..1000, got nan"),
        ((*TEXT, "--num-frames", "0"), "num_frames must lie in 1..65536, got 0"),
        ((*TEXT, "--shift", "0"), "shift must be above 0 and at most 1000000.0, got 0"),
        ((*TEXT, "--shift", "inf"), "shift must be above 0"),
        ((*TEXT, "--distilled", "--enhance-hf", "True"), "exclude each other"),
        ((*TEXT, "--distilled", "--num-steps", "51"), "at most 50 steps, got 51"),
        ((*TEXT, "--max-sequence-length", "1"), "max_sequence_length must lie in 2..32768"),
        ((*TEXT, "--seed", "-1"), "seed must lie in 0..4294967295, got -1"),
        ((*TEXT, "--seed", "1", "2"), "got 2 seeds for 1 prompts"),
        ((*LONG, "--seed", "1", "2"), "takes one seed, got 2"),
        ((*REFINE, "--seed", "1", "2"), "takes one seed, got 2"),
        (("text-to-video", "CHECKPOINT", "--prompt"), "give at least one prompt; it may be empty"),
        ((*TALK,), "at least one segment, got none"),
        ((*LONG, "--num-segments", "0"), "num_segments must lie in 1..10000, got 0"),
        ((*LONG, "--resolution", "720p"), "without one, give the size itself"),
        ((*LONG, "--num-cond-frames", "4"), "num_cond_frames must be a multiple of 4 plus 1, got 4"),
        ((*LONG, "--num-frames", "13"), "num_frames = 13 must exceed num_cond_frames = 13"),
        (
            (*LONG, "--image", "MEDIA/tall.png", "--video", "MEDIA/clip.mp4"),
            "an image or a video to begin with, not both",
        ),
        (
            (*LONG, "--video", "MEDIA/short.mp4"),
            "the clip has 4 frames, continuing needs at least num_cond_frames = 13",
        ),
        (("image-to-video", "CHECKPOINT", "--image", "no.png"), "no.png: cannot be read as an image (No such file"),
        (("image-to-video", "CHECKPOINT", "--image", "MEDIA/broken.png"), "broken.png: cannot be read as an image"),
        (("image-to-video", "CHECKPOINT", "--image", "MEDIA/clip.mp4"), "clip.mp4: cannot be read as an image"),
        (("continue-video", "CHECKPOINT", "--video", "no.mp4"), "no.mp4: cannot be read as a video (No such file"),
        (("continue-video", "CHECKPOINT", "--video", "MEDIA/broken.mp4"), "broken.mp4: cannot be read as a video"),
        (("continue-video", "CHECKPOINT", "--video", "MEDIA/short.mp4"), "the clip has 4 frames"),
        ((*CLIP, "--num-cond-frames", "12"), "num_cond_frames must be a multiple of 4 plus 1, got 12"),
        ((*CLIP, "--num-cond-frames", "13", "--num-frames", "13"), "must exceed num_cond_frames = 13"),
        (("refine", "CHECKPOINT", "--video", "MEDIA/broken.mp4"), "broken.mp4: cannot be read as a video"),
        ((*REFINE, "--overlap", "93"), "overlap must lie in 1..92, got 93"),
        ((*REFINE, "--t-thresh", "0"), "t_thresh must be above 0 and at most 1, got 0"),
        ((*REFINE, "--input-fps", "inf"), "input_fps must be above 0 and at most 1000, got inf"),
        ((*REFINE, "--distilled"), "leave out negative_prompt, guidance_scale, distilled and enhance_hf"),
        ((*REFINE, "--negative-prompt", "bad"), "leave out negative_prompt"),
        (("text-to-video", "nowhere", "--prompt", "x"), "nowhere is no folder"),
        (("text-to-video", "MEDIA/empty", "--prompt", "x"), "empty is no checkpoint: it has no lcv_jax.json"),
        (("text-to-video", "PUBLISHED", "--prompt", "x"), "is a published checkpoint; convert it first: python"),
        (("text-to-video", "OTHER_VERSION", "--prompt", "x"), "of another version: got lcv_jax checkpoint 99, wanted"),
        ((*TEXT, "--adapters", "nope", "1"), "adapter nope: there is none in"),
        ((*TEXT, "--adapters", "no.safetensors", "1"), "adapter no.safetensors: there is no such file"),
        ((*TEXT, "--adapters", "MEDIA/other.safetensors", "1"), "the adapter is for another model: it has depth 1"),
        ((*TEXT, "--output", "a.xyz"), "a.xyz: no such kind of video file; use .mp4, .mkv, .mov or .webm"),
        ((*TEXT, "--output", "a"), "a: no such kind of video file"),
        ((*TEXT, "--output", "/proc/none/a.mp4"), "/proc/none/a.mp4: cannot be written"),
        ((*TEXT, "--output", "."), "output must name a file, got '.'"),
        ((*TEXT, "--codec", "nope"), "no video encoder 'nope' here; there are libx264"),
        ((*TEXT, "--codec-options", "speed", "fast"), "libx264 has no option speed"),
        ((*TEXT, "--crf", "400"), "crf must lie in 0..63, got 400"),
        ((*CLIP, "--output", "MEDIA/clip.mp4"), "clip.mp4 is read, and would be overwritten"),
        ((*IMAGE, "--output", "MEDIA/tall.mp4", "--contact-sheet"), "tall.png is read, and would be overwritten"),
        (("batch", "CHECKPOINT", "no.json"), "no.json: No such file or directory"),
        (("batch", "CHECKPOINT", "MEDIA/broken.png"), "broken.png, line 1: not UTF-8"),
    ],
    ids=lambda value: " ".join(value[2:])[:60] if isinstance(value, tuple) else None,
)
def test_a_mistake_is_one_line_before_weights_load(cli, tmp_path, tiny_checkpoint, arguments, message):
    provenance = json.loads((tiny_checkpoint / store.PROVENANCE).read_text())
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / store.PROVENANCE).write_text(json.dumps({**provenance, "version": 99}))
    folders = {
        "OTHER_VERSION": "other",
        "PUBLISHED": str(pathlib.Path(__file__).parent.parent / "tests/tiny_checkpoint"),
    }
    status, out, err = cli(*(folders.get(argument, argument) for argument in arguments))
    assert (status, out) == (2, "")
    assert_one_line(err, message)
    assert {path.name for path in tmp_path.iterdir()} <= {"other", "outputs"}


@pytest.mark.usefixtures("no_weights")
@pytest.mark.parametrize(
    "arguments",
    [("text-to-video", "CHECKPOINT"), (*TEXT, "--seeed", "3"), ("fly", "CHECKPOINT"), (*TEXT, "--height", "x"), ()],
)
def test_the_parser_refuses_what_it_does_not_know(cli, arguments):
    status, out, err = cli(*arguments)
    assert (status, out) == (2, "")
    assert "Traceback" not in err


def test_a_checkpoint_without_the_refinement_adapter_is_refused_before_the_draft(cli, no_weights, monkeypatch):
    monkeypatch.setattr(store, "list_adapters", lambda folder: ["cfg_step_lora"])
    status, _, err = cli(*LONG, "--refine")
    assert status == 2
    assert_one_line(err, "adapter refinement_lora: there is none in")


def test_without_the_video_extra(cli, no_weights, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    status, _, err = cli(*TEXT)
    assert status == 2
    assert_one_line(err, 'images and videos need the package av: pip install "lcv_jax[video]"')


@pytest.mark.parametrize(
    ("arguments", "warning"),
    [
        ((*TEXT, "--num-frames", "8"), "num_frames must be a multiple of 4 plus 1: rounded 8 down to 5"),
        ((*TEXT[:3], "one two three four five six seven", "--max-sequence-length", "5"), 'and loses "'),
        ((*TEXT, "--negative-prompt", "bad", "--guidance-scale", "1"), "negative_prompt is not used"),
    ],
)
def test_a_warning_comes_once_and_before_weights_load(cli, monkeypatch, capsys, arguments, warning):
    seen = []

    def load(*_, **__):
        seen.append(without_compiling(capsys.readouterr().err))
        raise ValueError("far enough")

    monkeypatch.setattr(store, "load_component", load)
    status, _, err = cli(*TEXT[:2], "--height", "32", "--width", "48", *arguments[2:])
    assert (status, err) == (2, "error: far enough\n")
    assert len(seen) == 1
    assert seen[0].startswith("warning: ")
    assert seen[0].count("\n") == 1
    assert warning in seen[0]


def test_the_adapters_that_are_used_or_forgotten_are_told(tiny_checkpoint, monkeypatch):
    told = functools.partial(generate._told_adapters, pipeline=load_pipeline(tiny_checkpoint))
    used = tasks.task_from_json({"prompt": "a", "adapters": [["style", 0.8], ["x.safetensors", 1]]})
    plain = tasks.task_from_json({"prompt": "a"})
    assert told(used) == "adapters: style 0.8, x.safetensors 1"
    assert told(plain) == ""  # the released ones belong to tasks
    monkeypatch.setattr(generate, "list_adapters", lambda _: ["cfg_step_lora", "style"])
    assert told(plain) == f"adapters: none; {tiny_checkpoint} has style, which --adapters style 1 would add"


def test_an_interrupt_says_how_to_go_on(cli, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(Pipeline, "text_to_video", interrupt)
    status, _, err = cli(*TEXT)
    assert status == 130
    assert err == "interrupted; a long video goes on after its last finished segment\n"


def test_every_task_has_help_that_explains_its_flags(cli):
    for name in (*tasks.TASKS, "batch"):
        status, out, _ = cli(name, "--help")
        assert status == 0
        assert "CHECKPOINT" in out
        assert "options.options" not in out


def test_defaults_of_none_are_explained():
    for kind in (*tasks.TASKS.values(), SamplingOptions, generate.Files):
        source = "".join(inspect.getsource(base) for base in kind.__mro__[:-1])
        for field in dataclasses.fields(kind):
            if field.default is None:
                text = source.split(f"    {field.name}: ")[1].split('"""')[1]
                assert "None: " in text, (kind, field.name)


def test_the_bar_is_for_terminals_and_logs_stay_short(capsys, monkeypatch):
    clock = iter(range(0, 10**6, 1))
    monkeypatch.setattr(generate.time, "monotonic", lambda: next(clock))
    with generate.progress_bar() as listeners:
        for number in range(3):
            listeners.on_segment("draft", number, 3)
            for done in range(1, 51):
                listeners.on_step(done, 50)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "loading weights and compiling ..."
    assert lines[2] == "draft segment 1 of 3: step 1 of 50, after 1 s of loading and compiling"
    assert lines[3] == "draft segment 1 of 3: step 32 of 50, 122 s left"  # 118 steps of about a tick each
    assert "draft segment 2 of 3" in lines
    assert len(lines) < 12
    monkeypatch.undo()
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    with generate.progress_bar() as listeners:
        listeners.on_segment("draft", 1, 3)
        listeners.on_step(10, 50)
    assert "draft segment 2 of 3" in (text := capsys.readouterr().err)
    assert "60/150" in text
