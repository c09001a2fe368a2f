"""Makes `tests/golden/gliner_model`: a tiny GLiNER trained on sentences from templates."""
