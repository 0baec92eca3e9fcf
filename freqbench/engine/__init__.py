"""Carries out a plan: workers, the order of units, the engines that feed them, and the stored rows."""

from freqbench.core.machine import settle_threads

settle_threads()  # of the machine that a worker is on, before libraries are imported
