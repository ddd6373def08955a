"""Which images make up a batch, and which of them are this rank's: plain arithmetic, alike on every rank."""

from __future__ import annotations

from dataclasses import dataclass

from stoker.errors import BadValue


@dataclass(frozen=True, kw_only=True)
class Shares:
    """The batches of an epoch as ranges of its order."""

    images: int
    """In the data set."""
    batch_size: int
    """Of the global batch: over all ranks."""
    drop_last: bool
    """Whether a last, smaller batch is left out."""
    rank: int = 0
    world_size: int = 1

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise BadValue(f"batch_size={self.batch_size} is below 1", hint="choose a batch size of at least 1")
        if self.images < 1:
            raise BadValue("the data set has no images", hint="check the data path")
        if not 0 <= self.rank < self.world_size:
            raise BadValue(f"rank={self.rank} lies outside a world of {self.world_size}", hint="start the training with `--gpus N` or with torchrun")
        if self.drop_last and self.images < self.batch_size:
            fits = max(self.images - self.images % self.world_size, self.world_size)
            raise BadValue(
                f"a batch of {self.batch_size} images cannot be made: the data set has {self.images}",
                hint=f"`--set batch_size={fits}` is the largest that fits",
            )
        if self.batch_size % self.world_size:
            near = max(self.batch_size - self.batch_size % self.world_size, self.world_size)
            raise BadValue(
                f"batch_size={self.batch_size} cannot be shared out evenly to {self.world_size} ranks",
                hint=f"`--set batch_size={near}` can",
            )

    @property
    def steps(self) -> int:
        """Batches an epoch."""
        return self.images // self.batch_size if self.drop_last else -(-self.images // self.batch_size)

    @property
    def local_batch_size(self) -> int:
        """Images of a full batch that this rank gets."""
        return self.batch_size // self.world_size

    def of(self, step: int) -> range:
        """Return the places in the order of the epoch that are this rank's share of batch `step`.

        The ranks' shares, one after the other, are the batch that a single rank would see. Shares of a last, smaller batch differ by at most
        one image and may be empty.
        """
        start = step * self.batch_size
        size = min(self.batch_size, self.images - start)
        return range(start + size * self.rank // self.world_size, start + size * (self.rank + 1) // self.world_size)

    def check_start(self, start: int) -> None:
        """Raise BadValue unless an epoch can begin at batch `start`."""
        if not 0 <= start <= self.steps:
            raise BadValue(
                f"an epoch of {self.steps} batches cannot begin at batch {start}", hint="the checkpoint belongs to another batch size or data set"
            )


class Shared:
    """What every source of batches says of its shares."""

    shares: Shares

    @property
    def images(self) -> int:
        """Images in the data set, over all ranks."""
        return self.shares.images

    @property
    def batch_size(self) -> int:
        """Images of a full batch, over all ranks."""
        return self.shares.batch_size

    @property
    def steps(self) -> int:
        """Batches an epoch."""
        return self.shares.steps
