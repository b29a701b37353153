"""Translates between AdmissionReview and the review of a manifest."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final, Literal

import msgspec

from everesthood.apis.reasons import Reason
from everesthood.domain.manifests import Verdict
from everesthood.usecases.review_manifest import Review

API_VERSION: Final = "admission.k8s.io/v1"
_SHOWN_PROBLEMS: Final = 10
_LONGEST: Final = 4096


class Unreadable(ValueError):  # noqa: N818 - reads as what it is
    """A body that is no AdmissionReview."""


class _Kind(msgspec.Struct, frozen=True):
    kind: str


class _Request(msgspec.Struct, frozen=True):
    uid: str
    kind: _Kind
    operation: Literal["CREATE", "UPDATE", "DELETE"]
    name: str = ""
    namespace: str = ""
    object: dict[str, Any] | None = None
    oldObject: dict[str, Any] | None = None  # noqa: N815 - the wire's name


class _Envelope(msgspec.Struct, frozen=True):
    request: _Request
    apiVersion: str = ""  # noqa: N815 - the wire's name


def read(body: bytes) -> tuple[str, Review]:
    """Return the uid of a request and what it asks."""
    try:
        envelope = msgspec.json.decode(body, type=_Envelope)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Unreadable(f"not an AdmissionReview: {str(error)[:200]}") from None
    request = envelope.request
    if envelope.apiVersion != API_VERSION:
        raise Unreadable(f"apiVersion must be {API_VERSION}")
    return request.uid, Review(
        operation=request.operation,
        kind=request.kind.kind,
        namespace=request.namespace,
        name=request.name,
        new=request.object,
        old=request.oldObject,
    )


def answer(uid: str, verdict: Verdict) -> bytes:
    """Return the AdmissionReview that carries a verdict."""
    response: dict[str, object] = {"uid": uid, "allowed": not verdict.problems}
    if verdict.warnings:
        response["warnings"] = list(verdict.warnings)
    if verdict.problems:
        response["status"] = _status(verdict)
    return _envelope(response)


def refusal(uid: str, message: str, status: HTTPStatus) -> bytes:
    """Return the AdmissionReview of a refusal that no rule gave."""
    said = {"code": int(status), "message": message, "reason": "InternalError"}
    return _envelope({"uid": uid, "allowed": False, "status": said})


def _envelope(response: Mapping[str, object]) -> bytes:
    return msgspec.json.encode({"apiVersion": API_VERSION, "kind": "AdmissionReview", "response": response})


def _status(verdict: Verdict) -> dict[str, object]:
    problems = verdict.problems
    shown = [f"{p.path}: {p.message}".removeprefix(": ") for p in problems[:_SHOWN_PROBLEMS]]
    more = len(problems) - len(shown)
    text = "; ".join(shown) + (f"; and {more} more" if more else "")
    in_use = problems[0].reason is Reason.IN_USE
    causes = [{"reason": p.reason, "field": p.path, "message": p.message} for p in problems]
    return {
        "code": int(HTTPStatus.FORBIDDEN if in_use else HTTPStatus.UNPROCESSABLE_ENTITY),
        "reason": "Forbidden" if in_use else "Invalid",
        "message": text[:_LONGEST],
        "details": {"causes": causes},
    }
