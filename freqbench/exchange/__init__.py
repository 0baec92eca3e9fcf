"""Volumes and label maps from and for third-party tools."""
