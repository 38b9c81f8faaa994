"""How the node sends results: STOW-RS, the DICOMweb way (PS3.18 10.5)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pydicom
import requests
from dicomweb_client import DICOMwebClient
from pydicom.dataset import Dataset

from liver_pipeline.io.dicom_classes import quietly
from liver_pipeline.io.findings import refuse
from liver_pipeline.node.sending import NotTaken, refusal_of, send_each
from liver_pipeline.node.tls import Tls

WRONG_PLACE = (401, 403, 404, 405)  # of HTTP: not about the instances
LATER = (408, 429)


def checked_url(url: str) -> str:
    """Return the URL of a DICOMweb service.

    Raises:
        ValueError: If it is none, or holds a password, which other users of the machine would see.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise ValueError(f"--stow {url!r} is no URL of a service; expected such as https://pacs/dicom-web")
    if parts.username or parts.password:
        raise ValueError("--stow holds a user or password; put them into ~/.netrc")
    return url.rstrip("/")


def stow(files: Sequence[Path], url: str, *, tls: Tls | None = None, timeout_s: float = 60.0) -> dict[str, str]:
    """Send files to a DICOMweb service, each in a request of its own, which keeps to any limit of size.

    Only what the answer lists as stored counts as stored. Redirections are not followed.

    Args:
        files: The files.
        url: From :func:`checked_url`; user and password come from ``~/.netrc``.
        tls: Authority and certificate for ``https``.
        timeout_s: For the connection and for each answer.

    Returns:
        Name of a SOP class to why the service will not take it.

    Raises:
        IntakeError: PEER_UNREACHABLE if it does not answer or is no such service; PEER_REFUSED if it does not let us
            in, and see :func:`liver_pipeline.node.sending.send_each`.
    """
    who = urlsplit(url).netloc
    with requests.Session() as session:
        session.max_redirects = 0  # a page to log in would answer 200
        session.hooks["response"].append(_without_parameters)
        if tls is not None and tls.authority is not None:
            session.verify = str(tls.authority)
        if tls is not None and tls.certificate is not None:
            session.cert = str(tls.certificate), str(tls.key)
        client = DICOMwebClient(url, session=session, timeout=timeout_s)
        client.set_http_retry_params(retry=False)  # the node's own waits are longer
        return send_each(files, who, lambda file: _store(client, who, file))


def _without_parameters(answer: requests.Response, *_: Any, **__: Any) -> None:
    """Leave ``charset`` and the like out: dicomweb-client knows the bare types alone."""
    answer.headers["Content-Type"] = answer.headers.get("Content-Type", "").partition(";")[0].strip()


def _store(client: DICOMwebClient, who: str, file: Path) -> NotTaken | None:
    try:
        with quietly():
            instance = pydicom.dcmread(file)
            return _said(client.store_instances([instance]), instance.SOPInstanceUID)
    except requests.HTTPError as reason:
        return _refused(who, reason.response)
    except requests.RequestException as reason:
        raise refuse(who, "PEER_UNREACHABLE", f"{type(reason).__name__}: is the URL right?") from None
    except Exception as reason:  # whatever it answers
        raise refuse(who, "PEER_UNREACHABLE", f"no answer of DICOMweb: {type(reason).__name__}") from None


def _said(answer: Dataset, uid: str) -> NotTaken | None:
    """Return what the answer says of an instance."""
    if any(one.ReferencedSOPInstanceUID == uid for one in answer.get("ReferencedSOPSequence") or ()):
        return None
    reasons = [int(one.FailureReason) for one in answer.get("FailedSOPSequence") or () if "FailureReason" in one]
    return refusal_of(reasons[0]) if reasons else NotTaken("it is not listed as stored")


def _refused(who: str, answer: requests.Response) -> NotTaken | None:
    """Return what an HTTP status from 400 means for one instance.

    Raises:
        IntakeError: PEER_REFUSED if it is not about the instance.
    """
    said = f"HTTP {answer.status_code}"
    if answer.status_code in WRONG_PLACE:
        raise refuse(who, "PEER_REFUSED", f"{said}; is the URL right, and may we store there?")
    if answer.status_code >= 500 or answer.status_code in LATER:
        return NotTaken(said, passing=True)
    try:
        body = Dataset.from_json(answer.json())
        return _said(body, "") if "FailedSOPSequence" in body else NotTaken(said)
    except Exception:  # a body is not asked for
        return NotTaken(said)
