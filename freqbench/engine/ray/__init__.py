"""Carries units out on Ray."""
