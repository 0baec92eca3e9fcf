"""Fixtures of the engine's tests, shared."""

from engine.conftest import one_thread

__all__ = ["one_thread"]
