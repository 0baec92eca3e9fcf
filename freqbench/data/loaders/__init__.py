"""Reads datasets; each file reads one dataset, or one layout of folders."""
