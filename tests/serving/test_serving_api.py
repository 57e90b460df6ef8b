"""The Videos API of a server in a process of its own: tasks, jobs, content, the real SDK, curl, events."""

import base64
import dataclasses
import importlib.util
import io
import json
import re
import shutil
import subprocess
import urllib.request
import warnings
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from lcv_jax.client import Client, ServerError
from lcv_jax.data.media_reader import read_video
from lcv_jax.data.media_writer import VideoWriter
from lcv_jax.generation.memory import Holding, Work, needed_bytes
from lcv_jax.pipeline import load_pipeline
from lcv_jax.serving.app import Handlers
from lcv_jax.serving.limits import Limits
from lcv_jax.serving.openapi import document
from tests.serving.served_model import LONG, picture

ROOT = Path(__file__).parents[2]


def frames_of(server, video, tmp_path):
    _, (content, headers) = server.ask(f"/v1/videos/{video['id']}/content")
    assert headers["content-type"] == "video/mp4"
    assert int(headers["content-length"]) == len(content)
    (tmp_path / "got.mp4").write_bytes(content)
    return read_video(tmp_path / "got.mp4")


def test_text_to_video_is_what_the_pipeline_makes(server, tmp_path, tiny_checkpoint):
    video = server.create(prompt="a cat", seed=7, num_inference_steps=2)
    assert (video["object"], video["seconds"], video["size"], video["seed"]) == ("video", "0.625", "48x32", 7)
    done = server.wait(video)
    assert (done["status"], done["progress"], done["error"]) == ("completed", 100, None)
    assert done["expires_at"] > done["completed_at"] >= done["created_at"]
    clip, fps = frames_of(server, video, tmp_path)
    assert (clip.shape, fps) == ((5, 32, 48, 3), 8)
    own = load_pipeline(tiny_checkpoint).text_to_video(
        "a cat", height=32, width=48, num_frames=5, num_steps=2, max_sequence_length=16, seed=7
    )[0]
    with VideoWriter(tmp_path / "own.mp4", fps=8, height=32, width=48) as file:
        file.write(own)
    assert np.abs(clip.astype(int) - read_video(tmp_path / "own.mp4")[0]).mean() < 1
    for variant, kind, form in (("thumbnail", "image/webp", "WEBP"), ("spritesheet", "image/jpeg", "JPEG")):
        _, (content, headers) = server.ask(f"/v1/videos/{video['id']}/content?variant={variant}")
        assert headers["content-type"] == kind
        assert Image.open(io.BytesIO(content)).format == form
    _, (content, _) = server.ask(f"/v1/videos/{video['id']}/content?variant=sidecar", raw=True)
    assert json.loads(content)["task"]["seed"] == 7
    assert str(tiny_checkpoint).encode() not in content
    ranged = urllib.request.Request(f"{server.address}/v1/videos/{video['id']}/content", headers={"Range": "bytes=4-7"})
    with urllib.request.urlopen(ranged) as reply:
        assert (reply.status, reply.read()) == (206, b"ftyp")


def test_an_image_by_form_and_by_data_url_give_the_same(server, tmp_path):
    image = picture()
    fields = [("prompt", "it waves"), ("seed", "3"), ("num_frames", "5"), ("fps", "8"), ("guidance_scale", "1")]
    status, one = server.form("/v1/videos", fields, [("input_reference", "../../etc/x.png", image, "image/png")])
    assert (status, one["task"]) == (200, "image-to-video")
    url = f"data:image/png;base64,{base64.b64encode(image).decode()}"
    other = server.create(prompt="it waves", seed=3, guidance_scale=1, input_reference={"image_url": url})
    clips = [frames_of(server, server.wait(video), tmp_path)[0] for video in (one, other)]
    np.testing.assert_array_equal(*clips)
    shown = np.asarray(Image.open(io.BytesIO(image)))
    assert np.abs(clips[0][0].astype(int) - shown).mean() < np.abs(clips[0][0].astype(int) - shown[::-1]).mean()


@pytest.mark.slow
def test_a_clip_is_continued_and_refined_and_remixed(server, tmp_path):
    first = server.wait(server.create(prompt="a cat", seed=1))
    further = server.create(prompt="it dives", video={"id": first["id"]}, num_cond_frames=5, num_frames=9, seed=2)
    assert further["task"] == "continue-video"
    refined = server.create(task="refine", video={"id": first["id"]}, num_inference_steps=2, t_thresh=0.9)
    remix = server.ask(f"/v1/videos/{further['id']}/remix", {"prompt": "it sleeps"})[1]
    assert (remix["remixed_from_video_id"], remix["seed"], remix["prompt"]) == (further["id"], 2, "it sleeps")
    assert server.wait(further)["num_frames"] == 9
    assert len(frames_of(server, further, tmp_path)[0]) == 9
    done = server.wait(refined)
    assert (done["status"], done["size"], done["num_frames"], done["fps"]) == ("completed", "64x64", 10, 16)
    assert server.wait(remix)["status"] == "completed"


