"""Data set classes of the script's own: their `__getitem__` is read, and said again with an image that is not opened yet."""
