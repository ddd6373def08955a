"""Recipes: the one door to change them, and what is answered to a wrong key or value."""

from __future__ import annotations

import dataclasses

import pytest

from stoker.errors import BadValue, UnknownName
from stoker.train.recipe import Recipe, field_notes
from stoker.train.recipes import RECIPES, recipe


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_called_what_the_list_calls_it_and_survives_its_record(name: str) -> None:
    made = recipe(name)
    assert made.name == name
    assert Recipe.from_dict(made.as_dict()) == made
    assert RECIPES[name].__doc__


def test_every_key_has_a_note() -> None:
    assert set(field_notes()) == {field.name for field in dataclasses.fields(Recipe)}


def test_assignments_are_parsed_by_type_and_the_last_one_wins() -> None:
    made = recipe("cifar10.small").changed(["epochs=3", "learning-rate=1e-2", "nesterov=yes", "mean=0.1, 0.2,0.3", "epochs=7"])
    assert (made.epochs, made.learning_rate, made.nesterov, made.mean) == (7, 0.01, True, (0.1, 0.2, 0.3))


@pytest.mark.parametrize(
    ("assignment", "kind", "told"),
    [
        ("epoch=3", UnknownName, "epochs"),
        ("batchsize=3", UnknownName, "batch_size"),
        ("name=x", UnknownName, ""),
        ("epochs", BadValue, "epochs=VALUE"),
        ("epochs=three", BadValue, "--show"),
        ("epochs=0", BadValue, "epochs"),
        ("epochs=1.5", BadValue, ""),
        ("learning_rate=nan", BadValue, ""),
        ("learning_rate=inf", BadValue, ""),
        ("optimizer=sdg", BadValue, "sgd"),
        ("nesterov=perhaps", BadValue, "nesterov=yes"),
        ("mean=0.5,0.5", BadValue, "mean="),
        ("std=0,1,1", BadValue, "std="),
        ("test_fraction=1", BadValue, ""),
    ],
)
def test_a_wrong_assignment_is_refused_with_what_to_write(assignment: str, kind: type, told: str) -> None:
    with pytest.raises(kind) as caught:
        recipe("cifar10.small").changed([assignment])
    assert told in caught.value.hint


def test_an_unknown_recipe_names_the_nearest() -> None:
    with pytest.raises(UnknownName, match=r"cifar10\.smal") as caught:
        recipe("cifar10.smal")
    assert "cifar10.small" in caught.value.hint


def test_a_record_of_another_version_is_refused() -> None:
    values = recipe("digits").as_dict()
    del values["model"]
    with pytest.raises(BadValue):
        Recipe.from_dict(values)
