"""Hostile script: labels, pixels, results and indices of all kinds, the odd ones among them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torchvision
from habits import PLAIN, both, run, with_step
from PIL import ImageDraw
from stage import CASES, CROPPED, case, cifar, digest, main, pictures, say, states
from torch.utils.data import ConcatDataset, DataLoader, Dataset, Subset, SubsetRandomSampler, TensorDataset
from torchvision import transforms
from torchvision.transforms import v2

CASES.clear()


@case
def labels_of_all_kinds() -> None:
    kinds: list[Any] = [
        *(np.arange(96).astype(kind) for kind in ("uint8", "int32", "int64", "float32", "float64", "bool", "uint16")),
        *(torch.arange(96).to(kind) for kind in (torch.uint8, torch.int32, torch.float32, torch.float16)),
        [bool(i % 3) for i in range(96)],
        [np.int32(i) for i in range(96)],
        [np.float32(i) for i in range(96)],
        [torch.tensor(i) for i in range(96)],
        [i if i % 7 else i / 3 for i in range(96)],
        [i / 3 if i % 7 else i for i in range(96)],
        [True if i % 5 else i for i in range(96)],
        [i if i < 70 else np.int64(i) for i in range(96)],
        [f"class {i}" for i in range(96)],
        [(i, i + 0.5) for i in range(96)],
        [{"a": i} for i in range(96)],
        [[i, i] for i in range(96)],
        [2**40 * i for i in range(96)],
        [2**63 + i for i in range(96)],
        [1e300 * i for i in range(96)],
        [float("nan")] * 96,
        [1j * i for i in range(96)],
        [None] * 96,
        tuple(range(96)),
        range(96),
        np.arange(192).reshape(96, 2),
        torch.arange(192.0).reshape(96, 2),
        {i: i for i in range(96)},
        np.array([f"{i}" for i in range(96)]),
        np.arange(96).astype(object),
        np.arange(96).astype(">i4"),
    ]
    for number, targets in enumerate(kinds):
        say(type(targets).__name__, getattr(targets, "dtype", ""))
        made = cifar(transform=CROPPED)
        made.targets = targets
        for workers in (0, 1) if number % 4 == 0 else (0,):
            run(DataLoader(made, 5, num_workers=workers))


@case
def target_transforms() -> None:
    for function in (float, str, bool, lambda y: y / 3, lambda y: (y, y), lambda y: torch.tensor(y), lambda y: np.float32(y), lambda y: [y] * 2):
        both(cifar(target_transform=function))
    both(cifar(target_transform=lambda y: y if y % 2 else float(y)))
    both(cifar(target_transform=transforms.Lambda(lambda y: y + 1)))


@case
def data_of_all_kinds() -> None:
    mask = np.arange(96) % 3 > 0
    made = cifar()
    made.data, made.targets = made.data[mask], np.array(made.targets)[mask]
    both(made)
    grey = torchvision.datasets.MNIST.__new__(torchvision.datasets.MNIST)
    torchvision.datasets.VisionDataset.__init__(grey, "nowhere", transform=PLAIN)
    grey.train, pixels = True, torch.from_numpy(np.random.RandomState(3).randint(0, 256, (96, 14, 14), dtype=np.uint8))
    grey.targets = torch.arange(96)
    for data in (
        pixels,
        pixels[::2],
        pixels.transpose(1, 2),
        pixels.flip(0),
        pixels.float(),
        pixels.numpy(),
        pixels.bool(),
        pixels.int(),
        pixels[:, None],
    ):
        grey.data = data
        both(grey)
    whole = cifar()
    for data in (
        whole.data.astype(np.float32),
        list(whole.data),
        whole.data[:, ::2],
        np.asfortranarray(whole.data),
        whole.data[..., :1],
        whole.data[..., 0],
    ):
        made = cifar()
        made.data = data
        both(made)
    wide = np.concatenate([whole.data, whole.data[..., :1]], -1)
    made = cifar(transform=transforms.Compose([transforms.RandomHorizontalFlip(), PLAIN]))
    made.data = wide
    both(made)


@case
def results_of_all_kinds() -> None:
    class Two:
        def __init__(self, step: Any) -> None:
            self.step = step

        def __call__(self, image: Any) -> Any:
            return [self.step(image), self.step(image)]

    flip = transforms.RandomHorizontalFlip()
    both(cifar(transform=Two(CROPPED)))
    both(with_step(transforms.FiveCrop(8), transforms.Lambda(lambda crops: torch.stack([PLAIN(crop) for crop in crops]))))
    both(with_step(flip, transforms.Lambda(lambda image: np.array(image))))
    both(with_step(flip, np.asarray))
    both(with_step(PLAIN, lambda x: x.permute(1, 2, 0)))
    both(with_step(PLAIN, lambda x: x.mean().item()))
    both(with_step(PLAIN, lambda x: {"image": x, "mean": x.mean()}))
    both(with_step(PLAIN, lambda x: x.to(memory_format=torch.contiguous_format)[:, ::2, 1:]))
    both(with_step(PLAIN, lambda x: x[:1].expand(3, -1, -1)))
    both(with_step(PLAIN, lambda x: x.requires_grad_()))
    both(with_step(PLAIN, lambda x: x.to_sparse()))
    both(with_step(PLAIN, lambda x: x.to(torch.complex64)))
    both(with_step(PLAIN, lambda x: x.double()))
    both(with_step(PLAIN, torch.flatten))
    both(with_step(PLAIN, torch.nn.Flatten(0)))
    both(with_step(PLAIN, torch.nn.Dropout(0.5)))
    both(with_step(v2.ToImage()))
    both(with_step(v2.ToImage(), v2.RandomHorizontalFlip(), v2.ToDtype(torch.float32, scale=True), v2.ToPureTensor()))
    both(cifar(transform=torch.nn.Sequential(v2.RandomHorizontalFlip(), v2.PILToTensor())))
    both(cifar(transform=PLAIN))
    both(cifar(transform=transforms.PILToTensor()))
    both(cifar(transform=v2.Compose([v2.RandomCrop(12), v2.ToTensor()])))


@case
def indices_of_all_kinds() -> None:
    for sampler in (
        np.arange(90),
        torch.arange(90),
        SubsetRandomSampler(np.arange(90)),
        SubsetRandomSampler(torch.arange(90)),
        np.arange(90, dtype=np.uint8),
    ):
        for workers in (0, 2):
            run(DataLoader(cifar(), 5, sampler=sampler, num_workers=workers))
    for batches in (
        np.arange(90).reshape(18, 5),
        torch.arange(90).reshape(18, 5),
        [tuple(range(i, i + 5)) for i in range(60)],
        [range(i, i + 4) for i in range(40)],
        [[]] * 12,
    ):
        for workers in (0, 2):
            run(DataLoader(cifar(), batch_sampler=batches, num_workers=workers))


def painted(image: Any) -> Any:
    """Draws on the picture itself."""
    ImageDraw.Draw(image).rectangle((2, 2, 9, 9), fill=(255, 0, 0))
    return image


def filled(image: torch.Tensor) -> torch.Tensor:
    """Writes into its argument."""
    image[:, :4] = 0
    return image.mul_(2)


@case
def written_in_place() -> None:
    """Transforms that write into what they are given must not reach what is kept."""
    square = transforms.CenterCrop(16)
    both(pictures(transform=transforms.Compose([painted, square, PLAIN])))
    both(pictures(transform=transforms.Compose([square, painted, transforms.RandomHorizontalFlip(), PLAIN])))
    both(pictures(transform=transforms.Compose([square, transforms.PILToTensor(), filled])))
    both(with_step(transforms.PILToTensor(), filled))
    both(with_step(PLAIN, transforms.Normalize((0.5,) * 3, (0.5,) * 3, inplace=True), filled, transforms.RandomErasing(1.0, inplace=True)))
    both(cifar(transform=transforms.Compose([painted, PLAIN])))


@case
def odd_tensors() -> None:
    base = torch.arange(90 * 12.0).reshape(90, 12)
    made: list[Any] = [
        (base[:, ::2],),
        (base.t()[:90],),
        (base[:1].expand(90, 12),),
        (torch.zeros(90, 0), torch.zeros(90)),
        (base.to(torch.complex64),),
        (base.requires_grad_(),),
        (base.detach().reshape(90, 3, 2, 2).to(memory_format=torch.channels_last),),
        (torch.nn.Parameter(base.detach().clone(), requires_grad=False),),
        (base.detach().to_sparse(),),
        (torch.quantize_per_tensor(base.detach(), 0.1, 10, torch.quint8),),
        (base.detach().neg(),),
        (torch.rand(90), torch.rand(90, 1), torch.rand(90, 1, 1, 1, 1, 1)),
        (torch.arange(90).to(torch.uint16),),
        (base.detach().to(torch.float8_e4m3fn),),
        (base.detach().as_subclass(torchvision.tv_tensors.Mask),),
        (base.detach().numpy(), torch.arange(90)),
        (torch.arange(90),),
    ]
    for tensors in made:
        try:
            data = TensorDataset(*tensors)
        except Exception as error:
            say(type(error).__name__, error)
            continue
        for workers in (0, 1):
            loader = DataLoader(data, 4, shuffle=True, num_workers=workers)
            try:
                for batch in loader:
                    dense = [part for part in batch if not part.is_quantized and not part.is_sparse]
                    say(*((type(part).__name__, part.dtype, part.requires_grad) for part in batch))
                    say(*(part.stride() for part in dense), digest([part.detach().float() for part in dense]))
            except Exception as error:
                say(type(error).__name__, str(error).splitlines()[-1][:100])
            say(states())


class Transformed(Subset):
    """The subset with a transform of its own that everybody writes."""

    def __init__(self, dataset: Any, indices: Any, transform: Any) -> None:
        super().__init__(dataset, indices)
        self.transform = transform

    def __getitem__(self, index: Any) -> Any:
        image, label = self.dataset[self.indices[index]]
        return self.transform(image), label

    def __getitems__(self, indices: Any) -> Any:
        return [self[index] for index in indices]


class Wrapped(Dataset):
    """A data set around another."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __getitem__(self, index: int) -> Any:
        return (*self.inner[index], index)

    def __len__(self) -> int:
        return len(self.inner)


@case
def wrappers() -> None:
    both(Transformed(cifar(transform=None), range(60), CROPPED))
    both(Wrapped(cifar()))
    both(ConcatDataset([cifar(), Transformed(cifar(transform=None), range(30), CROPPED)]))
    both(torchvision.datasets.wrap_dataset_for_transforms_v2(cifar(transform=v2.ToImage())))
    for indices in (
        np.arange(50),
        torch.arange(50),
        range(50),
        [np.int64(i) for i in range(50)],
        tuple(range(50)),
        [torch.tensor(i) for i in range(50)],
        [-1, -2] * 25,
    ):
        both(Subset(cifar(), indices))


if __name__ == "__main__":
    main()
