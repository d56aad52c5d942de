# SPDX-License-Identifier: Apache-2.0
"""A check of goldens as JUnit XML: a test per golden, and one for the folder; the words are the report's own."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree as xml

from fusion_replay.errors import UsageError

if TYPE_CHECKING:
    from fusion_replay.golden.check_report import GoldenReport


def write(report: GoldenReport, path: Path) -> None:
    """
    Raises:
        UsageError: the file can't be written.
    """
    failures = len(report.failed) + bool(report.problems)
    suite = xml.Element("testsuite", name="goldens", tests=str(len(report.results) + 1), failures=str(failures))
    for result in report.results:
        case = xml.SubElement(suite, "testcase", classname=report.folder, name=result.name, file=result.path)
        told = xml.SubElement(case, "properties")
        for name, value in result.properties:
            xml.SubElement(told, "property", name=name, value=str(value))
        if not result:
            xml.SubElement(case, "failure", message=result.headline).text = "\n".join(result.lines)
    folder = xml.SubElement(suite, "testcase", classname=report.folder, name="folder")
    if report.problems:
        text = [str(p) for p in report.problems]
        xml.SubElement(folder, "failure", message=text[0]).text = "\n".join(text)
    root = xml.Element("testsuites")
    root.append(suite)
    try:
        path.write_bytes(xml.tostring(root, "utf-8", xml_declaration=True) + b"\n")
    except OSError as error:
        raise UsageError(f"{path}: can't be written: {error.strerror or error}") from None


__all__ = ["write"]
