"""Loaders of other people replayed: the same batches, made in threads from the random numbers that PyTorch would have drawn."""
