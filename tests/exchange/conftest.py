"""What the engine's tests share."""

from engine.conftest import one_thread

__all__ = ["one_thread"]
