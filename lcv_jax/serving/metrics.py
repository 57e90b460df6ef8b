"""Prometheus metrics of a server."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_SECONDS = (0.1, 0.3, 1, 3, 10, 30, 60, 120, 300, 600, 1200, 3600, 7200, 14400)


class Metrics:
    """All metrics, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter("lcv_http_requests", "HTTP requests", ["method", "status"], registry=self.registry)
        self.jobs = Counter("lcv_jobs", "Finished jobs by task and end", ["task", "end"], registry=self.registry)
        self.queued = Gauge("lcv_queue_jobs", "Jobs that wait", registry=self.registry)
        self.capacity = Gauge("lcv_queue_capacity", "Jobs that may wait", registry=self.registry)
        self.running = Gauge("lcv_running_jobs", "Jobs that are being made", registry=self.registry)
        self.live = Gauge("lcv_live_streams", "Live streams that have a worker", registry=self.registry)
        self.frames = Counter("lcv_live_frames", "Frames of live streams", registry=self.registry)
        self.workers = Gauge("lcv_workers_ready", "Workers that have loaded their weights", registry=self.registry)
        self.restarts = Counter("lcv_worker_restarts", "Workers that ended and were replaced", registry=self.registry)
        self.stored = Gauge("lcv_stored_bytes", "Size of finished videos and their files", registry=self.registry)
        self.waiting = Histogram(
            "lcv_job_waiting_seconds", "Time in the queue", buckets=_SECONDS, registry=self.registry
        )
        self.making = Histogram(
            "lcv_job_seconds", "Time to make a video", ["task"], buckets=_SECONDS, registry=self.registry
        )
        self.steps = Histogram(
            "lcv_step_seconds", "Time between sampling steps", buckets=_SECONDS, registry=self.registry
        )
