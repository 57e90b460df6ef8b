"""Serving over HTTP: requests, jobs, workers, and the page. The command line is serve.py, above this package."""
