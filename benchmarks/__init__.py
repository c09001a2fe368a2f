"""Measurements behind the figures of `docs/`; each runs as `python -m benchmarks.NAME`."""
