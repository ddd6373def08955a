"""Gather, crop, flip and normalise as one torch function: compiled to one kernel on a GPU, and the fallback where there is no C kernel."""

from __future__ import annotations

from collections.abc import Callable

import torch


def gathered(
    pixels_NHWC: torch.Tensor,
    table_CV: torch.Tensor,
    index_B: torch.Tensor,
    dy_B: torch.Tensor | None,
    dx_B: torch.Tensor | None,
    flip_B: torch.Tensor | None,
    padding: int,
    reflect: bool,
    channels_last: bool,
) -> torch.Tensor:
    """Return images [B, C, H, W] in the dtype of `table_CV` [C, 256]; the same numbers as the C kernel, since each is read from the table.

    pixels_NHWC uint8; index_B int64; dy_B, dx_B, flip_B uint8 or None (no crop, no flip). Memory is channels_last or contiguous as asked.
    """
    _, height, width, channels = pixels_NHWC.shape
    device = pixels_NHWC.device
    rows_BH = torch.arange(height, device=device)[None, :]
    columns_BW = torch.arange(width, device=device)[None, :]
    if flip_B is not None:
        columns_BW = torch.where(flip_B[:, None] != 0, width - 1 - columns_BW, columns_BW)
    if dy_B is not None and dx_B is not None:
        rows_BH = rows_BH + dy_B[:, None].long() - padding
        columns_BW = columns_BW + dx_B[:, None].long() - padding
    rows_BH, rows_inside_BH = _inside(rows_BH, height, reflect)
    columns_BW, columns_inside_BW = _inside(columns_BW, width, reflect)
    channel_C = torch.arange(channels, device=device)
    if channels_last:
        value = pixels_NHWC[index_B[:, None, None], rows_BH[:, :, None], columns_BW[:, None, :]].long()
        inside = (rows_inside_BH[:, :, None] & columns_inside_BW[:, None, :])[:, :, :, None]
        number_BHWC = table_CV.reshape(-1)[torch.where(inside, value, 0) + 256 * channel_C]
        return number_BHWC.permute(0, 3, 1, 2)
    channel_CHW = channel_C[:, None, None]
    value = pixels_NHWC[index_B[:, None, None, None], rows_BH[:, None, :, None], columns_BW[:, None, None, :], channel_CHW].long()
    inside = (rows_inside_BH[:, :, None] & columns_inside_BW[:, None, :])[:, None]
    return table_CV.reshape(-1)[torch.where(inside, value, 0) + 256 * channel_CHW]


def _inside(place: torch.Tensor, size: int, reflect: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Return places within 0..size-1, and which of them show the image and not zero padding."""
    if reflect:
        place = (size - 1) - ((size - 1) - place.abs()).abs()
        return place, torch.ones_like(place, dtype=torch.bool)
    return place.clamp(0, size - 1), (place >= 0) & (place < size)


class CompiledGather:
    """`gathered` compiled when asked; if it cannot be compiled it stays eager, and `eager_because` says why."""

    def __init__(self, compiled: bool) -> None:
        """Compile at the first call when `compiled`."""
        self.eager_because: str | None = None if compiled else "not asked for"
        self._compiled: Callable[..., torch.Tensor] | None = torch.compile(gathered, dynamic=False) if compiled else None

    def __call__(self, *arguments: object) -> torch.Tensor:
        """Take the arguments of `gathered`."""
        if self._compiled is not None:
            try:
                return self._compiled(*arguments)
            except torch.OutOfMemoryError:
                raise
            except Exception as error:  # whatever a compiler can raise: the same numbers can be had without it
                self.eager_because = f"{type(error).__name__}: {error}".splitlines()[0]
                self._compiled = None
        return gathered(*arguments)  # type: ignore[arg-type]