def test_an_interactive_video_is_watched_segment_by_segment(server, tmp_path):
    video = server.create(prompts=["a cat", "a dog", "a cow"], num_cond_frames=1, enhance_hf=False)
    assert video["task"] == "interactive-video"
    seen, steps = [], []
    with urllib.request.urlopen(f"{server.address}/v1/videos/{video['id']}/events", timeout=60) as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        for line in stream:
            if line.startswith(b"data: "):
                now = json.loads(line[6:])
                steps.append((now["segment"], now["step"]))
                if now["status"] == "in_progress" and now["segments"] and not seen:
                    seen = now["segments"]
                    part = server.ask(seen[0])[1][0]
    assert now["status"] == "completed"
    told = list(dict.fromkeys(step for step in steps if step[1]))
    assert told == sorted(told)
    assert (3, 2) in told
    assert {step for _, step in told} <= {1, 2}
    with av.open(io.BytesIO(part)) as file:
        assert sum(1 for _ in file.decode(video=0)) == 5
    assert (len(now["segments"]), now["num_frames"]) == (3, 13)
    assert len(frames_of(server, video, tmp_path)[0]) == 13


def test_sync_answers_with_the_video(server):
    body = {"prompt": "a cat", "seed": 1, "extra_body": {"num_inference_steps": 2}}
    status, (content, headers) = server.ask("/v1/videos/sync", body)
    assert (status, headers["content-type"], content[4:8]) == (200, "video/mp4", b"ftyp")
    assert server.ask(f"/v1/videos/{headers['x-video-id']}")[1]["status"] == "completed"


def test_lists_page_and_a_deleted_video_is_gone(server):
    made = [server.create(prompt=f"number {i}", seed=i)["id"] for i in range(3)]
    _, one = server.ask("/v1/videos?limit=2")
    assert [video["id"] for video in one["data"]] == made[:0:-1]
    assert (one["has_more"], one["first_id"], one["last_id"]) == (True, made[2], made[1])
    _, more = server.ask(f"/v1/videos?limit=1&after={one['last_id']}")
    assert more["data"][0]["id"] == made[0]
    whole = server.ask("/v1/videos?limit=100&order=asc")[1]
    assert whole["has_more"] is False
    assert [video["id"] for video in whole["data"]][-3:] == made
    for video_id in made:
        assert server.ask(f"/v1/videos/{video_id}", method="DELETE")[1] == {
            "id": video_id, "object": "video.deleted", "deleted": True,
        }  # fmt: skip
        assert server.ask(f"/v1/videos/{video_id}")[0] == 404


def test_a_running_job_is_cancelled_within_a_step_and_a_waiting_one_at_once(server):
    running = server.create(**LONG)
    waiting = server.create(prompt="a dog")
    assert waiting["queue_position"] >= 1
    server.wait_until(lambda: (server.ask(f"/v1/videos/{running['id']}")[1]["step"] or 0) >= 2)
    told = [server.ask(f"/v1/videos/{video['id']}/cancel", b"", "POST")[1] for video in (waiting, running)]
    assert [(video["status"], video["error"]["code"]) for video in told] == [("failed", "cancelled")] * 2
    after = server.create(prompt="a cow", seed=1)
    assert server.wait(after, seconds=10)["status"] == "completed"
    assert server.ask(f"/v1/videos/{running['id']}/content")[0] == 409


def test_a_request_that_is_repeated_makes_one_job(server):
    key = {"Idempotency-Key": "abc"}
    one, other = (server.ask("/v1/videos", {"prompt": "a cat"}, headers=key)[1]["id"] for _ in range(2))
    assert one == other


