"""Layers and models on a GPU beside their peers: one script each, and what the two share."""
