"""The environment of a source tree: which stack fits the machine, and the `.venv` made from its lock. Standard library only."""
