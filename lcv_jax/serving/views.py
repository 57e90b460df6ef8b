"""Jobs as the Videos API shows them: the published fields, and ours beside them."""

from typing import Any

from lcv_jax.serving.jobs import Job, JobStore
from lcv_jax.serving.planning import num_frames_of, seconds_text, size_of
from lcv_jax.serving.scheduler import Live


def video_object(job: Job, store: JobStore, live: Live | None, model: str, keep_seconds: float) -> dict[str, Any]:
    """A job as a video of the API.

    Args:
        job: the record; store: where it is from.
        live: what its worker has told so far, if it is being made.
        model: the name that is served.
        keep_seconds: time from its end until it is deleted.
    """
    task, done = job.task, job.video
    size = (done["height"], done["width"]) if done else size_of(task)
    fps = done["fps"] if done else 2 * task["fps"] if task.get("refine") else task.get("fps", 0)
    frames = done["num_frames"] if done else num_frames_of(task)
    progress = live.progress if live else None
    error = None if job.error_code is None else {"code": job.error_code, "message": job.error_message}
    shown: dict[str, Any] = {
        "id": job.id,
        "object": "video",
        "created_at": int(job.created),
        "started_at": None if job.started is None else int(job.started),
        "completed_at": int(job.finished) if job.finished and job.status == "completed" else None,
        "expires_at": int(job.finished + keep_seconds) if job.finished else None,
        "status": job.status,
        "progress": 100 if job.status == "completed" else min(99, int(100 * progress.share)) if progress else 0,
        "model": model,
        "prompt": job.fields.get("prompt"),
        "seconds": seconds_text(frames, fps) if fps else None,
        "size": f"{size[1]}x{size[0]}" if size else None,
        "error": error,
        "remixed_from_video_id": job.remixed_from,
        "task": task["task"],
        "num_frames": frames,
        "fps": fps or None,
        "seed": task["seed"],
        "fields": {**job.fields, "seed": task["seed"]},
        "warnings": job.warnings,
        "queue_position": store.queue_position(job) if job.status == "queued" else None,
        "stage": progress.stage if progress else None,
        "step": progress.step if progress else None,
        "num_steps": progress.steps if progress else None,
        "segment": progress.segment + 1 if progress else None,
        "num_segments": progress.segments if progress else task.get("num_segments"),
        "seconds_left": None if live is None or live.seconds_left is None else round(live.seconds_left, 1),
        "made_in": round(job.finished - job.started, 2) if done and job.finished and job.started else None,
        "segments": [],
    }
    if task["task"] in ("long-video", "interactive-video", "refine") and job.status in ("in_progress", "completed"):
        shown["segments"] = [f"/v1/videos/{job.id}/segments/{name}" for name in store.segments(job)]
    return shown
