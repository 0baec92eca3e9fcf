"""Sends jobs to a Ray cluster through its Jobs API."""
