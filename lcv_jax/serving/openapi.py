"""The OpenAPI document, from the table of fields."""

import typing
from typing import Annotated, Any, Literal

from lcv_jax.bounds import Bounds
from lcv_jax.serving.fields import FIELDS, MEDIA
from lcv_jax.serving.limits import Limits

_KINDS = {str: "string", int: "integer", float: "number", bool: "boolean"}


def document(limits: Limits) -> dict[str, Any]:
    """OpenAPI 3.1 of the server."""
    properties = {name: {**_schema(field.hint), "description": field.doc} for name, field in FIELDS.items()}
    reference = {
        "description": 'An image to begin with, or a clip to go on from: in JSON {"image_url": "data:..."} of at most '
        '20 MB or {"id": "video_..."}, in a form a file.',
    }
    both = {**properties, **dict.fromkeys(MEDIA, reference)}
    request = {"type": "object", "additionalProperties": False, "properties": both}
    body = {"required": True, "content": {kind: {"schema": {"$ref": "#/components/schemas/VideoRequest"}}
                                          for kind in ("multipart/form-data", "application/json")}}  # fmt: skip
    one = [{"name": "id", "in": "path", "required": True, "schema": {"type": "string"}}]
    listing = [
        {"name": "after", "in": "query", "schema": {"type": "string"}},
        {"name": "limit", "in": "query", "schema": {"type": "integer", "minimum": 1, "maximum": 100, "default": 20}},
        {"name": "order", "in": "query", "schema": {"enum": ["asc", "desc"], "default": "desc"}},
    ]
    variant = {"name": "variant", "in": "query",
               "schema": {"enum": ["video", "thumbnail", "spritesheet", "sidecar"], "default": "video"}}  # fmt: skip
    prompt = {
        "required": True,
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/VideoRequest"}}},
    }
    paths = {
        "/v1/videos": {
            "post": _operation("Make a video: a job joins the queue", body=body),
            "get": _operation("List videos", parameters=listing, answer="VideoList"),
        },
        "/v1/videos/sync": {"post": _operation("Make a video and wait for it", body=body, kind="video/mp4")},
        "/v1/videos/extensions": {"post": _operation("Go on from a clip (`video`)", body=body)},
        "/v1/videos/{id}": {
            "get": _operation("A video's job", parameters=one),
            "delete": _operation("End and delete a video", parameters=one, answer="Deleted"),
        },
        "/v1/videos/{id}/remix": {
            "post": _operation("The same request with another prompt or other fields", parameters=one, body=prompt)
        },
        "/v1/videos/{id}/cancel": {"post": _operation("End a job, within one step", parameters=one)},
        "/v1/videos/{id}/content": {
            "get": _operation("Download", parameters=[*one, variant], kind="video/mp4")
        },
        "/v1/videos/{id}/events": {
            "get": _operation("Server-sent events: the job as it changes", parameters=one, kind="text/event-stream")
        },
        "/v1/videos/{id}/segments/{name}": {
            "get": _operation(
                "A finished segment of a long video, also before the whole is there",
                parameters=[*one, {**one[0], "name": "name"}],
                kind="video/mp4",
            )
        },
        "/v1/live": {
            "get": {
                "summary": "A live stream over a WebSocket",
                "description": _LIVE,
                "responses": {"101": {"description": "A WebSocket"}},
            }
        },
        "/v1/models": {"get": _operation("The served model, its defaults and limits", answer="ModelList")},
        "/health": {"get": _operation("Whether videos are made", answer="Health")},
        "/metrics": {"get": _operation("Prometheus metrics", kind="text/plain")},
    }  # fmt: skip
    free = {"type": "object"}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "lcv_jax", "version": "1",
            "description": f"The Videos API. Requests of at most {limits.max_body_megabytes} MB.",
        },
        "paths": paths,
        "security": [{"key": []}],
        "components": {
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
            "schemas": {
                "VideoRequest": request, "Video": _VIDEO, "Error": _ERROR, "ModelList": free, "Health": free,
                "Deleted": {"type": "object", "properties": {"id": {"type": "string"}, "deleted": {"const": True},
                                                             "object": {"const": "video.deleted"}}},
                "VideoList": {
                    "type": "object",
                    "properties": {
                        "object": {"const": "list"}, "has_more": {"type": "boolean"},
                        "data": {"type": "array", "items": {"$ref": "#/components/schemas/Video"}},
                        "first_id": {"type": ["string", "null"]}, "last_id": {"type": ["string", "null"]},
                    },
                },
            },
        },
    }  # fmt: skip


