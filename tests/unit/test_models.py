"""The models: shapes, sizes that fit and do not, the numbers of the whitening, predictions over variants."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from stoker.errors import BadValue, ImageSizeUnfit, MissingExtra, UnknownName
from stoker.train import models
from stoker.train.models import zoo
from stoker.train.models.fit import check_output
from stoker.train.models.speedrun import whitening_filters
from stoker.train.prediction import predict

OWN = list(models.FAMILIES)
WITHOUT_TIMM = pytest.mark.skipif(not zoo.installed(), reason="needs timm")


@pytest.mark.parametrize("name", OWN)
@pytest.mark.parametrize(("channels", "extra"), [(3, 0), (1, 0), (3, 1), (3, 24)])
def test_own_models_give_logits_from_their_smallest_size_on(name: str, channels: int, extra: int) -> None:
    size = models.FAMILIES[name].smallest + extra
    model = models.build(name, classes=7, channels=channels, image_size=size)
    logits = model(torch.randn(5, channels, size, size))
    assert logits.shape == (5, 7)
    logits.sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters() if parameter.requires_grad)


@pytest.mark.parametrize("name", OWN)
def test_a_size_too_small_is_refused_with_one_that_works(name: str) -> None:
    smallest = models.FAMILIES[name].smallest
    with pytest.raises(ImageSizeUnfit) as refusal:
        models.build(name, classes=2, channels=3, image_size=smallest - 1)
    assert name in refusal.value.message
    assert f"image_size={smallest}" in refusal.value.hint


def test_state_dict_keys_are_stable() -> None:
    """Checkpoints of earlier versions have these names."""
    keys = {name: list(models.build(name, classes=10, channels=3, image_size=32).state_dict()) for name in OWN}
    assert keys["small"] == ["conv1.weight", "conv1.bias", "conv2.weight", "conv2.bias", "linear.weight", "linear.bias"]
    assert keys["small1"] == ["conv1.weight", "conv1.bias", "linear.weight", "linear.bias"]
    assert keys["digits"][:2] == ["conv1.weight", "norm1.weight"]
    assert keys["speedrun"][:3] == ["whiten.weight", "whiten.bias", "groups.0.conv1.weight"]
    assert keys["speedrun"][-1] == "head.weight"


def test_resnet18_has_the_names_and_shapes_of_torchvisions() -> None:
    torchvision = pytest.importorskip("torchvision", reason="needs torchvision")
    theirs = torchvision.models.resnet18(num_classes=10)
    ours = models.build("resnet18", classes=10, channels=3, image_size=224)
    ours.load_state_dict(theirs.state_dict())
    images = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        assert torch.allclose(ours.eval()(images), theirs.eval()(images), atol=1e-5)


def test_resnet18_keeps_the_resolution_of_small_images() -> None:
    assert models.build("resnet18", classes=10, channels=3, image_size=32).conv1.stride == (1, 1)  # type: ignore[union-attr]
    assert models.build("resnet18", classes=10, channels=3, image_size=32, options={"stem": "large"}).conv1.stride == (2, 2)  # type: ignore[union-attr]


def test_relu_after_the_pool_gives_the_numbers_of_the_usual_order() -> None:
    model = models.build("small", classes=10, channels=3, image_size=32)
    images = torch.randn(4, 3, 32, 32)
    hidden = F.max_pool2d(F.relu(model.conv1(images)), 2)  # type: ignore[operator]
    hidden = F.max_pool2d(F.relu(model.conv2(hidden)), 2)  # type: ignore[operator]
    assert torch.equal(model(images), model.linear(hidden.flatten(1)))  # type: ignore[operator]


def test_unknown_models_and_options_name_the_nearest() -> None:
    with pytest.raises(UnknownName, match="no option 'stm'") as refusal:
        models.build("resnet18", classes=10, channels=3, image_size=32, options={"stm": "small"})
    assert "'stem'" in refusal.value.hint
    with pytest.raises(BadValue, match="stem"):
        models.build("resnet18", classes=10, channels=3, image_size=32, options={"stem": "huge"})
    with pytest.raises(BadValue, match="image_size"):
        models.build("small", classes=10, channels=3, image_size=0)
    with pytest.raises(BadValue, match="speedrun"):
        models.build("speedrun", classes=10, channels=3, image_size=32, options={"widths": ()})


@WITHOUT_TIMM
def test_timm_models_and_their_refusals() -> None:
    with pytest.raises(UnknownName) as unknown:
        models.build("resnet5O", classes=10, channels=3, image_size=32)
    assert "'resnet50'" in unknown.value.hint
    with pytest.raises(UnknownName, match="timm has no model"):
        models.build("timm:resnt18", classes=10, channels=3, image_size=32)
    model = models.build("resnet10t", classes=4, channels=1, image_size=64)
    assert model(torch.randn(2, 1, 64, 64)).shape == (2, 4)
    assert model.training
    assert type(models.build("timm:resnet18", classes=4, channels=3, image_size=32)).__module__.startswith("timm")
    with pytest.raises(BadValue, match="foo"):
        models.build("resnet10t", classes=4, channels=3, image_size=32, options={"foo": 1})
    with pytest.raises(ImageSizeUnfit) as unfit:
        models.build("resnet10t", classes=4, channels=3, image_size=8)
    assert "image_size=32" in unfit.value.hint


@WITHOUT_TIMM
def test_a_transformer_is_made_for_the_image_size() -> None:
    model = models.build("vit_tiny_patch16_224", classes=4, channels=3, image_size=32)
    assert model(torch.randn(2, 3, 32, 32)).shape == (2, 4)
    with pytest.raises(ImageSizeUnfit) as refusal:
        models.build("vit_tiny_patch16_224", classes=4, channels=3, image_size=8)
    assert "image_size=224" in refusal.value.hint


def test_without_timm_its_models_are_a_missing_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zoo, "installed", lambda: False)
    with pytest.raises(MissingExtra, match="timm"):
        models.build("resnet50", classes=10, channels=3, image_size=32)
    assert models.build("small", classes=10, channels=3, image_size=32) is not None


def test_a_model_that_is_no_classifier_is_refused_and_left_as_it_was() -> None:
    body = nn.Sequential(nn.Conv2d(3, 4, 5), nn.BatchNorm2d(4))
    with pytest.raises(BadValue, match="no classifier"):
        check_output("body", body, classes=4, channels=3, image_size=8)
    with pytest.raises(ImageSizeUnfit) as refusal:
        check_output("body", body, classes=4, channels=3, image_size=4)
    assert "image_size=8" in refusal.value.hint
    assert body.training
    assert int(body[1].num_batches_tracked) == 0  # type: ignore[arg-type]


def test_whitening_makes_patches_uncorrelated() -> None:
    torch.manual_seed(0)
    images = F.avg_pool2d(torch.randn(200, 3, 18, 18), 3, stride=1)  # neighbours are alike, as in photographs
    model = models.build("speedrun", classes=10, channels=3, image_size=16)
    state = torch.get_rng_state()
    model.prepare(images)  # type: ignore[operator]
    assert torch.equal(state, torch.get_rng_state())
    responses = F.conv2d(images, model.whiten.weight)[:, :12]  # type: ignore[union-attr, arg-type]
    flat = responses.permute(1, 0, 2, 3).flatten(1)
    second_moments = flat @ flat.T / flat.shape[1]
    assert torch.allclose(second_moments, torch.diag(second_moments.diagonal()), atol=1e-2)
    assert torch.allclose(second_moments.diagonal(), torch.ones(12), atol=0.1)
    assert torch.equal(model.whiten.weight[12:], -model.whiten.weight[:12])  # type: ignore[union-attr, index]
    assert torch.isfinite(whitening_filters(torch.zeros(4, 3, 8, 8))).all()


def test_predictions_over_variants_are_averages() -> None:
    class Corner(nn.Module):
        def forward(self, images_NCHW: torch.Tensor) -> torch.Tensor:
            return images_NCHW[:, :, 1, 1]

    images = torch.arange(32.0).reshape(2, 1, 4, 4)
    corner = Corner()
    assert torch.equal(predict(corner, images, "none"), images[:, :, 1, 1])
    flip = (images[:, :, 1, 1] + images[:, :, 1, 2]) / 2
    assert torch.equal(predict(corner, images, "flip"), flip)
    up_left = (images[:, :, 0, 0] + images[:, :, 0, 1]) / 2  # the image moved down and right: its corner stands at 1, 1
    down_right = (images[:, :, 2, 2] + images[:, :, 2, 3]) / 2
    assert torch.allclose(predict(corner, images, "flip+shift"), flip / 2 + (up_left + down_right) / 4)
    with pytest.raises(UnknownName, match="flp"):
        predict(corner, images, "flp")
