"""timm's own parts (its train.py is not in the wheel): create_dataset, create_loader with its transforms, create_model, create_optimizer_v2."""

import os

import torch
from _wild import arguments, say_end, say_loss
from timm.data import create_dataset, create_loader
from timm.models import create_model
from timm.optim import create_optimizer_v2
from timm.utils import AverageMeter, accuracy, random_seed


def main():
    args = arguments(workers=2)
    random_seed(42, 0)
    model = create_model("resnet10t", pretrained=False, num_classes=4)
    dataset_train = create_dataset("", root=os.path.join(args.data, "photos"), split="train", is_training=True)
    dataset_eval = create_dataset("", root=os.path.join(args.data, "photos"), split="validation", is_training=False)
    size = (3, 96, 96)
    train = {"is_training": True, "hflip": 0.5, "color_jitter": 0.4, "re_prob": 0.25, "interpolation": "random"}
    loader_train = create_loader(dataset_train, size, 16, use_prefetcher=False, num_workers=args.workers, persistent_workers=True, **train)
    loader_eval = create_loader(dataset_eval, size, 16, is_training=False, use_prefetcher=False, num_workers=args.workers, crop_pct=0.9)
    optimizer = create_optimizer_v2(model, opt="sgd", lr=0.05, momentum=0.9)
    loss_fn = torch.nn.CrossEntropyLoss()
    for _ in range(args.epochs):
        model.train()
        losses = AverageMeter()
        for images, target in loader_train:
            loss = loss_fn(model(images), target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.update(loss.item(), images.size(0))
            say_loss(loss)
        model.eval()
        with torch.inference_mode():
            print("top1", [accuracy(model(images), target, topk=(1,))[0].item() for images, target in loader_eval])
    say_end(model)


if __name__ == "__main__":
    main()
