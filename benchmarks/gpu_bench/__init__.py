"""What `gpu_attention.py` and `gpu_model.py` share: counts, contenders, timing, rows."""
