"""Data set classes as scripts write them: image files whose names, labels and transforms are kept in every way that is found in the wild."""

from __future__ import annotations

import csv
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset
from torchvision import datasets, transforms
from torchvision.datasets.folder import default_loader

ENDING = ".jpg"
SEEN: list[Any] = []
STEPS = (transforms.RandomResizedCrop(16), transforms.RandomHorizontalFlip(), transforms.ToTensor())


class Listed(Dataset):
    """What most of them share."""

    def __init__(self, root: Path, transform: Any = None) -> None:
        self.root, self.transform = str(root), transform
        self.names = sorted(os.listdir(root))
        self.paths = [os.path.join(root, name) for name in self.names]
        self.labels = [number % 5 for number in range(len(self.names))]
        self.samples = list(zip(self.paths, self.labels, strict=True))
        self.array = np.array(self.labels)
        self.classes = list("abcde")
        self.by_name = dict(zip(self.names, self.labels, strict=True))
        self.target_transform = None
        self.cache: dict[int, Any] = {}
        self.count = 0

    def __len__(self):
        return len(self.names)


class Paths(Listed):
    def __getitem__(self, index):
        image = Image.open(self.paths[index]).convert("RGB")
        if self.transform:
            image = self.transform(image)
        return image, self.labels[index]


class Tutorial(Listed):
    """PyTorch's own tutorial, with Pillow."""

    def __getitem__(self, idx):
        """Return a sample."""
        if torch.is_tensor(idx):
            idx = idx.tolist()
        img_name = os.path.join(self.root, self.names[idx])
        image = Image.open(img_name)
        image = image.convert("RGB")
        label = self.by_name[self.names[idx]]
        label = torch.tensor(label, dtype=torch.long)
        if self.transform is not None:
            image = self.transform(image)
        if self.target_transform is not None:
            label = self.target_transform(label)
        return (image, label)


class Opened(Listed):
    """With `open`, as torchvision's `pil_loader` does, in a method."""

    def load(self, path, mode="RGB"):
        with open(path, "rb") as file:
            img = Image.open(file)
            return img.convert(mode)

    def __getitem__(self, index: int):
        path, target = self.samples[index]
        sample = self.load(path)
        sample = self.transform(sample) if self.transform is not None else sample
        return sample, int(target)


class Named(Listed):
    """The label is in the file's name."""

    def __getitem__(self, i):
        name = Path(self.root) / self.names[i]
        number = int(self.names[i].split(".")[0]) % 3
        label = 1.0 if number == 1 and not self.names[i].endswith("jpeg") else 0.0
        with Image.open(name) as picture:
            picture = picture.convert("L")
        return self.transform(picture), np.array([label, float(number)], dtype=np.float32)


class Unconverted(Listed):
    """The files' own mode."""

    def __getitem__(self, index):
        path = f"{self.root}/{int(self.names[index][:-4])}" + ENDING
        img = self.transform(Image.open(path))
        assert len(self.names) > index, "too far"
        return [img, self.array[index]]


class Inherited(datasets.ImageFolder):
    """Says more than ImageFolder does, by what ImageFolder does."""

    def __getitem__(self, index):
        image, label = super().__getitem__(index)
        label = self.classes.index(self.classes[label]) + 10 * (index % 2)
        return image, label


def pil_loader(path):
    with open(path, mode="rb") as f, Image.open(f) as img:
        return img.convert("RGB")


class Kaggle(Listed):
    """Keeps its length as it is asked for it; the label is found by a function."""

    def __len__(self):
        self.filelength = len(self.paths)
        return self.filelength

    def __getitem__(self, idx):
        path = self.paths[idx]
        image = Image.open(path).convert("RGB")
        image = self.transform(image)
        return {"image": image, "label": extract_label(path)}


def extract_label(fname):
    stem = fname.split(os.path.sep)[-1]
    return int(re.search(r"^(\d+)\.jpg$", stem).groups()[0])


class Measured(Listed):
    """Arrays and tensors beside the image."""

    def __getitem__(self, index):
        corners = np.array([0.5, float(index)])
        return self.transform(Image.open(self.paths[index]).convert("RGB")), (corners, torch.tensor([index]), self.array[index], b"x")


class OwnFunction(Listed):
    def __init__(self, root: Path, transform: Any = None, loader: Any = pil_loader) -> None:
        super().__init__(root, transform)
        self.loader = loader

    def __getitem__(self, index):
        img = self.loader(self.paths[index])
        if self.transform is None:
            raise ValueError("no transform")
        return self.transform(img), -self.labels[index]


class Default(Listed):
    def __getitem__(self, index):
        sample = default_loader(self.paths[index])
        return self.transform(sample), self.labels[index] if index > 3 else 7


class Texts(Listed):
    def __getitem__(self, index):
        return self.transform(Image.open(self.paths[index]).convert("RGB")), self.names[index]


