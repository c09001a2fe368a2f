"""The portable graph in another precision: passes over it, one transform per file."""
