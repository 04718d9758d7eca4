"""Object stores: a client for an address, and in one line why a request failed.

Keys and the endpoint come from the environment (AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, ..., or a profile): they are never
stored, shown or passed on. Knows nothing about indexes or images.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, Final

from csp_index.errors import CspIndexError, StoreError, one_line

SCHEMES: Final = ("s3", "gs", "az")
"""What addresses of object stores begin with, before ://."""

_CONNECT, _REQUEST = 3, 8  # seconds
_DENIED = ("AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken")
_FULL: Final = "No space left on device"
_SOURCE: Final = re.compile(r",? ?/\S+\.rs:\d+(?::\d+)?")
_ELSEWHERE = ("PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException")


def connect(uri: str, tries: int, *, seconds: int = _REQUEST, error: type[CspIndexError] = StoreError) -> Any:
    """Return obstore's client for a prefix of a bucket, without a request.

    A request takes at most some `seconds`, and is repeated up to `tries` times within a minute. Raises `error` where
    obstore is missing, or keys are.
    """
    try:
        from obstore.store import from_url
    except ImportError:
        raise error(f"{uri} is in an object store, which needs obstore: pip install 'csp_index[storage]'") from None
    client: Any = {"connect_timeout": f"{_CONNECT}s", "timeout": f"{seconds}s", "allow_http": plain_http()}
    retry: Any = {"max_retries": tries, "retry_timeout": timedelta(minutes=1)}
    with told(uri, "cannot be opened", error):
        return from_url(uri, client_options=client, retry_config=retry, **_credentials(uri, error))


@contextmanager
def told(uri: str, failure: str, error: type[CspIndexError] = StoreError) -> Iterator[None]:
    """Turn what obstore raises into `error`, in one line that begins with the address and the `failure`."""
    from obstore.exceptions import BaseError

    try:
        yield
    except (BaseError, OSError, ValueError) as exc:
        raise error(f"{uri} {failure}: {reason(exc)}") from exc


def plain_http() -> bool:
    """Return whether unencrypted requests are allowed: by the environment, or by an http endpoint."""
    endpoint = os.environ.get("AWS_ENDPOINT_URL") or os.environ.get("AWS_ENDPOINT") or ""
    return endpoint.startswith("http://") or os.environ.get("AWS_ALLOW_HTTP", "").lower() == "true"


def reason(exc: BaseException) -> str:
    """Return in one line why a request failed, from the message of object store or Lance.

    Others stay as they are, without the places in Lance's source where they arose.

    >>> reason(OSError("IO error: it broke, /home/runner/lance/src/io/commit.rs:1663:50"))
    'IO error: it broke'
    >>> reason(OSError("IO error: Unable to copy: No space left on device (os error 28), /home/a/commit.rs:16"))
    'No space left on device'
    """
    text = str(exc)
    if "Missing SecretAccessKey" in text or "Missing AccessKeyId" in text:
        return "no keys: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, both"
    if "Error performing" not in text and "RetryError" not in text:
        return _FULL if _FULL in text else _SOURCE.sub("", one_line(exc))
    code_match = re.search(r"<Code>(\w+)</Code>", text)
    code = code_match[1] if code_match else ""
    if code == "NoSuchBucket":
        return "the bucket does not exist: make it first, or check the name"
    if code in _DENIED or re.search(r"\b40[13]\b (Forbidden|Unauthorized)|status: 40[13]\b", text):
        return f"no permission ({code or 'refused'}): check the keys in the environment and what they may do"
    if code in _ELSEWHERE:
        return f"the bucket is in another region ({code}): set AWS_REGION"
    if re.search(r"kind: (Connect|Timeout|Request)|[Cc]onnect error|timed out|error sending request", text):
        return "the server does not answer: check AWS_ENDPOINT_URL and the network"
    if code_match:
        details = re.search(r"<Message>(.*?)</Message>", text, re.DOTALL)
        return f"{code}: {' '.join(details[1].split())}" if details else code
    status = re.search(r"status(?: code)?: (\d{3}\b(?: [A-Z][\w ]*\w)?)", text)
    return f"the server answers {status[1]}: check AWS_ENDPOINT_URL" if status else one_line(exc)


def _credentials(uri: str, error: type[CspIndexError]) -> dict[str, Any]:
    """Return a provider of AWS keys from sources that Lance reads but obstore does not: profiles, boto3."""
    if not uri.startswith("s3://") or {"AWS_ACCESS_KEY_ID", "AWS_SKIP_SIGNATURE"} & os.environ.keys():
        return {}
    try:
        import boto3
        import botocore.exceptions
        from obstore.auth.boto3 import Boto3CredentialProvider
    except ImportError:
        return {}
    try:
        return {"credential_provider": Boto3CredentialProvider(boto3.Session())}
    except (ValueError, botocore.exceptions.BotoCoreError) as exc:
        raise error(
            f"no keys for {uri} in the environment: set AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or AWS_SKIP_SIGNATURE=true where none are needed"
        ) from exc
