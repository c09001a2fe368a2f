"""deb-export: DeBERTa-v2/v3 from a training checkpoint to verified production inference."""
