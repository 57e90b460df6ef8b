"""The HTTP application: the Videos API with our additions, the page, health, metrics and the OpenAPI document.

POST   /v1/videos, /v1/videos/sync, /v1/videos/extensions     a job; its video; a job that goes on from a clip
GET    /v1/videos                                              jobs, newest first; ?after=ID&limit=20&order=desc
GET    /v1/videos/ID                                           a job
DELETE /v1/videos/ID                                           ends and deletes it
POST   /v1/videos/ID/remix, /v1/videos/ID/cancel               the same with another prompt; ends it
GET    /v1/videos/ID/content                                   ?variant=video|thumbnail|spritesheet|sidecar
GET    /v1/videos/ID/events                                    server-sent events: the job whenever it changes
GET    /v1/videos/ID/segments/NAME                             a finished segment
       /v1/live                                                a WebSocket: a live stream
"""

import asyncio
import contextlib
import json
import re
import sys
from collections.abc import AsyncIterator, Collection, Mapping
from pathlib import Path
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.types import ASGIApp
from starlette.websockets import WebSocket

from lcv_jax.own_files import DiskFullError, full_disk
from lcv_jax.serving.databases import DatabaseError
from lcv_jax.serving.decoding import warm_up
from lcv_jax.serving.errors import ApiError, invalid, not_found
from lcv_jax.serving.guard import Guard, error_response
from lcv_jax.serving.jobs import SIDECAR, Job, JobStore
from lcv_jax.serving.live import LiveEndpoint
from lcv_jax.serving.metrics import Metrics
from lcv_jax.serving.openapi import document
from lcv_jax.serving.scheduler import Scheduler
from lcv_jax.serving.submission import Submissions
from lcv_jax.serving.views import video_object
from lcv_jax.serving.worker import SPRITESHEET, THUMBNAIL, VIDEO

PAGE = Path(__file__).parent / "page"
_VARIANTS = {
    "video": (VIDEO, "video/mp4"),
    "thumbnail": (THUMBNAIL, "image/webp"),
    "spritesheet": (SPRITESHEET, "image/jpeg"),
    "sidecar": (SIDECAR, "application/json"),
}
_MOST_LISTED = 100
_EVENT_SECONDS = 15.0
"""Between two signs of life of an event stream."""
_STREAM_SECONDS = 3600.0
_POLL = {"openai-poll-after-ms": "500"}


