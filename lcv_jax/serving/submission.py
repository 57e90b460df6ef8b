"""From an HTTP request to a job in the queue: body, fields, media, checks."""

import base64
import binascii
import contextlib
import re
import shutil
import threading
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData, UploadFile
from starlette.requests import Request

from lcv_jax.checkpoint.store import list_adapters
from lcv_jax.generation.tasks import Task, check_against
from lcv_jax.own_files import naming_full_disk
from lcv_jax.pipeline import Pipeline
from lcv_jax.sampling.options import check_stream
from lcv_jax.serving.decoding import Decoder, MediaKind, Wanted
from lcv_jax.serving.errors import ApiError, invalid, not_found
from lcv_jax.serving.fields import MEDIA, of_form, parse_fields
from lcv_jax.serving.jobs import CLIP, IMAGE, INPUTS, Job, JobStore, new_id
from lcv_jax.serving.limits import Defaults, Limits
from lcv_jax.serving.planning import make_task, plan_task
from lcv_jax.serving.worker import VIDEO
from lcv_jax.user_files import parse_json

_UPLOAD = "upload"
_NOT_OF_STREAMS = {"task", "seconds", "num_frames", "num_segments", "prompts", "refine"}
_MOST_FIELDS, _MOST_FIELD_BYTES = 200, 1 << 20
_MOST_DATA_URL = 20 << 20
"""Characters, as in the published API."""


