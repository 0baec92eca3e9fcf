"""Carries a plan out: workers, the order of units, the engines that feed them, and the rows that are stored."""
