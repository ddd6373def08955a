"""Bills of materials, checked with the libraries of both formats."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from stoker.image.component import components, image_purl
from stoker.image.lock import Base
from stoker.image.sbom import cyclonedx, spdx
from tests.image_locks import deb, hashed, lock, stack, universal, wheel

DIGEST = f"sha256:{hashed('base')}"


def locks():
    """Locks of every shape."""
    return {
        "universal": universal(),
        "empty": lock(),
        "on an OCI base": lock(stack("cpu", wheel("torch", "2.13.0"), torch="2.13.0"), base=Base(kind="oci", suite=None, digest=DIGEST, debs=())),
    }


@pytest.mark.parametrize("name", locks())
def test_cyclonedx_is_valid(name):
    validation = pytest.importorskip("cyclonedx.validation.json")
    schema = pytest.importorskip("cyclonedx.schema")
    text = cyclonedx(locks()[name])
    problem = validation.JsonStrictValidator(schema.SchemaVersion.V1_6).validate_str(text)
    assert problem is None, problem


@pytest.mark.parametrize("name", locks())
def test_cyclonedx_is_read_by_its_library(name):
    bom = pytest.importorskip("cyclonedx.model.bom")
    wanted = locks()[name]
    read = bom.Bom.from_json(json.loads(cyclonedx(wanted)))
    assert {str(one.purl) for one in read.components} == {one.purl for one in components(wanted)}
    assert read.metadata.component.version == wanted.digest


@pytest.mark.parametrize("name", locks())
def test_spdx_is_valid(name, tmp_path):
    parser = pytest.importorskip("spdx_tools.spdx.parser.parse_anything")
    validator = pytest.importorskip("spdx_tools.spdx.validation.document_validator")
    path = tmp_path / "bill.spdx.json"
    path.write_text(spdx(locks()[name]))
    document = parser.parse_file(str(path))
    assert validator.validate_full_spdx_document(document) == []
    assert len(document.packages) == len(components(locks()[name])) + 1


def test_the_same_lock_gives_the_same_bytes():
    for form in (cyclonedx, spdx):
        assert form(universal()) == form(universal())
        other = replace(universal(), created=universal().created + 1)
        assert form(other) != form(universal())


def test_the_order_of_rows_changes_nothing():
    wanted = universal()
    turned = replace(wanted, base=replace(wanted.base, debs=wanted.base.debs[::-1]))
    assert json.loads(cyclonedx(turned))["components"] == json.loads(cyclonedx(wanted))["components"]


def test_everything_is_in_it_once():
    said = json.loads(cyclonedx(universal()))
    names = [(one["name"], one["version"]) for one in said["components"]]
    assert sorted(names) == sorted(
        [
            ("base-files", "13.8+deb13u1"),
            ("catatonit", "0.2.1-2"),
            ("libssl3t64", "3.5.1-1"),
            ("vim", "2:9.1.1230-2"),
            ("numpy", "2.4.6"),
            ("torch", "2.13.0"),
            ("torch", "2.13.0+cu126"),
            ("stoker", "0.1.0"),
        ]
    )
    numpy = next(one for one in said["components"] if one["name"] == "numpy")
    assert {"name": "stoker:stacks", "value": "cu126, cu130"} in numpy["properties"]
    assert {"name": "stoker:pruned", "value": "amd, static"} in said["metadata"]["component"]["properties"]
    references = [one["bom-ref"] for one in said["components"]]
    assert len(set(references)) == len(references)


def test_package_urls_are_as_their_specification_says():
    # In a purl of type oci the version is the manifest's digest, which a lock does not know.
    wanted = replace(universal(), name="team/trainer")
    assert image_purl(wanted) == f"pkg:generic/team/trainer@{wanted.digest}"
    purls = {one.purl for one in components(universal())}
    assert "pkg:deb/debian/vim@2:9.1.1230-2?arch=amd64&distro=debian-13" in purls
    assert "pkg:pypi/torch@2.13.0%2Bcu126?file_name=torch-2.13.0%2Bcu126-py3-none-any.whl" in purls


def test_two_architectures_of_a_deb_are_two_components():
    both = lock(debs=(deb("libc6", "2.41-12"), deb("libc6", "2.41-12", architecture="i386", sha256=hashed("i386"))))
    assert len({one.identity for one in components(both) if one.name == "libc6"}) == 2


def test_what_is_not_known_is_said_to_be_incomplete():
    assert json.loads(cyclonedx(locks()["on an OCI base"]))["compositions"][0]["aggregate"] == "incomplete"
    assert json.loads(cyclonedx(universal()))["compositions"][0]["aggregate"] == "complete"
