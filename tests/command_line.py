"""A command as `bench.py` calls it, without a process of its own."""

import signal
import sys
import time
from collections.abc import Callable

import pytest

from freqbench.cli import main

Bench = Callable[..., tuple[int, str, str]]


def bench(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["bench.py", *arguments])
        with pytest.raises(SystemExit) as caught:
            main()
    signal.signal(signal.SIGTERM, before)
    return int(caught.value.code or 0), *capsys.readouterr()


def done(bench: Bench, *arguments: str) -> str:
    """Output of a command that does its work and has nothing to warn of."""
    code, out, err = bench(*arguments)
    assert (code, err) == (0, "")
    return out


def refused(bench: Bench, *arguments: str) -> str:
    code, _, err = bench(*arguments)
    assert (code, err.count("\n")) == (2, 1), err
    return err


def wait_for(condition: Callable[[], bool], seconds: float = 240.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)