class Handlers:
    """Requests, in the event loop; what takes long runs in threads or other processes."""

    def __init__(
        self,
        store: JobStore,
        scheduler: Scheduler,
        submissions: Submissions,
        metrics: Metrics,
        facts: Mapping[str, Any],
    ):
        self.store, self.scheduler, self.submissions, self.metrics = store, scheduler, submissions, metrics
        self.limits, self.model, self.facts = submissions.limits, submissions.model, facts
        self._streams = 0

    def routes(self) -> list[BaseRoute]:
        """All paths."""
        one = "/v1/videos/{id}"
        return [
            Route("/", self.page),
            Route("/page/{name}", self.page_file),
            Route("/health", self.health),
            Route("/metrics", self.show_metrics),
            Route("/openapi.json", self.openapi),
            Route("/v1/models", self.models),
            Route("/v1/models/{id}", self.models),
            Route("/v1/videos", self.list_videos),
            Route("/v1/videos", self.create, methods=["POST"]),
            Route("/v1/videos/sync", self.create_and_wait, methods=["POST"]),
            Route("/v1/videos/extensions", self.extend, methods=["POST"]),
            Route(one, self.retrieve),
            Route(one, self.delete, methods=["DELETE"]),
            Route(f"{one}/remix", self.remix, methods=["POST"]),
            Route(f"{one}/cancel", self.cancel, methods=["POST"]),
            Route(f"{one}/content", self.content),
            Route(f"{one}/events", self.events),
            Route(f"{one}/segments/{{name}}", self.segment),
            WebSocketRoute("/v1/live", self.live),
        ]

    def show(self, job: Job) -> dict[str, Any]:
        """A job as the API shows it."""
        keep = self.limits.keep_hours * 3600
        return video_object(job, self.store, self.scheduler.live(job), self.model, keep)

    def job_of(self, request: Request) -> Job:
        """The job of a path.

        Raises:
            ApiError: there is none, or it is another key's.
        """
        job_id = request.path_params["id"]
        job = self.store.find(job_id)
        if job is None or job.owner != request.state.owner:
            raise not_found(f"video {job_id[:80]!r}")
        return job

    async def create(self, request: Request) -> Response:
        job = await self.submissions.create(request)
        self.scheduler.submitted()
        return self._reply(job)

    async def extend(self, request: Request) -> Response:
        job = await self.submissions.create(request, needs_clip=True)
        self.scheduler.submitted()
        return self._reply(job)

    async def remix(self, request: Request) -> Response:
        job = await self.submissions.remix(request, self.job_of(request))
        self.scheduler.submitted()
        return self._reply(job)

    async def create_and_wait(self, request: Request) -> Response:
        job = await self.submissions.create(request)
        self.scheduler.submitted()
        try:
            while job.status in ("queued", "in_progress"):
                await self.scheduler.changes(1.0)
                if await request.is_disconnected():
                    raise asyncio.CancelledError
                job = self.store.find(job.id) or job
        except asyncio.CancelledError:  # Ray Serve cancels the request of a client that went away
            self.scheduler.stop(job, "cancelled", "the client went away")
            return Response(status_code=499)
        if job.status == "failed":
            status = {"disk_full": 507, "invalid_value": 400, "cancelled": 409, "time_limit": 408}
            raise ApiError(status.get(job.error_code or "", 500), job.error_message or "", code=job.error_code)
        return self._file(job, "video", {"X-Video-Id": job.id})

    async def retrieve(self, request: Request) -> Response:
        return self._reply(self.job_of(request))

    async def list_videos(self, request: Request) -> Response:
        query = request.query_params
        limit, order, after = query.get("limit", "20"), query.get("order", "desc"), query.get("after")
        if not re.fullmatch("[0-9]{1,3}", limit) or not 1 <= int(limit) <= _MOST_LISTED:
            raise invalid(f"limit must lie in 1..{_MOST_LISTED}, got {limit[:20]!r}", "limit")
        if order not in ("asc", "desc"):
            raise invalid(f"order must be asc or desc, got {order[:20]!r}", "order")
        start = self.store.find(after) if after else None
        if after and (start is None or start.owner != request.state.owner):
            raise not_found(f"after: video {after[:80]!r}")
        jobs, more = self.store.page(request.state.owner, after=start, limit=int(limit), newest_first=order == "desc")
        shown = [self.show(job) for job in jobs]
        first, last = (shown[0]["id"], shown[-1]["id"]) if shown else (None, None)
        return JSONResponse({"object": "list", "data": shown, "first_id": first, "last_id": last, "has_more": more})

    async def delete(self, request: Request) -> Response:
        job = self.job_of(request)
        self.scheduler.delete(job)
        return JSONResponse({"id": job.id, "object": "video.deleted", "deleted": True})

    async def cancel(self, request: Request) -> Response:
        job = self.job_of(request)
        self.scheduler.stop(job, "cancelled", "the job was cancelled")
        return self._reply(self.job_of(request))

    async def content(self, request: Request) -> Response:
        job, variant = self.job_of(request), request.query_params.get("variant", "video")
        if variant not in _VARIANTS:
            raise invalid(f"variant must be {', '.join(_VARIANTS)}, got {variant[:40]!r}", "variant")
        return self._file(job, variant)

    async def segment(self, request: Request) -> Response:
        job, name = self.job_of(request), request.path_params["name"]
        if name not in self.store.segments(job):
            raise not_found(f"segment {name[:80]!r}")
        return _file_response(self.store.place(job.id) / name, "video/mp4", f"{job.id}_{name}")

    async def events(self, request: Request) -> Response:
        job = self.job_of(request)
        if self._streams >= self.limits.max_event_streams:
            raise ApiError(429, "too many event streams are open: poll instead", code="rate_limit_exceeded",
                           headers={"Retry-After": "10"})  # fmt: skip
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return StreamingResponse(self._events(job.id), media_type="text/event-stream", headers=headers)

    async def _events(self, job_id: str) -> AsyncIterator[str]:
        self._streams += 1
        loop, last = asyncio.get_running_loop(), ""
        end = loop.time() + _STREAM_SECONDS
        try:
            while loop.time() < end:
                job = self.store.find(job_id)
                if job is None:
                    yield f"event: deleted\ndata: {json.dumps({'id': job_id})}\n\n"
                    return
                text = json.dumps(self.show(job))
                yield ": waiting\n\n" if text == last else f"event: video\ndata: {text}\n\n"
                if job.status in ("completed", "failed"):
                    return
                last = text
                await self._change_of(job_id, last)
        finally:
            self._streams -= 1

    async def _change_of(self, job_id: str, shown: str) -> None:
        """Returns when a job is to be shown differently, or it is time for a sign of life."""
        loop = asyncio.get_running_loop()
        end = loop.time() + _EVENT_SECONDS
        while (left := end - loop.time()) > 0:
            await self.scheduler.changes(left)
            job = self.store.find(job_id)
            if job is None or json.dumps(self.show(job)) != shown:
                return

    async def live(self, socket: WebSocket) -> None:
        await LiveEndpoint(self.scheduler, self.submissions).serve(socket)

    async def models(self, request: Request) -> Response:
        model = {"id": self.model, "object": "model", "created": 0, "owned_by": "lcv_jax", **self.facts}
        model["device"] = next((worker.facts for worker in self.scheduler.workers if worker.facts), None)
        if "id" not in request.path_params:
            return JSONResponse({"object": "list", "data": [model]})
        if request.path_params["id"] != self.model:
            raise not_found(f"model {request.path_params['id'][:80]!r}")
        return JSONResponse(model)

    async def health(self, request: Request) -> Response:
        ready = sum(worker.ready for worker in self.scheduler.workers)
        state = "unable" if self.scheduler.unable else "ok" if ready else "loading"
        told = {
            "status": state, "reason": self.scheduler.unable, "workers": len(self.scheduler.workers), "ready": ready,
            "queued": self.store.count("queued"), "running": self.store.count("in_progress"),
        }  # fmt: skip
        return JSONResponse(told, status_code=503 if self.scheduler.unable else 200)

    async def show_metrics(self, request: Request) -> Response:
        return Response(generate_latest(self.metrics.registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def openapi(self, request: Request) -> Response:
        return JSONResponse(document(self.limits))

    async def page(self, request: Request) -> Response:
        return FileResponse(PAGE / "index.html", headers={"Cache-Control": "no-cache"})

    async def page_file(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name not in {path.name for path in PAGE.iterdir()}:
            raise not_found(f"{name[:80]!r}")
        return FileResponse(PAGE / name, headers={"Cache-Control": "no-cache"})

    def _reply(self, job: Job) -> Response:
        return JSONResponse(self.show(self.store.find(job.id) or job), headers=_POLL)

    def _file(self, job: Job, variant: str, headers: Mapping[str, str] | None = None) -> Response:
        if job.status != "completed":
            raise ApiError(409, f"video {job.id} is {job.status}: there is nothing to download", code="not_completed")
        name, kind = _VARIANTS[variant]
        return _file_response(self.store.place(job.id) / name, kind, f"{job.id}{Path(name).suffix}", headers)


def _file_response(path: Path, kind: str, name: str, headers: Mapping[str, str] | None = None) -> Response:
    cached = {"Cache-Control": "private, max-age=3600", **(headers or {})}
    if not path.is_file():
        raise not_found(path.name)
    return FileResponse(path, media_type=kind, filename=name, content_disposition_type="inline", headers=cached)


def make_app(
    handlers: Handlers, *, keys: Mapping[str, str], origins: Collection[str], host: str, metrics: Metrics
) -> ASGIApp:
    """The application, behind its guard."""

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        await run_in_threadpool(warm_up)
        async with handlers.scheduler.running():
            yield

    async def refused(_: Request, error: Exception) -> Response:
        return error_response(error)

    async def failed(_: Request, error: Exception) -> Response:
        if isinstance(error, DatabaseError):
            print(f"error: {error}", file=sys.stderr, flush=True)
            told = "the database of jobs cannot be used at the moment: try again"
            away = ApiError(503, told, code="database_unavailable", headers={"Retry-After": "10"})
            return error_response(away)
        full = full_disk(error, handlers.store.folder)
        if full is None:
            raise error
        return error_response(full)

    async def http_error(_: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return error_response(ApiError(error.status_code, str(error.detail), headers=error.headers))

    async def bug(_: Request, error: Exception) -> Response:
        return error_response(ApiError(500, f"internal error ({type(error).__name__})", code="server_error"))

    app: ASGIApp = Starlette(
        routes=handlers.routes(),
        lifespan=lifespan,
        exception_handlers={
            ApiError: refused, DiskFullError: refused, OSError: failed, HTTPException: http_error, Exception: bug,
        },
    )  # fmt: skip
    app = Guard(app, keys=keys, origins=origins, host=host, limits=handlers.limits, metrics=metrics)
    if not origins:
        return app
    # Outermost: browsers ask before they send a key, and want its headers on refusals too.
    return CORSMiddleware(
        app, allow_origins=list(origins), allow_methods=["GET", "POST", "DELETE"],
        allow_headers=["Authorization", "Content-Type", "Idempotency-Key"],
        expose_headers=["X-Video-Id", "Retry-After"],
    )  # fmt: skip
