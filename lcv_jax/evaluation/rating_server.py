"""The web server of a study: a page, a small JSON interface, and the clips under names that tell nothing.

GET  /                      the page; ?rater=TOKEN says who rates
GET  /api/next?rater=TOKEN  the item to rate, with the answers it has so far, or {"finished": true}
POST /api/rate              {rater, item, dimension, score}: stored before the reply; training items reply feedback
POST /api/skip              {rater, item}: a clip that the rater's browser cannot play
GET  /api/previous?item=ID  the item answered before that one
GET  /media/ITEM/PLACE      a clip, or "image"; byte ranges are served
"""

import logging
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lcv_jax.command_line import mistake
from lcv_jax.evaluation.dimensions import BY_ID
from lcv_jax.evaluation.packages import evaluation_package
from lcv_jax.evaluation.ratings import Ratings, random_place
from lcv_jax.evaluation.studies import Rater, Study, StudyItem, read_study
from lcv_jax.own_files import DiskFullError
from lcv_jax.user_files import parse_json

PAGE = Path(__file__).parent / "page"
MOST_BYTES = 16384
"""Of what a page sends."""


def rating_app(study: Study) -> Any:
    """The Starlette application of a study.

    Raises:
        ValueError: study.json was changed after ratings began.
        ImportError: Starlette is not installed.
    """
    applications, routing = evaluation_package("starlette.applications"), evaluation_package("starlette.routing")
    responses = evaluation_package("starlette.responses")
    ratings = Ratings(study)
    handlers = _Handlers(ratings, responses)
    routes = [
        routing.Route("/", handlers.page),
        routing.Route("/page.js", handlers.script),
        routing.Route("/page.css", handlers.style),
        routing.Route("/api/next", handlers.next),
        routing.Route("/api/previous", handlers.previous),
        routing.Route("/api/rate", handlers.rate, methods=["POST"]),
        routing.Route("/api/skip", handlers.skip, methods=["POST"]),
        routing.Route("/media/{item}/{place}", handlers.media),
    ]
    return applications.Starlette(routes=routes, exception_handlers={DiskFullError: handlers.disk_full})


