"""Encoding ahead: what is stored, whatever kills the run; what is left out and why; mistakes in one line."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from small_clips import number_of, write_clips, write_manifest

from lcv_jax import encode
from lcv_jax.data import encoded
from lcv_jax.data.clips import read_frames
from lcv_jax.data.degrade import parse_refinement
from lcv_jax.data.encoded import EncodedFolder, pack_record, unpack_record
from lcv_jax.data.frames import resize_and_crop, to_uint8
from lcv_jax.data.manifest import Entry
from lcv_jax.data.media_writer import VideoWriter
from lcv_jax.pipeline import load_pipeline
from lcv_jax.sampling.denoise import decode_latents, encode_frames, upsample_clip

COMMON = ("--sizes", "5,16,16", "--fps", "8")


def run(*arguments):
    encode.main(list(map(str, arguments)))


def records(folder):
    """All records of a folder, by bucket, in their order."""
    opened = EncodedFolder(folder)
    return {
        bucket.size: [opened.source(bucket)[place] for place in range(bucket.num_records)] for bucket in opened.buckets
    }


def ids(folder):
    return {size: [unpack_record(record)[1]["id"] for record in every] for size, every in records(folder).items()}


def test_records():
    arrays = {
        "a": np.arange(6, dtype=np.float32).reshape(1, 2, 3),
        "b": np.arange(4).astype("bfloat16"),
        "empty": np.zeros((0, 3), np.float32),
    }
    got, facts = unpack_record(pack_record(arrays, id="ä", captions=("one",)))
    assert facts == {"id": "ä", "captions": ["one"]}
    assert list(got) == list(arrays)
    for name, array in arrays.items():
        assert got[name].dtype == array.dtype
        np.testing.assert_array_equal(got[name], array)


def test_what_the_pipeline_would_compute(tiny_checkpoint, tmp_path, capsys):
    """Latents are the posterior's mode, upsampled ones those that refinement starts from, texts as long as tokens."""
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (6, 8, 8, 3), np.uint8).repeat(8, 1).repeat(8, 2)
    with VideoWriter(tmp_path / "a.mp4", fps=8, height=64, width=64) as video:
        video.write(noise)
    manifest = write_manifest(tmp_path, [{"id": "a", "path": "a.mp4", "captions": ["a cat", "it surfs a wave"]}])
    flags = ("--sizes", "5,32,32", "--fps", "8", "--refine", "16,16,4", "--images-from-clips", "2")
    flags += ("--text-dtype", "float32", "--negative-prompt", "dull", "--max-sequence-length", "32")
    run(manifest, tiny_checkpoint, tmp_path / "out", *flags)
    assert "1x32x32: 2, 5x32x32: 1; of 1 clips 0 quarantined, 0 too short" in capsys.readouterr().out

    pipeline = load_pipeline(tiny_checkpoint)
    frames = read_frames(Entry(id="a", path=tmp_path / "a.mp4"), (5, 32, 32), 8.0)

    def latents(video_THWC):
        return np.asarray(encode_frames(pipeline.vae, pipeline.params("vae"), video_THWC[None], None, "encode"))[0]

    stored = {size: [unpack_record(record) for record in every] for size, every in records(tmp_path / "out").items()}
    ((clip, facts),) = stored[5, 32, 32]
    assert facts == {"id": "a", "captions": ["a cat", "it surfs a wave"]}
    np.testing.assert_allclose(clip["latents_THWC"], latents(jnp.asarray(frames, jnp.float32) / 255), atol=1e-5)
    small = parse_refinement("16,16,4").degrade(frames, 8.0, "a")
    large = upsample_clip(jnp.asarray(small, jnp.float32) / 255, 5, 32, 32)
    np.testing.assert_allclose(clip["upsampled_THWC"], latents(large), atol=1e-5)
    text, mask = pipeline.encode_text(["a cat", "it surfs a wave"], 32)
    for row in range(2):
        length = int(mask[row].sum())
        np.testing.assert_allclose(clip[f"text_{row}_LD"], np.asarray(text)[row, :length], atol=1e-5)
    for place, (image, facts) in zip((0, 2), stored[1, 32, 32], strict=True):
        assert facts["id"] == f"a#image{place // 2}"
        want = latents(jnp.asarray(frames[place : place + 1], jnp.float32) / 255)
        np.testing.assert_allclose(image["latents_THWC"], want, atol=1e-5)

    folder = EncodedFolder(tmp_path / "out")
    assert [bucket.tasks for bucket in folder.buckets] == [("t2i",), ("t2v", "i2v", "vc", "refine")]
    assert folder.index["checkpoint"] == pipeline.provenance
    assert folder.longest_text == int(mask.sum(1).max())
    for caption in ("", "dull"):
        text, mask = pipeline.encode_text([caption], 32)
        np.testing.assert_allclose(folder.caption(caption), np.asarray(text)[0, : int(mask.sum())], atol=1e-5)
    run(manifest, tiny_checkpoint, tmp_path / "out", *flags)  # done already: nothing is encoded again

    # Refined from what only went through the autoencoder.
    run(manifest, tiny_checkpoint, tmp_path / "clean", *flags, "--refine-from", "autoencoded")
    ((clip, _),) = [unpack_record(record) for record in records(tmp_path / "clean")[5, 32, 32]]
    small = resize_and_crop(frames[::2], 16, 16)
    whole = np.concatenate([small, small[-1:], small[-1:]])  # its three frames and what fills a latent frame
    known = latents(jnp.asarray(whole, jnp.float32) / 255)[None]
    back = to_uint8(np.asarray(decode_latents(pipeline.vae, pipeline.params("vae"), known, "decode"))[0])[:3]
    large = upsample_clip(jnp.asarray(back, jnp.float32) / 255, 5, 32, 32)
    np.testing.assert_allclose(clip["upsampled_THWC"], latents(large), atol=1e-5)
    with pytest.raises(SystemExit):
        run(manifest, tiny_checkpoint, tmp_path / "out", *flags, "--refine-from", "autoencoded")


