"""The report of an audit: what is lost under which shift, and what to use instead."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cnsdiff.audit.record import read_audit
from cnsdiff.report.audit_advice import advice_blocks
from cnsdiff.report.audit_external import external_blocks, externals
from cnsdiff.report.audit_limits import limit_blocks
from cnsdiff.report.audit_log import log_blocks
from cnsdiff.report.audit_loss import loss_blocks
from cnsdiff.report.audit_shift import shift_blocks
from cnsdiff.report.document import Document, Section, verbatim


def audit_document(path: str | Path) -> Document:
    """The report of an audit's directory.

    Raises
    ------
    RunError
        It holds no finished audit, one of another version, or a damaged one.
    """
    result = read_audit(Path(path))
    shifts = result["shifts"]
    return Document(
        title=f"Audit of {result['name']}",
        verdict=result["verdict"],
        summary=_summary(result),
        sections=[
            Section("Loss", loss_blocks(result)),
            Section("What to use", advice_blocks(result)),
            *(Section(shift["title"], shift_blocks(result, shift)) for shift in shifts),
            *([Section("Your own", external_blocks(result))] if externals(result) else []),
            Section("Limits", limit_blocks(result)),
            Section("Log", log_blocks(result)),
        ],
    )


def _summary(result: Mapping[str, Any]) -> str:
    said = list(map(verbatim, result["more_verdicts"]))
    said += [
        f"**{verbatim(shift['title'])}:** {verbatim(shift['recommendation']['words'])}"
        for shift in result["shifts"]
    ]
    cut = [
        shift["title"]
        for shift in result["shifts"]
        if any(row["stopped_by"] == "time" for row in shift["table"]) or shift["unfinished"]
    ]
    if cut:
        every = len(cut) == len(result["shifts"])
        where = "" if every else f" under {verbatim(' and '.join(cut))}"
        said.append(
            f"**Budget:** {result['budget']['words']} ended trainings early{where}; see "
            "[Limits](#limits)."
        )
    warnings = [w for shift, one in externals(result) for w in one["warnings"]]
    if warnings:
        said.append(f"**Caution:** {verbatim(warnings[0])}")
    return "\n\n".join(said)
