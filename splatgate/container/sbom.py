"""Lists what is installed as CycloneDX 1.5: for scanners, and for whoever asks what an old image
held.

Source: cyclonedx.org/docs/1.5/json; package URLs: github.com/package-url/purl-spec.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from typing import Any
from urllib.parse import quote

from packaging.utils import canonicalize_name

from splatgate.evidence import Contents, Image

#: Type and namespace of a package URL; rpm's has none where the distribution is not told.
NAMESPACES = {"deb": "deb/debian", "apk": "apk/alpine", "rpm": "rpm"}


def cyclonedx(image: Image, contents: Contents) -> dict[str, Any]:
    """The bill of materials of an image. The same image gives the same text."""
    python = [
        _component(d.name, d.version, f"pkg:pypi/{canonicalize_name(d.name)}")
        for d in contents.distributions
    ]
    system = [
        _component(
            p.name, p.version, f"pkg:{NAMESPACES[p.kind]}/{quote(p.name)}", f"arch={p.architecture}"
        )
        for p in contents.packages
    ]
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_OID, image.image_id)}",
        "version": 1,
        "metadata": {
            "component": {
                "type": "container",
                "bom-ref": image.image_id,
                "name": image.labels.get("org.opencontainers.image.title", image.ref),
                "version": image.labels.get("org.opencontainers.image.version", image.image_id),
            }
        },
        "components": [*python, *system],
        "dependencies": [
            {
                "ref": image.image_id,
                "dependsOn": sorted({c["bom-ref"] for c in (*python, *system)}),
            }
        ],
    }


def _component(name: str, version: str, url: str, qualifier: str = "") -> dict[str, str]:
    purl = f"{url}@{quote(version, safe='.-_~')}" + (f"?{qualifier}" if qualifier else "")
    return {"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl}


def listed(bom: dict[str, Any]) -> Iterable[tuple[str, str]]:
    """Name and version of every component."""
    return [(c.get("name", ""), c.get("version", "")) for c in bom.get("components", ())]