@pytest.fixture
def clips(tmp_path):
    """Eleven clips, an image, and some that are of no use."""
    rows = write_clips(tmp_path, [6] * 5 + [1] + [5] * 6 + [3])
    (tmp_path / "bad.mp4").write_bytes(b"bad")
    rows.insert(3, {"id": "bad", "path": "bad.mp4", "caption": "bad"})
    return write_manifest(tmp_path, rows)


@pytest.mark.usefixtures("stub_networks")
def test_clips_of_no_use_are_left_out_with_their_reasons(clips, tmp_path, capsys):
    run(clips, "none", tmp_path / "out", *COMMON)
    told = capsys.readouterr().out
    assert "1 clips quarantined, such as bad: " in told
    assert "bad.mp4: cannot be read as a video" in told
    assert "1 clips too short for every bucket" in told
    left_out = json.loads((tmp_path / "out" / "quarantine-0.json").read_text())
    assert left_out["too_short"] == {"c12": 3}
    assert list(left_out["corrupt"]) == ["bad"]
    assert ids(tmp_path / "out") == {
        (1, 16, 16): ["c5"],
        (5, 16, 16): [f"c{number}" for number in (0, 1, 2, 3, 4, 6, 7, 8, 9, 10, 11)],
    }
    for record in records(tmp_path / "out")[5, 16, 16]:
        arrays, facts = unpack_record(record)
        assert facts["id"] == f"c{number_of(arrays['latents_THWC'])}"
    index = json.loads((tmp_path / "out" / "index.json").read_text())
    assert (index["clips"], index["corrupt"], index["too_short"]) == (14, 1, 1)
    run(clips, "none", tmp_path / "out", *COMMON)
    assert capsys.readouterr().out == told


class Killed(BaseException):
    pass


