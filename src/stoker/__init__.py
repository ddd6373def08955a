"""Stoker keeps the GPU fed: from a bare machine to a CNN that trains at full speed."""

__version__ = "0.1.0"
