"""Nodes that make videos on a server of lcv_jax (`lcv serve`). They compute nothing here and need no package.

The server's address is an input. Its key, where it needs one, is read from the variable LCV_API_KEY or the file
~/.config/lcv_jax/key, so that no workflow holds it.
"""

import asyncio
import io as bytes_io
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from comfy import model_management
from comfy_api.latest import ComfyAPI, ComfyExtension, InputImpl, io
from PIL import Image

from .client import Client, ServerError

POLL_SECONDS = 0.5
KEY_FILE = Path("~/.config/lcv_jax/key")


def read_key() -> str | None:
    """The server's key, if there is one."""
    if key := os.environ.get("LCV_API_KEY"):
        return key.strip()
    path = KEY_FILE.expanduser()
    return path.read_text(encoding="utf-8").strip() if path.is_file() else None


def png_of(image_BHWC: Any) -> bytes:
    """The first image of a batch, floats in 0..1, as a file."""
    levels = np.clip(image_BHWC[0].cpu().numpy() * 255 + 0.5, 0, 255).astype(np.uint8)
    file = bytes_io.BytesIO()
    Image.fromarray(levels[..., :3]).save(file, "png")
    return file.getvalue()


def bytes_of(video: Any) -> bytes:
    """A VIDEO as a file, cut as it is in the workflow."""
    file = bytes_io.BytesIO()
    video.save_to(file)
    return file.getvalue()


async def make(
    server: str, fields: dict[str, Any], *, image: bytes | None = None, clip: bytes | None = None
) -> io.NodeOutput:
    """Makes a video on the server; an interruption cancels it there.

    Raises:
        ServerError: the request is refused, or the video failed.
    """
    client = Client(server, read_key())
    with tempfile.TemporaryDirectory() as folder:
        given = {}
        for name, content in (("image", image), ("clip", clip)):
            if content is not None:
                given[name] = Path(folder) / name
                given[name].write_bytes(content)
        fields = {name: value for name, value in fields.items() if value not in (None, "", 0, False) or name == "seed"}
        video = await asyncio.to_thread(client.create, **given, **fields)
        try:
            while video["status"] in ("queued", "in_progress"):
                model_management.throw_exception_if_processing_interrupted()
                await ComfyAPI().execution.set_progress(value=video["progress"], max_value=100)
                await asyncio.sleep(POLL_SECONDS)
                video = await asyncio.to_thread(client.retrieve, video["id"])
        except BaseException:
            await asyncio.shield(asyncio.to_thread(client.cancel, video["id"]))
            raise
        if video["status"] == "failed":
            raise ServerError(video["error"]["message"], code=video["error"]["code"])
        output = Path(folder) / "video.mp4"
        await asyncio.to_thread(client.download, video["id"], output)
        found = InputImpl.VideoFromFile(bytes_io.BytesIO(output.read_bytes()))
    await ComfyAPI().execution.set_progress(value=100, max_value=100)
    return io.NodeOutput(found, found.get_components().images)


def schema(name: str, title: str, description: str, inputs: list[Any], *, sampled: bool = True) -> io.Schema:
    """A node's schema: its own inputs, then those of all nodes."""
    shared = [
        io.Int.Input("seed", default=0, min=0, max=2**32 - 1, control_after_generate=True),
        io.Int.Input("steps", default=0, min=0, max=1000, optional=True, tooltip="0: the server's default"),
    ]
    if sampled:
        shared += [
            io.Float.Input("guidance", default=0.0, min=0.0, max=100.0, step=0.1, optional=True,
                           tooltip="0: the server's default; 1: without guidance"),
            io.String.Input("negative_prompt", default="", multiline=True, optional=True),
            io.Int.Input("num_frames", default=0, min=0, max=1001, step=1, optional=True,
                         tooltip="A multiple of 4 plus 1; 0: the server's default"),
            io.Boolean.Input("distilled", default=False, optional=True, tooltip="Few steps without guidance"),
        ]  # fmt: skip
    shared.append(io.String.Input("size", default="", optional=True,
                                  tooltip="WIDTHxHEIGHT; empty: the server's default"))  # fmt: skip
    shared.append(io.String.Input("server", default="http://127.0.0.1:8000"))
    return io.Schema(
        node_id=f"LcvJax{name}",
        display_name=f"LongCat-Video: {title}",
        category="video/lcv_jax",
        description=description,
        inputs=[*inputs, *shared],
        outputs=[io.Video.Output(display_name="video"), io.Image.Output(display_name="frames")],
    )


