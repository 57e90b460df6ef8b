"""Evaluation of a model: suites of prompts, sampling, ratings, judges, measures, statistics and reports.

Section 5 of the report. Nothing here knows a command line; `lcv_jax/evaluate.py` is it.
"""
