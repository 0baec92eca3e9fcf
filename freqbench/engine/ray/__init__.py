"""Carries out units on Ray."""