def fields_of(
    seed: int,
    steps: int = 0,
    guidance: float = 0.0,
    negative_prompt: str = "",
    num_frames: int = 0,
    distilled: bool = False,
    size: str = "",
) -> dict[str, Any]:
    """The shared inputs as fields of a request."""
    return {
        "seed": seed, "num_inference_steps": steps, "guidance_scale": guidance, "negative_prompt": negative_prompt,
        "num_frames": num_frames, "distilled": distilled, "size": size,
    }  # fmt: skip


class TextToVideo(io.ComfyNode):
    """A video of a prompt."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """What the node shows."""
        inputs = [io.String.Input("prompt", multiline=True), _refine()]
        return schema("TextToVideo", "text to video", "Makes a video of a prompt.", inputs)

    @classmethod
    async def execute(cls, prompt: str, server: str, refine: bool = False, **shared: Any) -> io.NodeOutput:
        """Makes it."""
        return await make(server, {"prompt": prompt, "refine": refine, **fields_of(**shared)})


class ImageToVideo(io.ComfyNode):
    """A video that begins with an image."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """What the node shows."""
        inputs = [io.Image.Input("image"), io.String.Input("prompt", multiline=True), _refine()]
        return schema("ImageToVideo", "image to video", "Makes a video that begins with an image.", inputs)

    @classmethod
    async def execute(cls, image: Any, prompt: str, server: str, refine: bool = False, **shared: Any) -> io.NodeOutput:
        """Makes it."""
        fields = {"prompt": prompt, "refine": refine, **fields_of(**shared)}
        return await make(server, fields, image=png_of(image))


class ContinueVideo(io.ComfyNode):
    """A video that goes on from a clip."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """What the node shows."""
        inputs = [
            io.Video.Input("video"),
            io.String.Input("prompt", multiline=True),
            io.Int.Input("num_cond_frames", default=0, min=0, max=101, optional=True,
                         tooltip="Last frames to go on from, a multiple of 4 plus 1; 0: the server's default"),
        ]  # fmt: skip
        return schema("ContinueVideo", "continue", "Goes on from the last frames of a clip.", inputs)

    @classmethod
    async def execute(
        cls, video: Any, prompt: str, server: str, num_cond_frames: int = 0, **shared: Any
    ) -> io.NodeOutput:
        """Makes it."""
        fields = {"prompt": prompt, "num_cond_frames": num_cond_frames, **fields_of(**shared)}
        return await make(server, fields, clip=bytes_of(video))


class RefineVideo(io.ComfyNode):
    """A video, larger and smoother."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """What the node shows."""
        inputs = [
            io.Video.Input("video"),
            io.String.Input("prompt", default="", multiline=True, optional=True),
            io.Boolean.Input("spatial_only", default=False, optional=True, tooltip="Keep the frame rate"),
        ]
        return schema("RefineVideo", "refine", "720p and twice the frame rate.", inputs, sampled=False)

    @classmethod
    async def execute(
        cls, video: Any, server: str, prompt: str = "", spatial_only: bool = False, **shared: Any
    ) -> io.NodeOutput:
        """Makes it."""
        fields = {"task": "refine", "prompt": prompt, "spatial_only": spatial_only, **fields_of(**shared)}
        return await make(server, fields, clip=bytes_of(video))


class LongVideo(io.ComfyNode):
    """A long video, with a prompt a segment."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """What the node shows."""
        inputs = [
            io.String.Input("prompts", multiline=True, tooltip="One a line: what happens in each segment"),
            io.Image.Input("image", optional=True),
            _refine(),
        ]
        return schema("LongVideo", "long video", "One prompt a line, a segment each.", inputs)

    @classmethod
    async def execute(
        cls, prompts: str, server: str, image: Any = None, refine: bool = False, **shared: Any
    ) -> io.NodeOutput:
        """Makes it."""
        lines = [line.strip() for line in prompts.splitlines() if line.strip()]
        fields = {"prompts": lines, "refine": refine, **fields_of(**shared)}
        return await make(server, fields, image=None if image is None else png_of(image))


def _refine() -> Any:
    return io.Boolean.Input("refine", default=False, optional=True, tooltip="720p and twice the frame rate")


class LcvJaxExtension(ComfyExtension):
    """All nodes."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """The nodes."""
        return [TextToVideo, ImageToVideo, ContinueVideo, RefineVideo, LongVideo]


async def comfy_entrypoint() -> ComfyExtension:
    """What ComfyUI calls."""
    return LcvJaxExtension()
