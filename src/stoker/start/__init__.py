"""The inside of an image: which stack a container uses, its environment, and the services that it can be (JupyterLab, sshd)."""

from __future__ import annotations

from stoker.start.choice import Choice, choose
from stoker.start.driver import Seen, look
from stoker.start.image import Image, ImageStack, read_image

__all__ = ["Choice", "Image", "ImageStack", "Seen", "choose", "look", "read_image"]
