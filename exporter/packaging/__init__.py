"""Artifacts in the forms that servers take."""
