"""Turns records into numbers: frames, tables, statistics over patients, names of attacks."""
