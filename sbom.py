"""What an image is made of, as CycloneDX: the Dockerfiles add Debian's packages to the list of Python's.

python3 sbom.py NAME VERSION python.cdx.json /var/lib/dpkg/status
"""

from __future__ import annotations

import json
import platform
import sys
from pathlib import Path
from typing import Any
from urllib.parse import quote


def debian_packages(status: str, distribution: str, release: str) -> list[dict[str, Any]]:
    """Components for what dpkg's file `status` lists as installed, in its order.

    Their names follow https://github.com/package-url/purl-spec/blob/main/types/deb-definition.json.
    """
    found = []
    for stanza in status.split("\n\n"):
        lines = (line.partition(": ") for line in stanza.splitlines() if not line.startswith(" "))
        fields = {name: value for name, _, value in lines}
        if fields.get("Status") != "install ok installed":
            continue
        name, version = fields["Package"], fields["Version"]
        purl = (
            f"pkg:deb/{distribution}/{quote(name)}@{quote(version)}"
            f"?arch={fields['Architecture']}&distro={distribution}-{release}"
        )
        found.append({"type": "library", "name": name, "version": version, "purl": purl, "bom-ref": purl})
    return found


def image_document(
    name: str, version: str, python: dict[str, Any], status: str, system: dict[str, str]
) -> dict[str, Any]:
    """The document `python` about an image, with the packages of its operating system and that itself."""
    distribution, release = system["ID"], system["VERSION_ID"]
    operating_system = {"type": "operating-system", "name": distribution, "version": release}
    packages = debian_packages(status, distribution, release)
    components = [operating_system, *packages, *python["components"]]
    subject = {"type": "container", "name": name, "version": version, "bom-ref": name}
    return {
        **python,
        "metadata": {**python.get("metadata", {}), "component": subject},
        "components": components,
    }


if __name__ == "__main__":
    title, number, listed, installed = sys.argv[1:]
    print(
        json.dumps(
            image_document(
                title,
                number,
                json.loads(Path(listed).read_text()),
                Path(installed).read_text(),
                platform.freedesktop_os_release(),
            ),
            indent=1,
        )
    )