def test_the_sdk(server):
    openai = pytest.importorskip("openai", reason="the SDK is in the dev extra")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # every call says that its own service has ended
        with openai.OpenAI(base_url=f"{server.address}/v1", api_key="unused") as client:
            video = client.videos.create_and_poll(
                prompt="a cat", size="48x32", input_reference=("a.png", picture(), "image/png"),
                extra_body={"seed": 4, "num_frames": 5, "num_inference_steps": 2, "adapters": {"cfg_step_lora": 0.5}},
            )  # fmt: skip
            assert (video.status, video.progress) == ("completed", 100)
            assert client.videos.download_content(video.id).read()[4:8] == b"ftyp"
            remix = client.videos.remix(video.id, prompt="a dog")
            assert remix.remixed_from_video_id == video.id
            assert remix.id in [one.id for one in client.videos.list(limit=2)]
            assert client.videos.delete(remix.id).deleted
            with pytest.raises(openai.NotFoundError):
                client.videos.retrieve(remix.id)
            with pytest.raises(openai.BadRequestError, match="nearest is 32 x 48"):
                client.videos.create(prompt="a cat", size="50x32")
            assert [model.id for model in client.models.list()] == ["longcat-video"]


def test_our_client(server, tmp_path):
    client, seen = Client(server.address), []
    (tmp_path / "cat.png").write_bytes(picture())
    video = client.make(
        tmp_path / "cat.mp4", prompt="it waves", image=tmp_path / "cat.png", on_change=seen.append, seed=3
    )
    assert (video["status"], video["task"]) == ("completed", "image-to-video")
    assert len(read_video(tmp_path / "cat.mp4")[0]) == 5
    assert {one["status"] for one in seen} >= {"in_progress", "completed"}
    assert [one["step"] for one in seen if one["step"]][-1] == 2

    def stop(video):
        if (video["step"] or 0) >= 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        client.make(tmp_path / "no.mp4", **LONG, on_change=stop)
    (cancelled, *_) = client.list()
    assert cancelled["error"]["code"] == "cancelled"
    assert not (tmp_path / "no.mp4").exists()
    client.delete(cancelled["id"])
    with pytest.raises(ServerError, match="not found"):
        client.retrieve(cancelled["id"])
    with pytest.raises(ServerError, match="did you mean 'seed'") as refused:
        client.create(prompt="a cat", sed=1)
    assert (refused.value.status, refused.value.param) == (400, "sed")


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_curl(server, tmp_path):
    (tmp_path / "cat.png").write_bytes(picture())
    command = ["curl", "-sS", f"{server.address}/v1/videos/sync", "-F", "prompt=a cat", "-F", "num_inference_steps=2"]
    command += ["-F", f"input_reference=@{tmp_path}/cat.png", "-o", f"{tmp_path}/cat.mp4"]
    subprocess.run(command, check=True)
    assert len(read_video(tmp_path / "cat.mp4")[0]) == 5


def test_what_the_server_says_of_itself(server, tiny_checkpoint):
    server.wait_until(lambda: server.ask("/health")[1]["status"] == "ok")
    _, (metrics, _) = server.ask("/metrics")
    assert b'lcv_jobs_total{end="completed",task="text-to-video"}' in metrics
    _, document = server.ask("/openapi.json")
    assert document["components"]["schemas"]["VideoRequest"]["properties"]["guidance_scale"]["minimum"] == 1
    assert document["paths"].keys() >= {"/v1/videos", "/v1/videos/{id}/remix"}
    _, models = server.ask("/v1/models")
    assert models["data"][0]["sizes"][0] == "48x32"
    device = models["data"][0]["device"]
    work, holding = Work(height=32, width=48, frames=5, samples=2), Holding(keep_text_encoder="device")
    needed = needed_bytes(load_pipeline(tiny_checkpoint), work, holding)
    assert device["memory"] == {**dataclasses.asdict(holding), "gigabytes": round(needed / 1e9, 3)}
    assert device["num_devices"] >= 1


def test_the_openapi_document_has_every_route_and_its_references_lead_somewhere():
    said = document(Limits())
    served = {
        (route.path, method.lower())
        for route in Handlers.routes(object.__new__(Handlers))
        for method in getattr(route, "methods", {"GET"}) - {"HEAD"}  # a WebSocket begins with a GET
        if route.path not in ("/", "/page/{name}", "/openapi.json", "/v1/models/{id}")
    }
    assert served == {(path, method) for path, methods in said["paths"].items() for method in methods}
    references = set(re.findall(r'"#/components/schemas/(\w+)"', json.dumps(said)))
    assert references <= said["components"]["schemas"].keys()


def test_the_page_about_serving_has_all_fields():
    spec = importlib.util.spec_from_file_location("docs_serving", ROOT / "docs" / "serving.py")
    page = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(page)
    text = page.PAGE.read_text()
    assert page.filled(text) == text, "run: python docs/serving.py"
    paths = document(Limits())["paths"].keys() - {"/v1/videos"}
    assert [path for path in paths if path.replace("{id}", "ID").replace("{name}", "NAME") not in text] == []
