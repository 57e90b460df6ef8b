"""The nodes of comfyui/ against a real server.

ComfyUI is no package of any registry, so its modules are stood in for here by no more than what the nodes use:
comfy_api.latest with the V3 schema, and comfy.model_management.
"""

import asyncio
import dataclasses
import importlib.util
import sys
import tomllib
import types
from pathlib import Path

import av
import numpy as np
import pytest

FOLDER = Path(__file__).parents[2] / "comfyui"


class Tensor:
    """What the nodes use of torch's."""

    def __init__(self, array):
        self.array, self.shape = array, array.shape

    def __getitem__(self, place):
        return Tensor(self.array[place])

    def cpu(self):
        return self

    def numpy(self):
        return self.array


class VideoFromFile:
    def __init__(self, file):
        self.file = file

    def get_components(self):
        self.file.seek(0)
        with av.open(self.file) as container:
            frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        return types.SimpleNamespace(images=Tensor(np.stack(frames).astype(np.float32) / 255))

    def save_to(self, path):
        path.write(self.file.getvalue())


class InterruptedByUserError(Exception):
    pass


@dataclasses.dataclass
class Schema:
    node_id: str
    display_name: str
    category: str
    description: str
    inputs: list
    outputs: list


def declared(kind):
    """io.Int and the like: their Input and Output remember what they are given."""

    def declare(id=None, **settings):
        return types.SimpleNamespace(kind=kind, id=id, **settings)

    return types.SimpleNamespace(Input=declare, Output=declare)


class Comfy:
    """ComfyUI's side: progress that was shown, and whether the workflow is interrupted."""

    def __init__(self):
        self.progress, self.interrupted = [], False

    def modules(self):
        comfy = self

        class Execution:
            async def set_progress(self, value, max_value):
                comfy.progress.append(value / max_value)

        def check():
            if comfy.interrupted:
                raise InterruptedByUserError

        kinds = {kind: declared(kind) for kind in ("String", "Int", "Float", "Boolean", "Image", "Video")}
        published_io = types.SimpleNamespace(
            **kinds, Schema=Schema, ComfyNode=object, NodeOutput=lambda *values: types.SimpleNamespace(result=values)
        )
        latest = types.ModuleType("comfy_api.latest")
        latest.io, latest.ComfyExtension = published_io, object
        latest.ComfyAPI = lambda: types.SimpleNamespace(execution=Execution())
        latest.InputImpl = types.SimpleNamespace(VideoFromFile=VideoFromFile)
        management = types.ModuleType("comfy.model_management")
        management.throw_exception_if_processing_interrupted = check
        package, api = types.ModuleType("comfy"), types.ModuleType("comfy_api")
        package.model_management = management
        return {"comfy": package, "comfy.model_management": management, "comfy_api": api, "comfy_api.latest": latest}


@pytest.fixture(scope="module")
def comfy():
    found = Comfy()
    with pytest.MonkeyPatch.context() as patch:
        for name, module in found.modules().items():
            patch.setitem(sys.modules, name, module)
        spec = importlib.util.spec_from_file_location(
            "lcv_nodes", FOLDER / "__init__.py", submodule_search_locations=[str(FOLDER)]
        )
        package = importlib.util.module_from_spec(spec)
        patch.setitem(sys.modules, "lcv_nodes", package)
        spec.loader.exec_module(package)
        nodes = asyncio.run(asyncio.run(package.comfy_entrypoint()).get_node_list())
        found.nodes = {node.__name__: node for node in nodes}
        yield found


def execute(comfy, server, name, **inputs):
    """Runs a node as ComfyUI does: inputs by their ids, those that are left out at their defaults."""
    schema = comfy.nodes[name].define_schema()
    known = {one.id: getattr(one, "default", None) for one in schema.inputs if not getattr(one, "optional", False)}
    assert inputs.keys() <= {one.id for one in schema.inputs}
    given = {**known, "server": server.address, **inputs}
    return asyncio.run(comfy.nodes[name].execute(**given)).result


def test_schemas(comfy):
    assert set(comfy.nodes) == {"TextToVideo", "ImageToVideo", "ContinueVideo", "RefineVideo", "LongVideo"}
    for node in comfy.nodes.values():
        schema = node.define_schema()
        assert [one.kind for one in schema.outputs] == ["Video", "Image"]
        assert schema.node_id.startswith("LcvJax")
        names = [one.id for one in schema.inputs]
        assert len(set(names)) == len(names)
        assert not {"key", "api_key"} & set(names)  # a workflow would keep it


@pytest.mark.slow
def test_every_node_makes_its_video(comfy, server):
    video, frames = execute(comfy, server, "TextToVideo", prompt="a cat", seed=7, steps=2)
    assert frames.shape == (5, 32, 48, 3)
    assert comfy.progress[-1] == 1
    image = Tensor(np.random.default_rng(0).random((1, 32, 48, 3), np.float32))
    _, frames = execute(
        comfy, server, "ImageToVideo", image=image, prompt="it waves", seed=1, size="48x32", guidance=1.0
    )
    assert frames.shape == (5, 32, 48, 3)
    _, frames = execute(comfy, server, "ContinueVideo", video=video, prompt="it dives", num_cond_frames=5, num_frames=9)
    assert frames.shape == (9, 32, 48, 3)
    _, frames = execute(comfy, server, "RefineVideo", video=video, steps=2, spatial_only=True, size="64x64")
    assert frames.shape == (5, 64, 64, 3)
    _, frames = execute(comfy, server, "LongVideo", prompts="a cat\n\na dog\n", steps=2)
    assert frames.shape == (9, 32, 48, 3)
    tasks = [one["task"] for one in server.ask("/v1/videos?limit=5")[1]["data"]]
    assert tasks == ["interactive-video", "refine", "continue-video", "image-to-video", "text-to-video"]


@pytest.mark.slow
def test_an_interruption_cancels_the_job(comfy, server, monkeypatch):
    monkeypatch.setattr(comfy, "progress", [])

    async def interrupt_soon():
        running = asyncio.create_task(
            comfy.nodes["TextToVideo"].execute("a cat", server.address, seed=0, steps=100, num_frames=21)
        )
        while not any(comfy.progress):
            await asyncio.sleep(0.05)
        comfy.interrupted = True
        await running

    with pytest.raises(InterruptedByUserError):
        asyncio.run(interrupt_soon())
    comfy.interrupted = False
    assert server.ask("/v1/videos?limit=1")[1]["data"][0]["error"]["code"] == "cancelled"


@pytest.mark.slow
def test_a_mistake_is_the_server_s_message(comfy, server):
    with pytest.raises(Exception, match="nearest is 32 x 48"):
        execute(comfy, server, "TextToVideo", prompt="a cat", size="50x32")


def test_the_package():
    package = tomllib.loads((FOLDER / "pyproject.toml").read_text())
    assert package["project"]["dependencies"] == []
    assert "ComfyUI" not in package["project"]["name"]
    assert (FOLDER / "client.py").resolve() == FOLDER.parent / "lcv_jax" / "client.py"
