"""The bill of materials of an image, as CycloneDX 1.6 and as SPDX 2.3: what its lock holds, under the licences that are told in the image.

The same lock gives the same bytes, and so does the same image.
"""

from __future__ import annotations

import json
import re
import uuid
from typing import Any

from stoker import __version__
from stoker.image.component import Component, components, image_purl
from stoker.image.configuration import created_text
from stoker.image.licence import Licence, identifiers
from stoker.image.licences import Licences
from stoker.image.lock import Lock

_NAMESPACE = uuid.UUID("6f1c2f5e-1d0b-5c7e-9a34-6b0d7f6c2b11")
"""Ours: the identities below are names in it, and so are the same for the same lock."""


def cyclonedx(lock: Lock, licences: Licences | None = None) -> str:
    """Return the bill of materials as CycloneDX 1.6 in JSON. `licences`: None, where only the lock is known."""
    found = components(lock)
    told = licences or {}
    return _json(
        {
            "bomFormat": "CycloneDX",
            "specVersion": "1.6",
            "serialNumber": f"urn:uuid:{_identity(lock, 'cyclonedx', licences)}",
            "version": 1,
            "metadata": {
                "timestamp": created_text(lock),
                "tools": {"components": [{"type": "application", "name": "stoker", "version": __version__}]},
                "component": {
                    "bom-ref": "image",
                    "type": "container",
                    "name": lock.name,
                    "version": lock.digest,
                    "purl": image_purl(lock),
                    "properties": _properties(lock),
                },
            },
            "components": [_cyclonedx_component(one, told.get(one.identity)) for one in found],
            "dependencies": [{"ref": "image", "dependsOn": [one.identity for one in found]}, *({"ref": one.identity} for one in found)],
            # Of an OCI base only the digest is known, not what is in it.
            "compositions": [{"aggregate": "complete" if lock.base.kind == "debian" else "incomplete", "assemblies": ["image"]}],
        }
    )


def spdx(lock: Lock, licences: Licences | None = None) -> str:
    """Return the bill of materials as SPDX 2.3 in JSON. `licences`: None, where only the lock is known."""
    found = components(lock)
    told = licences or {}
    texts = {name: text for one in told.values() for name, text in one.texts.items()}
    names = {one.identity: f"SPDXRef-{re.sub(r'[^A-Za-z0-9.-]', '-', one.identity)}" for one in found}
    comment = "; ".join(f"{entry['name']}: {entry['value']}" for entry in _properties(lock))
    image = {
        "SPDXID": "SPDXRef-image",
        "name": lock.name,
        "versionInfo": lock.digest,
        "primaryPackagePurpose": "CONTAINER",
        "comment": comment,
        "externalRefs": [_purl(image_purl(lock))],
        **_UNSAID,
    }
    return _json(
        {
            "spdxVersion": "SPDX-2.3",
            "dataLicense": "CC0-1.0",
            "SPDXID": "SPDXRef-DOCUMENT",
            "name": lock.name,
            "documentNamespace": f"urn:uuid:{_identity(lock, 'spdx', licences)}",
            "creationInfo": {"created": created_text(lock), "creators": [f"Tool: stoker-{__version__}"]},
            "packages": [image, *(_spdx_package(one, names[one.identity], told.get(one.identity)) for one in found)],
            **({"hasExtractedLicensingInfos": [_extracted(name, text) for name, text in sorted(texts.items())]} if texts else {}),
            "relationships": [
                _relation("SPDXRef-DOCUMENT", "DESCRIBES", "SPDXRef-image"),
                *(_relation("SPDXRef-image", "CONTAINS", names[one.identity]) for one in found),
            ],
        }
    )


def _identity(lock: Lock, form: str, licences: Licences | None) -> uuid.UUID:
    return uuid.uuid5(_NAMESPACE, f"{form} {__version__} {lock.digest}{'' if licences is None else ' with licences'}")


def _json(document: dict[str, Any]) -> str:
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def _properties(lock: Lock) -> list[dict[str, str]]:
    """What the format has no field for. Pruned files are missing from packages that are listed as whole: that must be said."""
    said = {
        "stoker:base": lock.base.suite or lock.base.digest or lock.base.kind,
        "stoker:machine": lock.machine,
        "stoker:python": lock.python_full,
        "stoker:pruned": ", ".join(sorted(lock.prune)) or "nothing",
        **{f"stoker:stack:{stack.name}": f"torch {stack.torch}, CUDA {stack.cuda}" for stack in lock.stacks if stack.torch},
    }
    return [{"name": name, "value": value} for name, value in sorted(said.items())]


def _cyclonedx_component(one: Component, licence: Licence | None) -> dict[str, Any]:
    said = {
        "stoker:file": one.file,
        "stoker:licence-source": licence.source if licence else None,
        "stoker:stacks": ", ".join(one.stacks),
        "stoker:variants": ", ".join(sorted(one.variants)),
    }
    return {
        "bom-ref": one.identity,
        "type": "container" if one.kind == "oci" else "application" if one.kind == "generic" else "library",
        "name": one.name,
        "version": one.version,
        "hashes": [{"alg": "SHA-256", "content": one.sha256}],
        **({"licenses": [_cyclonedx_licence(licence)]} if licence else {}),
        "purl": one.purl,
        "properties": [{"name": name, "value": value} for name, value in said.items() if value],
    }


def _cyclonedx_licence(licence: Licence) -> dict[str, Any]:
    """Return an expression; a single licence by its identifier, or with its text where SPDX has none for it."""
    said = licence.expression
    if said in licence.texts:
        name = said.removeprefix("LicenseRef-").rpartition("-")[0]
        return {"license": {"name": name, "text": {"contentType": "text/plain", "content": licence.texts[said]}, "acknowledgement": "declared"}}
    if said in identifiers()[0].values():
        return {"license": {"id": said, "acknowledgement": "declared"}}
    return {"expression": said, "acknowledgement": "declared"}


# What the lock does not say. NOASSERTION is SPDX's word for "nobody looked", which is not the same as "none".
_UNSAID = {
    "downloadLocation": "NOASSERTION",
    "filesAnalyzed": False,
    "licenseConcluded": "NOASSERTION",
    "licenseDeclared": "NOASSERTION",
    "copyrightText": "NOASSERTION",
}


def _spdx_package(one: Component, identity: str, licence: Licence | None) -> dict[str, Any]:
    declared = {"licenseDeclared": licence.expression, "licenseComments": f"declared in {licence.source}"} if licence else {}
    return {
        "SPDXID": identity,
        "name": one.name,
        "versionInfo": one.version,
        **({"packageFileName": one.file} if one.file else {}),
        "primaryPackagePurpose": "CONTAINER" if one.kind == "oci" else "APPLICATION" if one.kind == "generic" else "LIBRARY",
        "checksums": [{"algorithm": "SHA256", "checksumValue": one.sha256}],
        "externalRefs": [_purl(one.purl)],
        **_UNSAID,
        **declared,
    }


def _extracted(name: str, text: str) -> dict[str, str]:
    return {"licenseId": name, "name": name.removeprefix("LicenseRef-").rpartition("-")[0], "extractedText": text}


def _purl(purl: str) -> dict[str, str]:
    return {"referenceCategory": "PACKAGE-MANAGER", "referenceType": "purl", "referenceLocator": purl}


def _relation(element: str, kind: str, other: str) -> dict[str, str]:
    return {"spdxElementId": element, "relationshipType": kind, "relatedSpdxElement": other}
