"""What the engine's tests share."""

from engine.conftest import no_fsync, one_thread

__all__ = ["no_fsync", "one_thread"]
