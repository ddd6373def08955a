"""The folder that `stoker diagnose` puts at the front of a program's PYTHONPATH; it holds nothing but sitecustomize."""