class _Handlers:
    """Requests. Those that touch the database are plain functions, which Starlette runs in threads."""

    def __init__(self, ratings: Ratings, responses: Any):
        self.ratings, self.study, self.responses = ratings, ratings.study, responses
        self._stamp = _stamp(self.study.folder / "study.json")
        self._clips = {item.id: list(map(_stamp, self.study.paths(item))) for item in self.study.items}

    def _has_changed(self) -> bool:
        """Whether study.json is another than the one that is served."""
        if _stamp(self.study.folder / "study.json") == self._stamp:
            return False
        try:
            return read_study(self.study.folder).digest != self.study.digest
        except (OSError, ValueError):
            return True

    def page(self, request: Any) -> Any:
        return self.responses.FileResponse(PAGE / "page.html")

    def script(self, request: Any) -> Any:
        return self.responses.FileResponse(PAGE / "page.js")

    def style(self, request: Any) -> Any:
        return self.responses.FileResponse(PAGE / "page.css")

    def next(self, request: Any) -> Any:
        return self._shown(request.query_params.get("rater", ""), self.ratings.next)

    def previous(self, request: Any) -> Any:
        shown = request.query_params.get("item", "")
        return self._shown(
            request.query_params.get("rater", ""),
            lambda rater: self.ratings.previous(rater, shown) or self.ratings.next(rater),
        )

    def _shown(self, token: str, choose: Callable[[Rater], StudyItem | None]) -> Any:
        rater = self.study.rater(token)
        if rater is None:
            return self._refuse(403, "this link is not a rater's of this study: ask for yours")
        if self._has_changed():
            return self._refuse(409, "the study was changed while it is being rated: restart the server")
        item = choose(rater)
        done, total = self.ratings.progress(rater)
        if item is None:
            missing = sum(self.study.missing_file(item) is not None for item in self.study.items)
            return self.responses.JSONResponse({"finished": True, "done": done, "total": total, "missing": missing})
        swapped = is_swapped(self.study, rater, item)
        scores = self.ratings.scores_of(item, rater)
        places = range(len(item.videos))[:: -1 if swapped else 1]
        return self.responses.JSONResponse(
            {
                "kind": self.study.kind,
                "item": item.id,
                "training": item.role == "training",
                "prompt": item.prompt,
                "videos": [f"/media/{item.id}/{place}" for place in places],
                "image": f"/media/{item.id}/image" if item.image else None,
                "dimensions": [_question(name, self.study.kind) for name in item.dimensions],
                "scores": {name: -score if swapped else score for name, score in scores.items()},
                "done": done,
                "total": total,
            }
        )

    async def rate(self, request: Any) -> Any:
        return await self._posted(request, self._rate)

    async def skip(self, request: Any) -> Any:
        return await self._posted(request, self._skip)

    async def _posted(self, request: Any, act: Callable[[dict[str, Any], Rater, StudyItem], Any]) -> Any:
        """Calls a function, in a thread, with what a rater sends about an item."""
        concurrency = evaluation_package("starlette.concurrency")
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > MOST_BYTES:
                return self._refuse(413, f"the body is longer than {MOST_BYTES} bytes")
        try:
            answer = parse_json(body.decode(), "the body")
        except ValueError as error:
            return self._refuse(400, str(error))
        rater = self.study.rater(str(answer.get("rater", "")))
        item = self.study.by_id.get(str(answer.get("item", "")))
        if rater is None:
            return self._refuse(403, "this link is not a rater's of this study: ask for yours")
        if item is None:
            return self._refuse(404, "no such item in this study")
        return await concurrency.run_in_threadpool(act, answer, rater, item)

    def _rate(self, answer: dict[str, Any], rater: Rater, item: StudyItem) -> Any:
        if self._has_changed():
            return self._refuse(409, "the study was changed while it is being rated: restart the server")
        if not self.study.missing_file(item) and list(map(_stamp, self.study.paths(item))) != self._clips[item.id]:
            return self._refuse(409, "a clip of this item was replaced while it is being rated: restart the server")
        score, dimension = answer.get("score"), str(answer.get("dimension", ""))
        if is_swapped(self.study, rater, item) and type(score) is int:  # true is no score
            score = -score
        try:
            complete = self.ratings.add(item, rater, dimension, score)  # type: ignore[arg-type]
        except ValueError as error:
            return self._refuse(400, str(error))
        feedback = _feedback(item, self.ratings.scores_of(item, rater)) if complete else None
        return self.responses.JSONResponse({"complete": complete, "feedback": feedback})

    def _skip(self, answer: dict[str, Any], rater: Rater, item: StudyItem) -> Any:
        self.ratings.skip(item, rater)
        return self.responses.JSONResponse({})

    def media(self, request: Any) -> Any:
        item = self.study.by_id.get(request.path_params["item"])
        names = {} if item is None else {str(place): name for place, name in enumerate(item.videos)}
        if item is not None and item.image:
            names["image"] = item.image
        name = names.get(request.path_params["place"])
        if name is None or not (path := self.study.folder / name).is_file():
            return self._refuse(404, "no such file in this study")
        return self.responses.FileResponse(path, headers={"Cache-Control": "private, max-age=3600"})

    def disk_full(self, request: Any, error: Exception) -> Any:
        return self._refuse(507, mistake(error) or "")

    def _refuse(self, status: int, reason: str) -> Any:
        return self.responses.JSONResponse({"error": reason}, status_code=status)


def is_swapped(study: Study, rater: Rater, item: StudyItem) -> bool:
    """Whether a rater sees the second clip of a pair on the left; random, and the same every time."""
    return len(item.videos) == 2 and random_place(study.seed, rater.name, f"side of {item.id}") % 2 == 1


def _stamp(path: Path) -> tuple[int, int]:
    """Changes whenever a file is written."""
    try:
        status = path.stat()
    except OSError:
        return 0, 0
    return status.st_mtime_ns, status.st_size


def _question(name: str, kind: str) -> dict[str, Any]:
    dimension = BY_ID[name]
    if kind == "absolute":
        choices = [{"score": place + 1, "text": text} for place, text in enumerate(dimension.points)]
    else:
        choices = [
            {"score": 1, "text": "Left is better"},
            {"score": 0, "text": "Same"},
            {"score": -1, "text": "Right is better"},
        ]
    return {"id": name, "title": dimension.title, "question": dimension.question, "choices": choices}


def _feedback(item: StudyItem, scores: dict[str, int]) -> dict[str, Any] | None:
    """What a rater learns after a training item; nothing after any other."""
    if item.role != "training":
        return None
    right = all(low <= scores[name] <= high for name, (low, high) in item.expected.items())
    return {"right": right, "text": item.explanation}


def serve(study: Study, host: str, port: int, on_start: Callable[[str], None]) -> None:
    """Serves a study until it is interrupted.

    Args:
        study: what is rated.
        host: address to listen on.
        port: 0 takes a free one.
        on_start: told the address.

    Raises:
        OSError: the port is taken.
        ValueError: study.json was changed after ratings began.
    """
    uvicorn = evaluation_package("uvicorn")
    app = rating_app(study)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((host, port))
            listening.listen()
        except OSError as error:
            raise OSError(f"{host}:{port}: {error.strerror}; choose another --host or --port") from error
        on_start(f"http://{f'[{host}]' if ':' in host else host}:{listening.getsockname()[1]}")
        logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
        uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False)).run(sockets=[listening])
