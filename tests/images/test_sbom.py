"""The list of what an image is made of."""

from __future__ import annotations

from sbom import image_document

STATUS = """\
Package: libstdc++6
Status: install ok installed
Architecture: amd64
Version: 12.2.0-14+deb12u1
Description: a library
 Version: not a field, but a line of the description

Package: gone
Status: deinstall ok config-files
Architecture: amd64
Version: 1.0

Package: tzdata
Status: install ok installed
Architecture: all
Version: 2:2026a~rc1-0
"""
SYSTEM = {"ID": "debian", "VERSION_ID": "12"}


def test_packages_of_both_kinds_are_components_of_the_image() -> None:
    numpy = {"type": "library", "name": "numpy", "version": "1.26.4", "bom-ref": "numpy==1.26.4"}
    python = {"bomFormat": "CycloneDX", "metadata": {"tools": []}, "components": [numpy]}
    document = image_document("lmaas-api", "0.1.0", python, STATUS, SYSTEM)
    assert document["bomFormat"] == "CycloneDX"
    assert document["metadata"]["tools"] == []
    subject = document["metadata"]["component"]
    assert (subject["type"], subject["name"], subject["version"]) == ("container", "lmaas-api", "0.1.0")
    assert [(each["type"], each["name"], each["version"]) for each in document["components"]] == [
        ("operating-system", "debian", "12"),
        ("library", "libstdc++6", "12.2.0-14+deb12u1"),
        ("library", "tzdata", "2:2026a~rc1-0"),
        ("library", "numpy", "1.26.4"),
    ]


def test_a_debian_package_has_the_address_that_scanners_look_up() -> None:
    document = image_document("lmaas-api", "0.1.0", {"components": []}, STATUS, SYSTEM)
    assert [each["purl"] for each in document["components"][1:]] == [
        "pkg:deb/debian/libstdc%2B%2B6@12.2.0-14%2Bdeb12u1?arch=amd64&distro=debian-12",
        "pkg:deb/debian/tzdata@2%3A2026a~rc1-0?arch=all&distro=debian-12",
    ]
