"""Clients that nobody here wrote, on the folders that `deb-export package --hub` writes."""
