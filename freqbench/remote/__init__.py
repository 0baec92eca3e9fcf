"""Sends jobs to a Ray cluster by `ray job`."""
