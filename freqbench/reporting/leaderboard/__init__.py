"""Ranks networks whose numbers anybody can compute again: entries, their verification, and a static site of them."""
