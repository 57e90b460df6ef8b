"""The parts of the planner, lcv_jax/plan.py.

    requests.py     which programs a task runs, with arrays of what shapes: the pipeline itself says so
    compiling.py    a program compiled for described GPUs: memory, largest buffers, collectives
    hlo.py          collectives in a program's text, and what of them goes from host to host
    buffers.py      buffers in what the compiler leaves beside it
    report.py       what it adds up to: fits or not, floors of time, advice
    tables.py       the report for people, and its picture

Only generation is planned. A training step would be one more kind of request, with a program of its own.
"""