class Submissions:
    """Makes jobs of requests.

    Args:
        store: where jobs go.
        pipeline: of the served checkpoint, for checks that need no weights.
    """

    def __init__(self, store: JobStore, pipeline: Pipeline, defaults: Defaults, limits: Limits, model: str):
        self.store, self.pipeline, self.defaults, self.limits, self.model = store, pipeline, defaults, limits, model
        self._checking = threading.Lock()

    async def create(self, request: Request, *, needs_clip: bool = False) -> Job:
        """The job of a request for a video.

        Raises:
            ApiError: it is refused.
        """
        owner, key = request.state.owner, _request_key(request)
        if job := self._earlier(owner, key):
            return job
        self.check_room(owner)
        async with _body(request) as raw:
            media = [(name, raw.pop(name)) for name in MEDIA if raw.get(name) is not None]
            raw = {name: value for name, value in raw.items() if name not in MEDIA}
            if len(media) > 1:
                raise invalid("give one of input_reference and video, not both", "video")
            if needs_clip and not media:
                raise invalid("video is missing: give the clip to go on from", "video")
            fields, job_id = parse_fields(raw), new_id()
            self._check_names(fields)
            with self._folder(job_id) as folder:
                if not media:
                    entry = self._plan(fields, None)
                else:
                    ((name, value),) = media
                    await self._save(name, value, folder / _UPLOAD, owner)
                    entry = await run_in_threadpool(self._decode, name, folder, fields)
                return await self._submit(job_id, owner, fields, entry, key)

    async def remix(self, request: Request, origin: Job) -> Job:
        """The same request with another prompt, and the same seed."""
        owner, key = request.state.owner, _request_key(request)
        if job := self._earlier(owner, key):
            return job
        self.check_room(owner)
        async with _body(request) as raw:
            changes, job_id = parse_fields(raw), new_id()
        self._check_names(changes)
        fields = {**origin.fields, "seed": origin.task["seed"], **changes}
        if "prompts" in changes:
            fields.pop("prompt", None)
        elif "prompt" in changes and fields.pop("prompts", None):
            fields["num_segments"] = len(origin.task["prompt"])
        fields = parse_fields(fields)
        with self._folder(job_id) as folder:
            name = next((name for name in INPUTS if (self.store.place(origin.id) / name).is_file()), None)
            if (
                name is None
                and {"image", "video"} & origin.task.keys()
                and (origin.task.get("image") or origin.task.get("video"))
            ):
                raise not_found(f"the image or clip of {origin.id}")
            if name is not None:
                with naming_full_disk(folder / name):
                    shutil.copyfile(self.store.place(origin.id) / name, folder / name)
            kind: MediaKind | None = None if name is None else "image" if name == IMAGE else "clip"
            return await self._submit(job_id, owner, fields, self._plan(fields, kind), key, origin.id)

    async def plan_stream(self, raw: Mapping[str, Any]) -> dict[str, Any]:
        """The task whose options a live stream has, of the fields of its start.

        Raises:
            ApiError: they make no sense for a stream, or are more than the server accepts.
        """
        fields = parse_fields(raw)
        for name in sorted(fields.keys() & _NOT_OF_STREAMS):
            raise invalid(f"{name} does not apply to a live stream: leave it out", name)
        self._check_names(fields)
        entry = self._plan(fields, None)
        task = make_task(entry, Path())
        await run_in_threadpool(self._check, task)
        try:
            check_stream(task.options)
        except ValueError as error:
            raise invalid(str(error)) from None
        return entry

    def check_prompt(self, prompt: Any) -> None:
        """Raises ApiError for a prompt that a request could not have."""
        self._plan(parse_fields({"prompt": prompt}), None)

    def check_room(self, owner: str) -> None:
        """Raises ApiError where no job can be added."""
        for count, most, whose in (
            (self.store.count("queued"), self.limits.max_queue, "the queue holds"),
            (self.store.count_open(owner), self.limits.max_jobs_per_key, "of this key there are"),
        ):
            if count >= most:
                raise ApiError(
                    429, f"{whose} {count} jobs, at most {most}: try again later", code="rate_limit_exceeded",
                    headers={"Retry-After": "10"},
                )  # fmt: skip

    def _earlier(self, owner: str, key: str | None) -> Job | None:
        return self.store.find_by_key(owner, key) if key else None

    def _check_names(self, fields: Mapping[str, Any]) -> None:
        """Names of the checkpoint are checked against lists: no name of a client's becomes a path."""
        if fields.get("model") not in (None, "", self.model):
            raise ApiError(404, f"model {fields['model'][:80]!r}: this server has {self.model!r}", param="model",
                           code="model_not_found")  # fmt: skip
        known = list_adapters(self.pipeline.folder)
        for name, _ in fields.get("adapters", ()):
            if name not in known:
                raise invalid(f"adapters: no {name[:80]!r} here; there are {', '.join(known) or 'none'}", "adapters")

    @contextlib.contextmanager
    def _folder(self, job_id: str) -> Iterator[Path]:
        """The folder of a new job, which goes where no job comes of it."""
        folder = self.store.place(job_id)
        try:
            with naming_full_disk(folder):
                folder.mkdir()
                yield folder
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise

    async def _save(self, name: str, value: Any, target: Path, owner: str) -> None:
        """Writes what a client gave as an image or a clip, under our own name."""
        if isinstance(value, str) and value.lstrip().startswith("{"):
            value = _parse(value, name)
        if isinstance(value, UploadFile):
            with target.open("wb") as file:
                await run_in_threadpool(shutil.copyfileobj, value.file, file)
            if not target.stat().st_size:
                raise invalid(f"{name} is an empty file", name)
        elif isinstance(value, dict) and isinstance(value.get("id"), str):
            job = self.store.find(value["id"])
            if job is None or job.owner != owner:
                raise not_found(f"{name}: video {value['id'][:80]!r}")
            if job.status != "completed":
                raise invalid(f"{name}: video {job.id} is {job.status}, it must be completed", name)
            await run_in_threadpool(shutil.copyfile, self.store.place(job.id) / VIDEO, target)
        elif isinstance(url := value.get("image_url") if isinstance(value, dict) else value, str):
            target.write_bytes(_of_data_url(name, url))
        else:
            raise invalid(f'{name} must be a file, {{"image_url": "data:..."}} or {{"id": "video_..."}}', name)

    async def _submit(
        self,
        job_id: str,
        owner: str,
        fields: dict[str, Any],
        entry: dict[str, Any],
        key: str | None,
        remixed_from: str | None = None,
    ) -> Job:
        told = await run_in_threadpool(self._check, make_task(entry, self.store.place(job_id)))
        self.check_room(owner)
        job = self.store.add(job_id, owner, fields, entry, warnings=told, remixed_from=remixed_from, request_key=key)
        if job.id != job_id:  # the same request came twice at once
            self.store.remove_files(job_id)
        return job

    def _plan(self, fields: Mapping[str, Any], kind: MediaKind | None) -> dict[str, Any]:
        return plan_task(fields, kind, self.defaults, self.limits)

    def _decode(self, name: str, folder: Path, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Decodes what was uploaded to what the task takes, and plans the task by what it is."""
        with Decoder(folder / _UPLOAD, self.limits) as decoder:
            with _naming(name):
                kind = decoder.kind()
            entry = self._plan(fields, kind)
            if entry["task"] == "refine":
                wanted = Wanted(most=self.limits.max_frames * self.limits.max_segments)
            else:
                wanted = Wanted(fps=entry["fps"], last=entry.get("num_cond_frames"))
            with _naming(name):
                decoder.write(folder / (IMAGE if kind == "image" else CLIP), wanted)
        (folder / _UPLOAD).unlink()
        return entry

    def _check(self, task: Task) -> list[str]:
        """What the task's own checks warn of.

        Raises:
            ApiError: they refuse it.
        """
        with self._checking, warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            try:
                task.check()
                check_against(task, self.pipeline)
            except ValueError as error:
                message = str(error)
                for path in (getattr(task, "image", None), getattr(task, "video", None)):
                    message = message.replace(f"{path}: ", "")
                raise ApiError(400, message.replace("num_steps", "num_inference_steps"), code="invalid_value") from None
        return [" ".join(str(warning.message).split()) for warning in told if warning.category is UserWarning]


@contextlib.contextmanager
def _naming(name: str) -> Iterator[None]:
    """Within, what is not accepted is a field's fault."""
    try:
        yield
    except ValueError as error:
        raise invalid(f"{name}: {error}", name) from None


def _request_key(request: Request) -> str | None:
    """What a client repeats where it repeats a request that may have arrived."""
    key = request.headers.get("idempotency-key")
    if key is not None and not 0 < len(key) <= 200:
        raise invalid("Idempotency-Key must have 1 to 200 characters")
    return key


@contextlib.asynccontextmanager
async def _body(request: Request) -> Any:
    """The fields of a body, JSON or a form; files of a form are open within."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind in ("multipart/form-data", "application/x-www-form-urlencoded"):
        form: FormData
        async with request.form(
            max_files=2, max_fields=_MOST_FIELDS, max_part_size=_MOST_DATA_URL + _MOST_FIELD_BYTES
        ) as form:
            yield of_form(form.multi_items())
    elif kind in ("application/json", ""):
        yield _parse(await request.body(), "the request")
    else:
        raise ApiError(415, f"Content-Type must be multipart/form-data or application/json, got {kind[:80]!r}",
                       code="invalid_value")  # fmt: skip


def _parse(text: str | bytes, name: str) -> dict[str, Any]:
    try:
        found: dict[str, Any] = parse_json(text.decode() if isinstance(text, bytes) else text, name)
    except UnicodeDecodeError:
        raise invalid(f"{name} is not UTF-8") from None
    except ValueError as error:
        raise invalid(str(error)) from None
    return found


def _of_data_url(name: str, url: str) -> bytes:
    match = (
        re.fullmatch(r"data:(?:image|video)/[\w.+-]{1,40};base64,(.*)", url, re.DOTALL) if url[:5] == "data:" else None
    )
    if match is None:
        raise invalid(f"{name}: addresses are not fetched; send a file, or a data: URL in base64", name)
    if len(url) > _MOST_DATA_URL:
        raise invalid(f"{name}: a data: URL of {len(url)} characters, at most {_MOST_DATA_URL}", name)
    try:
        return base64.b64decode(match[1], validate=True)
    except (binascii.Error, ValueError):
        raise invalid(f"{name}: its data: URL is no base64", name) from None
