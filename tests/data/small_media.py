"""Small videos with chosen times, tags and containers, whose frames tell their number by their brightness."""

from fractions import Fraction

import numpy as np

LEVELS = 6


def numbered(count, height=32, width=48):
    """Frame k is a flat gray of 10 + 6 k."""
    levels = (10 + LEVELS * np.arange(count)).astype(np.uint8)
    return np.ascontiguousarray(np.broadcast_to(levels[:, None, None, None], (count, height, width, 3)))


def numbers(frames_THWC):
    """The numbers of frames that were read."""
    return ((np.asarray(frames_THWC).mean(axis=(1, 2, 3)) - 10) / LEVELS).round().astype(int).tolist()


def write_video(path, frames_THWC, *, fps=25, codec="libx264", options=None, pix_fmt="yuv420p", times=None, sound=0.0):
    """A video file.

    Args:
        path: its suffix chooses the container.
        frames_THWC: RGB or RGBA.
        fps: its rate, and the clock of `times`.
        codec: an encoder.
        options: of the encoder.
        pix_fmt: what is encoded.
        times: when each frame is shown; at least its number: decoding times are the numbers.
        sound: seconds of silence beside the picture.
    """
    import av

    with av.open(str(path), "w") as file:
        _, height, width, channels = frames_THWC.shape
        default = {"crf": "5"} if codec == "libx264" else {}
        stream = file.add_stream(codec, rate=fps, options=default if options is None else options)
        stream.width, stream.height, stream.pix_fmt = width, height, pix_fmt
        audio = file.add_stream("libopus" if str(path).endswith("webm") else "aac", rate=48000) if sound else None
        if audio:
            audio.layout = "mono"
        times = range(len(frames_THWC)) if times is None else times
        for number, image in enumerate(frames_THWC):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24" if channels == 3 else "rgba")
            frame.pts, frame.time_base = number, 1 / Fraction(fps)
            _mux(file, stream.encode(frame), times, fps)
        _mux(file, stream.encode(None), times, fps)
        if audio:
            _write_silence(av, file, audio, sound)
    return path


def _mux(file, packets, times, fps):
    for packet in packets:
        number = round(packet.pts * packet.time_base * fps)
        if times[number] != number:
            packet.pts = round(times[number] / Fraction(fps) / packet.time_base)
        file.mux(packet)


def _write_silence(av, file, audio, seconds):
    step = audio.codec_context.frame_size or 960
    kind = audio.codec_context.format.name
    for at in range(0, int(seconds * 48000) - step, step):
        silence = np.zeros((1, step), np.float32 if kind.startswith("flt") else np.int16)
        frame = av.AudioFrame.from_ndarray(silence, format=kind, layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = 48000, at, Fraction(1, 48000)
        file.mux(audio.encode(frame))
    file.mux(audio.encode(None))
