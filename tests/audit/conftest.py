"""What the tests of the audit share."""

from engine.conftest import no_fsync

__all__ = ["no_fsync"]
