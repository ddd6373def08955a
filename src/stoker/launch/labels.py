"""The labels by which Stoker knows its containers again (all the state there is), and those of its images."""

from __future__ import annotations

PREFIX = "stoker-"
"""What the engine's name of a container begins with; the user's own name of it follows."""

LAUNCH = "dev.stoker.launch"
"""`1` on every container that Stoker looks after; put on by hand, it makes any container one of them."""
NAME = "dev.stoker.launch.name"
"""The name that the user knows it by."""
KIND = "dev.stoker.launch.kind"
"""`notebook`, `ssh` or `run`."""
PROJECT = "dev.stoker.launch.project"
"""Folder of the host that is `/workspace` inside."""
HOME = "dev.stoker.launch.home"
"""Folder of the host that is the home inside; empty: none is kept."""
LISTEN = "dev.stoker.launch.listen"
"""Address and port on the host, `127.0.0.1:8888`; several are separated by commas; empty: none."""
GRACE = "dev.stoker.launch.grace"
"""Seconds between SIGTERM and SIGKILL."""
GPUS = "dev.stoker.launch.gpus"
"""The GPUs as asked for: `all`, `none`, `0,2`, ..."""

VARIANTS = "dev.stoker.variants"
"""On every image of Stoker: what is in it, as `cli notebook`."""
STACKS = "dev.stoker.stacks"
"""On every image of Stoker: its PyTorch stacks with the drivers that they need, as JSON."""
