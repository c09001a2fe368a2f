"""Parts of `benchmarks/fidelity.py`: checkpoints, sentences, measures, and one file per peer."""
