"""Any tree of class folders with any model."""

from stoker.train.recipe import Recipe


def folder() -> Recipe:
    """Your own images, a folder a class, with any timm model: AdamW, cosine, random resized crops of 224 pixels."""
    return Recipe(
        name="folder",
        dataset="folder",
        resident=False,
        image_size=224,
        # Of ImageNet, by convention of every model zoo (torchvision.transforms documentation).
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        flip="random",
        model="resnet50",
        epochs=30,
        batch_size=64,
        eval_batch_size=128,
        optimizer="adamw",
        learning_rate=1e-3,
        weight_decay=0.05,
        schedule="cosine",
        warmup_epochs=2,
        label_smoothing=0.1,
    )