class Triple(Listed):
    """Index and file beside image and label."""

    def __getitem__(self, index):
        path, label = self.samples[index]
        image = Image.open(path).convert("RGB")
        if self.transform:
            image = self.transform(image)
        return image, label, os.path.basename(path), index


class Copied(Listed):
    def __init__(self, root, transform=None):
        super().__init__(root, transform)
        self.tensors = torch.tensor(self.labels)

    def __getitem__(self, index):
        image = self.transform(Image.open(self.paths[index]).convert("RGB"))
        return image, torch.tensor(self.tensors[index], dtype=torch.float32)


class Keyed(Listed):
    def __getitem__(self, idx):
        sample = {"image": Image.open(self.paths[idx]).convert("RGB"), "label": self.labels[idx], "id": self.names[idx]}
        return {"id": sample["id"], "pixel_values": self.transform(sample["image"]), "meta": {"labels": (sample["label"], 0.5)}}


class Alone(Listed):
    """For generation: no label."""

    def __getitem__(self, index):
        return self.transform(Image.open(self.paths[index]).convert("RGB"))


class WithPath(datasets.ImageFolder):
    """Found in many gists."""

    def __getitem__(self, index):
        original_tuple = super(WithPath, self).__getitem__(index)  # noqa: UP008
        path = self.imgs[index][0]
        tuple_with_path = original_tuple + (path,)  # noqa: RUF005 (as it is written everywhere)
        return tuple_with_path


FOLLOWED = [
    Kaggle,
    Measured,
    Paths,
    Tutorial,
    Opened,
    Named,
    Unconverted,
    Inherited,
    OwnFunction,
    Default,
    Texts,
    Triple,
    Copied,
    Keyed,
    Alone,
    WithPath,
]


class Counts(Paths):
    def __getitem__(self, index):
        self.count += 1
        return super().__getitem__(index)


class Caches(Listed):
    def __getitem__(self, index):
        if index not in self.cache:
            self.cache[index] = Image.open(self.paths[index]).convert("RGB")
        return self.transform(self.cache[index]), self.labels[index]


class Prints(Listed):
    def __getitem__(self, index):
        if index == 1000:
            print("never")
        return self.transform(Image.open(self.paths[index]).convert("RGB")), self.labels[index]


class Draws(Listed):
    def __getitem__(self, index):
        other = torch.randint(0, len(self.paths), (1,)).item()
        return self.transform(Image.open(self.paths[other]).convert("RGB")), self.labels[index]


class Appends(Listed):
    def __getitem__(self, index):
        SEEN.append(index)
        return self.transform(Image.open(self.paths[index]).convert("RGB")), self.labels[index]


class TriesAgain(Listed):
    def __getitem__(self, index):
        try:
            return self.transform(Image.open(self.paths[index]).convert("RGB")), self.labels[index]
        except OSError:
            return self[index + 1]


class Pixels(Listed):
    def __getitem__(self, index):
        image = np.array(Image.open(self.paths[index]).convert("RGB"))
        return self.transform(Image.fromarray(255 - image)), self.labels[index]


class Rows(Listed):
    """Reads its table at every sample."""

    def __getitem__(self, index):
        with open(self.root + "/../table.csv") as file:
            row = list(csv.reader(file))[index]
        return self.transform(Image.open(row[0]).convert("RGB")), int(row[1])


class Quarrels(Listed):
    """Its attributes are made when they are asked for."""

    def __getattr__(self, name):
        raise AttributeError(name)

    def __getitem__(self, index):
        return self.transform(Image.open(self.paths[index]).convert("RGB")), self.labels[index]


class Computes(Listed):
    @property
    def files(self):
        SEEN.append(1)
        return self.paths

    def __getitem__(self, index):
        return self.transform(Image.open(self.files[index]).convert("RGB")), self.labels[index]


class Closed(Listed):
    """The file is closed before it is read."""

    def __getitem__(self, index):
        with open(self.paths[index], "rb") as file:
            image = Image.open(file)
        return self.transform(image), self.labels[index]


class Ends(Paths):
    def __del__(self):
        SEEN.append("ended")


DECLINED = {
    Counts: r"Counts is the script's own class: its __getitem__ changes self.count \(boost_own_data.py:\d+\)",
    Caches: r"changes self.cache\[index\] \(",
    Prints: r"calls print \(boost_own_data.py:\d+\)",
    Draws: r"calls torch.randint \(",
    Appends: r"calls SEEN.append \(",
    TriesAgain: r"has `try:` in it \(",
    Pixels: r"calls Image.fromarray \(",
    Rows: r"has `open\(self.root .* in it \(",
    Quarrels: "it has its own __getattr__",
    Computes: "it computes its attribute files",
    Closed: r"file is closed \(",
    Ends: "it has its own __del__",
}
"""Classes that are not followed, and why."""