_LIVE = """\
The client sends JSON: {"type": "start", "prompt": ..., and fields of a text-to-video request}; {"type": "ack",
"frame": N} for each frame that it has shown; {"type": "prompt", "prompt": ...}; {"type": "back", "frame": N};
{"type": "save"}. The server sends JSON (queued, begun, prompt, back, error, ended) and binary messages: the length of
a JSON header in four bytes, big-endian, the header ({"type": "frame", "frame": N, "format": "image/jpeg"} or
{"type": "video", "format": "video/mp4"}), and the file. Browsers give the key as the subprotocol
lcv.key.BASE64URL beside lcv.live."""
_ERROR = {
    "type": "object",
    "properties": {
        "error": {
            "type": "object",
            "properties": {
                "message": {"type": "string"}, "type": {"type": "string"},
                "param": {"type": ["string", "null"]}, "code": {"type": ["string", "null"]},
            },
        }
    },
}  # fmt: skip
_VIDEO = {
    "type": "object",
    "properties": {
        "id": {"type": "string"}, "object": {"const": "video"},
        "status": {"enum": ["queued", "in_progress", "completed", "failed"]},
        "progress": {"type": "integer", "minimum": 0, "maximum": 100},
        "created_at": {"type": "integer"}, "completed_at": {"type": ["integer", "null"]},
        "expires_at": {"type": ["integer", "null"]}, "model": {"type": "string"},
        "prompt": {"type": ["string", "null"]}, "seconds": {"type": ["string", "null"]},
        "size": {"type": ["string", "null"]}, "seed": {"type": "integer"},
        "error": {"type": ["object", "null"]}, "queue_position": {"type": ["integer", "null"]},
        "step": {"type": ["integer", "null"]}, "num_steps": {"type": ["integer", "null"]},
        "seconds_left": {"type": ["number", "null"]},
        "segments": {"type": "array", "items": {"type": "string"}},
        "remixed_from_video_id": {"type": ["string", "null"]},
    },
}  # fmt: skip


def _operation(
    summary: str,
    *,
    parameters: list[dict[str, Any]] | None = None,
    body: dict[str, Any] | None = None,
    answer: str = "Video",
    kind: str = "application/json",
) -> dict[str, Any]:
    schema = {"$ref": f"#/components/schemas/{answer}"} if kind == "application/json" else {"type": "string"}
    error = {
        "description": "Refused",
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
    }
    return {
        "summary": summary,
        **({"parameters": parameters} if parameters else {}),
        **({"requestBody": body} if body else {}),
        "responses": {"200": {"description": "OK", "content": {kind: {"schema": schema}}}, "default": error},
    }


def _schema(hint: Any, bounds: Bounds | None = None) -> dict[str, Any]:
    """The JSON schema of an annotation."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return _schema(arguments[0], next(each for each in arguments[1:] if isinstance(each, Bounds)))
    if origin is Literal:
        return {"enum": list(arguments)}
    if origin is tuple and arguments == (str, ...):
        return {"type": "array", "items": {"type": "string"}}
    if origin is tuple:
        return {"type": "object", "additionalProperties": {"type": "number"}}
    limits = {} if bounds is None else {
        "minimum": bounds.least, "exclusiveMinimum": bounds.above, "maximum": bounds.most,
        "exclusiveMaximum": bounds.below,
    }  # fmt: skip
    return {"type": _KINDS[hint], **{name: limit for name, limit in limits.items() if limit is not None}}