@pytest.mark.usefixtures("stub_networks")
@pytest.mark.slow
def test_whatever_moment_a_run_dies_at_it_goes_on(tmp_path, monkeypatch):
    """Killed at every renaming in turn, before it and after it, and once more while going on."""
    rows = write_clips(tmp_path, [5, 1, 5, 3, 5])
    clips = write_manifest(tmp_path, [*rows, {"path": "none.mp4", "caption": "none"}])
    flags = (*COMMON, "--records-per-shard", "2", "--images-from-clips", "1")
    run(clips, "none", tmp_path / "whole", *flags)
    whole, index = records(tmp_path / "whole"), (tmp_path / "whole" / "index.json").read_text()
    replace, moment, survived = os.replace, 0, False
    while not survived:
        out = tmp_path / f"killed{moment}"
        for later in (moment, 2):
            calls = iter(range(1000))

            def dying(source, target, at=later, calls=calls):
                number = next(calls)
                if number == at // 2:
                    if at % 2:
                        replace(source, target)
                    raise Killed
                replace(source, target)

            monkeypatch.setattr(encoded.os, "replace", dying)
            try:
                run(clips, "none", out, *flags)
                survived = survived or later == moment
            except Killed:
                pass
        monkeypatch.setattr(encoded.os, "replace", replace)
        run(clips, "none", out, *flags)
        assert records(out) == whole, f"moment {moment}"
        assert (out / "index.json").read_text() == index
        assert not list(out.glob("shards/.*")), "half a shard is left"
        moment += 1
    assert moment >= 2 * 16  # 4 shards, two files that come with each, 4 files of the folder


@pytest.mark.usefixtures("stub_networks")
def test_a_disk_that_fills_up(clips, tmp_path, capsys):
    """Files must not grow beyond what is left; with room again the run goes on."""
    out, limits = tmp_path / "out", resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1500, limits[1]))
        with pytest.raises(SystemExit):
            run(clips, "none", out, *COMMON, "--preview", "0")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "0000-5x16x16-00000.array_record: file too large: the disk mounted at " in capsys.readouterr().err
    assert not list(out.rglob("*.partial"))
    run(clips, "none", out, *COMMON)
    assert sum(map(len, ids(out).values())) == 12


STUCK = """
import sys, time
sys.path[:0] = [{tests!r}, {root!r}]
from small_clips import StubNetworks
from lcv_jax import encode
class Stuck(StubNetworks):
    num_clips = 0
    def latents(self, video_THWC):
        Stuck.num_clips += 1
        if Stuck.num_clips > 6:  # three shards of two
            time.sleep(3600)
        return super().latents(video_THWC)
encode.Networks = Stuck
encode.main(sys.argv[1:])
"""


@pytest.mark.usefixtures("stub_networks")
def test_killed_outright(clips, tmp_path):
    flags = (*COMMON, "--records-per-shard", "2")
    run(clips, "none", tmp_path / "whole", *flags)
    out = tmp_path / "out"
    code = STUCK.format(tests=str(Path(__file__).parent), root=str(Path(__file__).parents[2]))
    process = subprocess.Popen([sys.executable, "-c", code, str(clips), "none", str(out), *flags])
    while len(list(out.glob("shards/*.json"))) < 2 and process.poll() is None:
        time.sleep(0.02)
    with pytest.raises(SystemExit):  # while it lives, nobody else goes on
        run(clips, "none", out, *flags)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (out / "index.json").exists()
    done = len(list(out.glob("shards/*.json")))
    assert 2 <= done < 6
    run(clips, "none", out, *flags)
    assert records(out) == records(tmp_path / "whole")


@pytest.mark.usefixtures("stub_networks")
def test_parts(clips, tmp_path, capsys):
    out = tmp_path / "out"
    run(clips, "none", out, *COMMON, "--shard", "1/2")
    assert "1 of 2 parts are not done yet" in capsys.readouterr().out
    assert not (out / "index.json").exists()
    run(clips, "none", out, *COMMON, "--shard", "0/2")
    run(clips, "none", tmp_path / "whole", *COMMON)
    parts, whole = ids(out), ids(tmp_path / "whole")
    assert parts != whole
    assert {size: sorted(every) for size, every in parts.items()} == {size: sorted(e) for size, e in whole.items()}


@pytest.mark.usefixtures("stub_networks")
def test_a_folder_that_was_begun_otherwise(clips, tmp_path, capsys):
    run(clips, "none", tmp_path / "out", *COMMON)
    capsys.readouterr()
    with pytest.raises(SystemExit) as caught:
        run(clips, "none", tmp_path / "out", "--sizes", "9,16,16", "--fps", "4")
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert "begun otherwise: buckets was [[[5, 16, 16]]], is [[[9, 16, 16]]]; fps was 8.0, is 4.0" in error


