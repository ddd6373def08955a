"""Runs somebody's program with boost, from outside of it: as it is, or several times in turn to measure and compare."""
