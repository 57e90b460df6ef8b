"""Everything that only a GPU can show, measured by one command: `python -m benchmarks.gpu`, see __main__.py."""