@pytest.mark.usefixtures("stub_networks")
def test_a_changed_manifest_or_file_is_named(clips, tmp_path, capsys):
    """Content decides: a file that is touched, or a manifest written anew with the same rows, is the same."""
    out, text, file = tmp_path / "out", clips.read_text(), clips.parent / "1.mp4"
    run(clips, "none", out, *COMMON)
    file.touch()
    clips.write_text(text.replace(", ", ",  "))
    run(clips, "none", out, *COMMON)
    capsys.readouterr()

    def refused():
        with pytest.raises(SystemExit):
            run(clips, "none", out, *COMMON)
        return capsys.readouterr().err

    clips.write_text(text.replace('"word end"', '"other end"'))
    assert 'captions of c1 was ["word end"], is ["other end"]' in refused()
    clips.write_text("".join(text.splitlines(keepends=True)[1:]))
    assert "c0 is missing" in refused()
    clips.write_text(text)
    stat, content = file.stat(), file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert f"1 files have other content than when they were encoded, such as {file}" in refused()


@pytest.mark.usefixtures("stub_networks")
def test_clips_that_are_all_of_no_use(tmp_path, capsys, monkeypatch):
    monkeypatch.delattr(encode.Networks, "text")  # the text encoder does not load to find that out
    rows = write_clips(tmp_path, [4, 3])
    for flags, message in (
        (
            COMMON,
            "the longest, c0, has 4 frames at 8 frames a second (0.50 s), the shortest bucket is 5x16x16 and needs 5",
        ),
        (("--sizes", "9,16,16", "--fps", "16"), "the longest, c0, has 8 frames at 16"),
    ):
        with pytest.raises(SystemExit):
            run(write_manifest(tmp_path, rows), "none", tmp_path / flags[1], *flags)
        told = capsys.readouterr().err
        assert message in told
        assert told.count("too short") == 1
    with pytest.raises(SystemExit):
        run(write_manifest(tmp_path, [{"path": "x.mp4", "caption": "x"}]), "none", tmp_path / "none", *COMMON)
    assert "no clip can be read: 1 are quarantined, such as x.mp4: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ((), "give --sizes FRAMES,HEIGHT,WIDTH ... or --resolutions"),
        (("--sizes", "17,64"), "sizes are FRAMES,HEIGHT,WIDTH such as 93,480,832; got '17,64'"),
        (("--sizes", "16,64,64"), "multiple of 4 plus 1 frames, got 16; nearest is 17"),
        (("--resolutions", "360p"), "resolutions must be of 480p, 720p; got '360p'"),
        ((*COMMON, "--shard", "2/2"), "shard: parts are numbered from 0"),
        ((*COMMON, "--shard", "2"), "shard is PART/PARTS such as 0/8, got '2'"),
        ((*COMMON, "--refine", "8,8"), "refine must be HEIGHT,WIDTH,FPS"),
        ((*COMMON, "--refine-from", "autoencoded"), "give --refine too"),
        ((*COMMON, "--refine", "8,8,3"), "clips of 5 frames at 8 a second cannot be had from 3 a second"),
        ((*COMMON, "--readers", "0"), "readers must lie in 1"),
        ((*COMMON, "--fps", "0"), "fps must be above 0"),
    ],
)
@pytest.mark.usefixtures("stub_networks")
def test_mistakes(clips, tmp_path, capsys, flags, message):
    with pytest.raises(SystemExit) as caught:
        run(clips, "none", tmp_path / "out", *flags)
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert not (tmp_path / "out").exists()


def test_mistakes_of_other_folders(clips, tmp_path, tiny_checkpoint, capsys):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("all of it")
    for arguments, message in (
        ((clips, tmp_path / "nowhere", tmp_path / "out", *COMMON), "nowhere is no folder; wanted one written by"),
        ((tmp_path / "x.jsonl", tiny_checkpoint, tmp_path / "out", *COMMON), "x.jsonl: no such manifest"),
        ((clips, tiny_checkpoint, tmp_path / "mine", *COMMON), "mine holds other things: give another folder"),
        ((clips, tiny_checkpoint, tmp_path / "out", "--sizes", "5,20,16"), "must be multiples of 8, got 5x20x16"),
        (
            (clips, tiny_checkpoint, tmp_path / "out", *COMMON, "--refine", "8,12,8", "--refine-from", "autoencoded"),
            "must be multiples of 8 where the small version goes through the autoencoder, got 8x12",
        ),
    ):
        with pytest.raises(SystemExit) as caught:
            run(*arguments)
        assert caught.value.code == 2
        assert message in capsys.readouterr().err
