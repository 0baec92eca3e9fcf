"""Carries out a plan: workers, the order of units, the engines that feed them, and the stored rows."""
