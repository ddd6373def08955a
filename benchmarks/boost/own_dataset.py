"""A data set of the script's own, as tutorials and Kaggle have it: a list of files and labels, opened with Pillow in `__getitem__`."""

import os

import torch
import torch.nn as nn
import torch.nn.functional as F
import torchvision.transforms as transforms
from _wild import arguments, say_end, say_loss, small_cnn
from PIL import Image
from torch.utils.data import DataLoader, Dataset, random_split


class PhotoDataset(Dataset):
    def __init__(self, root, transform=None):
        self.root = root
        self.classes = sorted(os.listdir(root))
        self.samples = [(name, file) for name in self.classes for file in sorted(os.listdir(os.path.join(root, name)))]
        self.transform = transform

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, idx):
        if torch.is_tensor(idx):
            idx = idx.tolist()
        name, file = self.samples[idx]
        image = Image.open(os.path.join(self.root, name, file)).convert("RGB")
        label = self.classes.index(name)
        if self.transform:
            image = self.transform(image)
        return {"image": image, "label": torch.tensor(label), "file": file}


def main():
    args = arguments(workers=2, size=96)
    torch.manual_seed(0)
    steps = [transforms.RandomResizedCrop(args.size), transforms.RandomHorizontalFlip(), transforms.ToTensor()]
    dataset = PhotoDataset(os.path.join(args.data, "photos"), transforms.Compose(steps))
    train_set, val_set = random_split(dataset, [len(dataset) - len(dataset) // 5, len(dataset) // 5])
    train_loader = DataLoader(train_set, batch_size=16, shuffle=True, num_workers=args.workers)
    val_loader = DataLoader(val_set, batch_size=16, num_workers=args.workers)
    model = small_cnn(len(dataset.classes), args.size)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(args.epochs):
        model.train()
        for batch in train_loader:
            optimizer.zero_grad()
            loss = nn.CrossEntropyLoss()(model(batch["image"]), batch["label"])
            loss.backward()
            optimizer.step()
            say_loss(loss)
        model.eval()
        with torch.no_grad():
            for batch in val_loader:
                print(batch["file"][0], F.cross_entropy(model(batch["image"]), batch["label"]).item().hex())
    say_end(model)


if __name__ == "__main__":
    main()
