"""`everesthood validate`: the verdict that the cluster would give, without a cluster.

Exit code 0: nothing wrong; 1: something is; 2: a file cannot be read.
"""

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from everesthood.adapters.languages import Languages
from everesthood.adapters.manifests import MAX_BYTES, Document, Unreadable, in_files, in_text
from everesthood.domain import manifests
from everesthood.domain.manifests import Manifest, Verdict

PROBLEMS = 1
UNREADABLE = 2


class Format(StrEnum):
    """How the verdict is written."""

    TEXT = "text"
    JSON = "json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One line of the answer."""

    file: str
    line: int
    path: str
    message: str
    level: str = "problem"
    reason: str = ""
    kind: str = ""
    name: str = ""

    def text(self) -> str:
        """Return it as `file:line: path: message`."""
        mark = "warning: " if self.level == "warning" else ""
        where = f"{self.path}: " if self.path else ""
        return f"{self.file}:{self.line}: {mark}{where}{self.message}"

    def as_json(self) -> dict[str, object]:
        """Return it as an object."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(slots=True)
class Report:
    """What was found in all files."""

    findings: list[Finding] = field(default_factory=list)
    unreadable: list[Finding] = field(default_factory=list)
    checked: int = 0
    ignored: int = 0

    @property
    def exit_code(self) -> int:
        """Return 2, 1 or 0."""
        if self.unreadable:
            return UNREADABLE
        return PROBLEMS if any(f.level == "problem" for f in self.findings) else 0

    def summary(self) -> str:
        """Return one line that sums it up."""
        wrong = sum(f.level == "problem" for f in self.findings) + len(self.unreadable)
        warned = sum(f.level == "warning" for f in self.findings)
        parts = [f"{self.checked} checked", f"{wrong} problems" if wrong != 1 else "1 problem"]
        parts += [f"{warned} warnings" if warned != 1 else "1 warning"] if warned else []
        parts += [f"{self.ignored} of other kinds ignored"] if self.ignored else []
        return ", ".join(parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Read:
    file: str
    document: Document
    manifest: Manifest


def validate(
    files: Annotated[
        list[str], typer.Argument(help="Files or folders with manifests; - reads standard input.")
    ],
    output: Annotated[
        Format, typer.Option("--output", "-o", help="How the verdict is written.")
    ] = Format.TEXT,
    internal_host: Annotated[
        list[str] | None,
        typer.Option(help="A host inside the cluster that the platform allows, host:port."),
    ] = None,
) -> None:
    """Check manifests offline: the same rules as the cluster's, with file and line."""
    report = check(files, internal_hosts=frozenset(internal_host or ()))
    if output is Format.JSON:
        typer.echo(json.dumps(_as_json(report), indent=2))
    else:
        for finding in [*report.unreadable, *report.findings]:
            typer.echo(finding.text())
        typer.echo(report.summary(), err=True)
    raise typer.Exit(report.exit_code)


def _as_json(report: Report) -> dict[str, object]:
    found = [finding.as_json() for finding in [*report.unreadable, *report.findings]]
    return {"checked": report.checked, "ignored": report.ignored, "findings": found}


def check(files: list[str], *, internal_hosts: frozenset[str] = frozenset()) -> Report:
    """Return what is wrong with the manifests in files and folders, taken as one set."""
    report = Report()
    languages = Languages()
    read = list(_read(files, report, languages))
    report.checked = len(read)
    verdicts = manifests.judge_all([item.manifest for item in read], languages, internal_hosts)
    for item, verdict in zip(read, verdicts, strict=True):
        report.findings += _findings(item, verdict)
    return report


def _findings(item: _Read, verdict: Verdict) -> Iterator[Finding]:
    kind, name = item.manifest.kind, item.manifest.name
    for problem in verdict.problems:
        line = item.document.line_of(problem.path)
        yield Finding(
            file=item.file, line=line, path=problem.path, message=problem.message,
            reason=problem.reason, kind=kind, name=name,
        )  # fmt: skip
    for warning in verdict.warnings:
        path, _, message = warning.partition(": ")
        line = item.document.line_of(path)
        yield Finding(
            file=item.file, line=line, path=path, message=message, level="warning", kind=kind, name=name
        )


def _read(files: list[str], report: Report, languages: Languages) -> Iterator[_Read]:
    for file, document in _found(files):
        if isinstance(document, Unreadable):
            finding = Finding(file=file, line=document.line, path="", message=document.message)
            report.unreadable.append(finding)
        elif manifests.is_ours(document.value):
            manifest = manifests.read(document.value, languages)
            yield _Read(file=file, document=document, manifest=manifest)
        else:
            report.ignored += 1


def _found(files: list[str]) -> Iterator[tuple[str, Document | Unreadable]]:
    for file in files:
        if file == "-":
            yield from in_text("<stdin>", sys.stdin.buffer.read(MAX_BYTES + 1))
        else:
            yield from in_files([Path(file)])
