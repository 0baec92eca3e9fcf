"""Exchanges volumes and label maps with third-party tools."""
