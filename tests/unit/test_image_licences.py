"""Licences: SPDX identifiers where a package declares one, its own words with their text where it does not, and never a guess."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from stoker.catalog.tables import rows
from stoker.cli.image.sbom import sbom as command
from stoker.image.described import describe
from stoker.image.licence import TABLE, identifiers, spdx_expression
from stoker.image.licence_debian import licence_of_copyright
from stoker.image.licence_metadata import licence_of_metadata
from stoker.image.licences import OWN
from stoker.image.lock import write_lock
from stoker.image.sbom import cyclonedx, spdx
from tests.image_layouts import TinyImage
from tests.image_locks import deb, lock, stack, wheel

IMAGE = Path(__file__).parents[2] / "src" / "stoker" / "image"
HEAD = "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\nUpstream-Name: it\n"
MIT, ISC = (f"License :: OSI Approved :: {name}" for name in ("MIT License", "ISC License (ISCL)"))
SITE = "opt/stoker/cu130/lib/python3.13/site-packages"


def declared(*fields: str, files: dict[str, str] | None = None):
    """The expression of a METADATA with these fields."""
    found = licence_of_metadata("\n".join(["Metadata-Version: 2.4", "Name: it", *fields, "", "Text"]), files or {})
    return found and found.expression


def debian(*paragraphs: str):
    """The licence of a copyright file."""
    return licence_of_copyright("\n\n".join([HEAD.strip(), *paragraphs]), package="it", source="there")


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("mit", "MIT"),
        ("Apache-2.0 OR bsd-3-clause", "Apache-2.0 OR BSD-3-Clause"),
        ("(MIT and 0BSD) or GPL-2.0-or-later with Classpath-exception-2.0", "(MIT AND 0BSD) OR GPL-2.0-or-later WITH Classpath-exception-2.0"),
        ("Apache-1.0+", "Apache-1.0+"),
        *(
            (text, None)
            for text in ("", "MIT OR", "MIT,0BSD", "(MIT", "MIT)", "MIT MIT", "BSD", "GPL", "MIT WITH MIT", "MIT 0BSD", "(" * 3000, "Ünlizenz")
        ),
    ],
)
def test_an_expression_is_read_whole_or_not_at_all(text, wanted):
    assert spdx_expression(text) == wanted


@given(st.text(alphabet="()+ -.MITANDORWITH0BSD\n\tü,/", max_size=60))
def test_what_is_taken_for_an_expression_is_one(text):
    said = spdx_expression(text)
    assert said is None or spdx_expression(said) == said


def test_identifiers_are_those_that_both_formats_know():
    schema = pytest.importorskip("cyclonedx.schema")
    known = json.loads((Path(schema.__file__).parent / "_res" / "spdx.SNAPSHOT.schema.json").read_text())["enum"]
    licences, _ = identifiers()
    assert set(licences.values()) <= set(known)
    symbols = pytest.importorskip("license_expression").get_spdx_licensing().known_symbols
    assert set(licences.values()) <= set(symbols)


def test_the_table_names_what_spdx_has():
    licences = set(identifiers()[0].values())
    for row in rows(TABLE, "classifier", IMAGE):
        assert row.text("licence") in licences
    for row in rows(TABLE, "debian", IMAGE):
        versions = row.texts("versions") or ("",)
        assert {one.format(version) for one in (row.text("licence"), row.maybe_text("later")) if one for version in versions} <= licences


@pytest.mark.parametrize(
    ("fields", "wanted"),
    [
        (["License-Expression: Apache-2.0 OR mit"], "Apache-2.0 OR MIT"),
        # The newer field decides, whatever the older ones say.
        (["License-Expression: MIT", "License: Apache-2.0", "Classifier: License :: OSI Approved :: BSD License"], "MIT"),
        (["License: BSD-3-Clause"], "BSD-3-Clause"),
        (["Classifier: License :: OSI Approved", "Classifier: License :: OSI Approved :: MIT License"], "MIT"),
        (["License: see LICENSE", "Classifier: License :: OSI Approved :: ISC License (ISCL)"], "ISC"),
        (["License: UNKNOWN"], None),
        ([], None),
        # A licence without a version, two classifiers and a contradiction: PEP 639 forbids to infer.
        (["Classifier: License :: OSI Approved :: Apache Software License"], "LicenseRef-Apache-Software-License-"),
        (["License: BSD"], "LicenseRef-BSD-"),
        (
            ["Classifier: License :: OSI Approved :: MIT License", "Classifier: License :: OSI Approved :: ISC License (ISCL)"],
            "LicenseRef-ISC-License-ISCL-",
        ),
        (["License: MIT", "Classifier: License :: OSI Approved :: ISC License (ISCL)"], "LicenseRef-MIT-"),
        (["License: All of this", "        is the text.", "Classifier: License :: OSI Approved :: BSD License"], "LicenseRef-BSD-License-"),
        (["License-Expression: LicenseRef-NVIDIA-Proprietary"], "LicenseRef-NVIDIA-Proprietary-"),
    ],
)
def test_a_wheel_is_taken_at_its_word(fields, wanted):
    found = declared(*fields)
    assert found == wanted if wanted is None or not wanted.endswith("-") else re.fullmatch(re.escape(wanted) + "[0-9a-f]{8}", found)


def test_the_text_of_a_licence_comes_along():
    found = licence_of_metadata("Name: it\nLicense: NVIDIA Proprietary Software\n", {"License.txt": "You may not.\n"})
    assert list(found.texts.values()) == ["NVIDIA Proprietary Software\n\nYou may not."]
    alone = licence_of_metadata("Name: it\n", {"LICENSE": "Do as you like.\n"})
    assert list(alone.texts.values()) == ["Do as you like."]
    assert licence_of_metadata("Name: it\n", {"LICENSE": "\n"}) is None
    other = licence_of_metadata("Name: it\nLicense: NVIDIA Proprietary Software\n", {"License.txt": "You may.\n"})
    assert other.expression != found.expression


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("Expat", "MIT"),
        ("GPL-2+", "GPL-2.0-or-later"),
        ("gpl-3.0.0", "GPL-3.0-only"),
        ("LGPL-2.1", "LGPL-2.1-only"),
        ("GFDL-NIV-1.3+", "GFDL-1.3-no-invariants-or-later"),
        ("BSD-3-clause", "BSD-3-Clause"),
        ("BSL-1.0", "BSL-1.0"),
        ("CC-BY-SA-4.0", "CC-BY-SA-4.0"),
        ("GPL-2 or BSD-2-clause and ISC", "GPL-2.0-only OR BSD-2-Clause AND ISC"),
        *(
            (name, None)
            for name in ("GPL", "GPL-9", "MIT", "X11", "Artistic-1", "Apache-2.0+", "BSD-4-clause", "GPL-2+ with OpenSSL exception", "ISC, or GPL-2")
        ),
    ],
)
def test_short_names_of_debian(name, wanted):
    found = debian(f"Files: *\nCopyright: nobody\nLicense: {name}\n The text.")
    if wanted:
        assert (found.expression, found.texts) == (wanted, {})
    else:
        assert found.expression.startswith("LicenseRef-")
        assert list(found.texts.values()) == ["The text."]


def test_all_of_a_packages_files_count():
    paragraphs = [
        "Files: *\nLicense: GPL-2+",
        "Files: lib/*\nLicense: Expat or GPL-2+",
        "Files: old/*\nLicense: odd",
        "License: odd\n First.\n .\n Last.",
    ]
    found = debian(*paragraphs)
    name = next(iter(found.texts))
    assert found.expression == f"GPL-2.0-or-later AND (MIT OR GPL-2.0-or-later) AND {name}"
    assert found.texts[name] == "First.\n.\nLast."
    # The head speaks for the package as a whole.
    assert licence_of_copyright(f"{HEAD}License: ISC\n\n{paragraphs[0]}", package="it", source="there").expression == "ISC"


def test_a_copyright_file_for_people_is_passed_on_whole():
    for text in ("It is under the GPL-2+.\n", HEAD, f"{HEAD}\nFiles: *\nCopyright: nobody\n", f"{HEAD}\nFiles: *\nLicense:\n"):
        found = licence_of_copyright(text, package="it", source="there")
        assert re.fullmatch("LicenseRef-it-copyright-[0-9a-f]{8}", found.expression)
        assert list(found.texts.values()) == [text]
    assert licence_of_copyright("\n", package="it", source="there") is None


@given(st.text(alphabet="Files:License*\n .GPL-2+orand,ü", max_size=200))
def test_any_copyright_file_is_read(text):
    for whole in (text, HEAD + text):
        found = licence_of_copyright(whole, package="it", source="there")
        assert (found is None) == (not whole.strip())


def built():
    """A lock, and the image of it with licences in every form."""
    wanted = lock(
        stack("cu130", wheel("numpy", "2.4.6"), wheel("odd", "1.0"), wheel("silent", "1.0"), cuda="13.0"),
        debs=(
            deb("bash", "5.2"),
            deb("gcc-14-base", "14.2.0-19", source="gcc-14"),
            deb("libgcc-s1", "14.2.0-19+b1", source="gcc-14"),
            deb("tiny", "1"),
            deb("linked", "1", source="tiny"),
        ),
    )
    image = TinyImage(wanted)
    for name, version, text in (("numpy", "2.4.6", "License-Expression: BSD-3-Clause AND MIT"), ("odd", "1.0", "License: ask me")):
        image.add(f"{SITE}/{name}-{version}.dist-info/METADATA", f"Name: {name.title()}\nVersion: {version}\n{text}\n")
    image.add(f"{SITE}/odd-1.0.dist-info/licenses/LICENSE", "Ask first.")
    # Another package's, which setuptools and others carry inside themselves.
    image.add(f"{SITE}/odd/_vendor/silent-1.0.dist-info/METADATA", "Name: silent\nLicense: MIT\n")
    image.add("usr/share/doc/bash/copyright", f"{HEAD}\nFiles: *\nLicense: GPL-3+\n")
    image.add("usr/share/doc/gcc-14-base/copyright", "The GPL, and exceptions.\n")
    image.add("usr/share/doc/tiny/copyright", f"{HEAD}\nFiles: *\nLicense: ISC\n")
    image.link("usr/share/doc/linked", "tiny")
    return wanted, image


def test_a_licence_that_shall_be_read_for_hours_is_passed_on_unread():
    """A pattern that begins with blanks tries each of them: on a million that is 10^12 steps."""
    blanks = "MIT" + " " * 1_000_000 + "x"
    assert spdx_expression(blanks) is None
    assert list(debian(f"Files: *\nLicense: {blanks}").texts.values()) == [blanks]


def test_an_image_tells_its_licences(tmp_path):
    wanted, image = built()
    found = describe(str(image.write(tmp_path / "image.oci")))
    assert found.lock.digest == wanted.digest
    said = {identity.rpartition("-")[0]: licence.expression for identity, licence in found.licences.items()}
    assert said["generic-stoker"] == OWN.expression
    assert (said["pypi-numpy"], said["deb-bash"], said["deb-tiny"], said["deb-linked"]) == ("BSD-3-Clause AND MIT", "GPL-3.0-or-later", "ISC", "ISC")
    assert said["pypi-odd"].startswith("LicenseRef-ask-me-")
    # dpkg left out the link to the folder of another package of the same source.
    assert said["deb-libgcc-s1"] == said["deb-gcc-14-base"]
    assert "pypi-silent" not in said


def test_both_formats_are_valid_with_licences(tmp_path):
    validation, schema = pytest.importorskip("cyclonedx.validation.json"), pytest.importorskip("cyclonedx.schema")
    parser, validator = (pytest.importorskip(f"spdx_tools.spdx.{name}") for name in ("parser.parse_anything", "validation.document_validator"))
    wanted, image = built()
    licences = describe(str(image.write(tmp_path / "image.oci"))).licences
    text = cyclonedx(wanted, licences)
    assert validation.JsonStrictValidator(schema.SchemaVersion.V1_6).validate_str(text) is None
    said = {one["name"]: one.get("licenses") for one in json.loads(text)["components"]}
    assert said["bash"] == [{"license": {"id": "GPL-3.0-or-later", "acknowledgement": "declared"}}]
    assert said["numpy"] == [{"expression": "BSD-3-Clause AND MIT", "acknowledgement": "declared"}]
    assert said["odd"][0]["license"]["text"]["content"] == "ask me\n\nAsk first."
    assert said["silent"] is None
    path = tmp_path / "bill.spdx.json"
    path.write_text(spdx(wanted, licences))
    document = parser.parse_file(str(path))
    assert validator.validate_full_spdx_document(document) == []
    assert {str(one.license_declared) for one in document.packages if one.name in ("silent", "trainer")} == {"NOASSERTION"}
    assert {one.extracted_text for one in document.extracted_licensing_info} == {"ask me\n\nAsk first.", "The GPL, and exceptions.\n"}
    assert json.loads(text)["serialNumber"] != json.loads(cyclonedx(wanted))["serialNumber"]


def test_the_image_beside_a_lock_is_taken_for_it(tmp_path, monkeypatch):
    wanted, image = built()
    monkeypatch.chdir(tmp_path)
    write_lock(Path("stoker.lock"), wanted)
    alone = CliRunner().invoke(command, [])
    assert "a lock knows none" in alone.stderr
    assert "licenses" not in alone.stdout
    folder = image.write(tmp_path / "trainer.oci")
    index = json.loads((folder / "index.json").read_text())
    # As long as it is the image of another lock, it says nothing about this one.
    assert CliRunner().invoke(command, []).stdout == alone.stdout
    index["manifests"][0]["annotations"] = {"dev.stoker.lock": wanted.digest}
    (folder / "index.json").write_text(json.dumps(index))
    found = CliRunner().invoke(command, [])
    assert "as told in trainer.oci: 5 of 9 packages" in found.stderr
    assert "these say none: silent" in found.stderr
    assert found.stdout == CliRunner().invoke(command, ["trainer.oci"]).stdout
    assert CliRunner().invoke(command, ["stoker.lock"]).stdout == alone.stdout


def test_stokers_own_licence_is_the_one_that_it_declares():
    assert f'license = "{OWN.expression}"' in (IMAGE.parents[2] / "pyproject.toml").read_text()
