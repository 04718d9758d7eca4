"""A prefix of an object store as the place of an index. Only this file imports obstore, the library Lance uses, too.

Keys and the endpoint come from the environment (AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, ..., or a profile): they are never
stored, shown or passed on.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import cached_property
from typing import Any

from csp_index.errors import StoreError, one_line
from csp_index.store.layout import BEGUN, COMMITS, HEAD, OLD_TABLE, VERSIONS, StoredObject, first_alone

SCHEMES = ("s3", "gs", "az")
_CONNECT, _REQUEST = "3s", "8s"
_QUICK, _PATIENT = 1, 8  # retries: a wrong endpoint fails soon, but a hiccup must not end an hour's work
_DENIED = ("AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken")
_ELSEWHERE = ("PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException")


class BucketLocation:
    """A prefix of a bucket. Every call is a request; a server that does not answer is a StoreError within seconds.

    The object store must support conditional writes, as AWS S3, MinIO, R2, Google and Azure do.
    """

    def __init__(self, uri: str) -> None:
        """Name the prefix without a request. StoreError if the URI names no bucket."""
        self.uri = self.address = uri.rstrip("/")
        self.scheme, _, rest = self.uri.partition("://")
        self.bucket = rest.partition("/")[0]
        if self.scheme not in SCHEMES or not self.bucket:
            known = ", ".join(f"{name}://" for name in SCHEMES)
            raise StoreError(f"{uri} names no place for an index: expected a directory, or bucket/name after {known}")

    @property
    def options(self) -> dict[str, str]:
        """Storage options for Lance, which reads keys and endpoint from the environment itself."""
        return {"allow_http": "true"} if _plain_http() else {}

    def tables(self) -> list[str] | None:
        """Return None: Lance lists them page by page."""
        return None

    def stamp(self, table: str, version: int) -> object:
        """Return None: it would cost a request per read. Do not remove and recreate an index while others read it."""
        return None

    def exists(self) -> bool:
        """Return whether anything is there."""
        return self._has("")

    def is_index(self) -> bool:
        """Return whether there is an index; StoreError if the bucket cannot be read."""
        return self._has(COMMITS) or self._has(f"{OLD_TABLE}/{VERSIONS}")

    def is_begun(self) -> bool:
        """Return whether the first command of an index was cut off before its first commit."""
        begun = self._state_of(HEAD, self._look) is None and self._state_of(BEGUN, self._look) is not None
        return begun and first_alone(self.listed(COMMITS))

    def state_of(self, name: str) -> object:
        """Return what changes whenever a small object is written anew; None if it does not exist."""
        return self._state_of(name, self._work)

    def _state_of(self, name: str, objects: Any) -> object:
        import obstore

        with self._told("cannot be read"):
            try:
                return _version(obstore.head(objects, name))
            except FileNotFoundError as exc:
                if "NoSuchBucket" in str(exc):
                    raise
                return None

    def check_writable(self) -> None:
        """Do nothing: the first write finds out, and leaves nothing behind if it is refused."""

    def check_empty(self) -> None:
        """Raise StoreError, changing nothing, if no index can be created here."""
        if self.exists():
            raise StoreError(f"{self.uri} is not a csp_index database and not empty: choose another name in the bucket")

    def prepare(self) -> None:
        """Note that an index is being made."""
        self.write(BEGUN, b"")

    def listed(self, folder: str) -> list[str]:
        """Return the names of the objects directly below a prefix, sorted."""
        objects = self._work
        import obstore

        with self._told("cannot be read"):
            listing = obstore.list_with_delimiter(objects, folder)
        return sorted(item["path"].rpartition("/")[2] for item in listing["objects"])

    def sync(self, names: Iterable[str]) -> None:
        """Do nothing: an object that was written is stored."""

    def read(self, name: str) -> StoredObject | None:
        """Return a small object, or None if it does not exist."""
        objects = self._work
        import obstore

        with self._told("cannot be read"):
            try:
                response = obstore.get(objects, name)
                return StoredObject(bytes(response.bytes()), _version(response.meta), response.meta["last_modified"])
            except FileNotFoundError as exc:
                if "NoSuchBucket" in str(exc):
                    raise
                return None

    def write(self, name: str, data: bytes, over: Any = None, *, synced: bool = True) -> Any | None:
        """Write a small object if it does not exist, or replace exactly the version `over`; return the new version.

        None means that another writer was faster; nothing is written then.
        """
        objects = self._work
        import obstore
        from obstore.exceptions import AlreadyExistsError, PreconditionError

        with self._told("cannot be written"):
            try:
                return _version(obstore.put(objects, name, data, mode=over or "create", use_multipart=False))
            except (AlreadyExistsError, PreconditionError):
                return None
            except FileNotFoundError as exc:
                if over is None or "NoSuchBucket" in str(exc):
                    raise
                return None  # the object was removed, so the version is gone

    def remove(self, name: str) -> None:
        """Delete an object."""
        objects = self._work
        import obstore

        with self._told("cannot be written"):
            obstore.delete(objects, name)

    def _has(self, prefix: str) -> bool:
        objects = self._look
        import obstore

        with self._told("cannot be read"):
            return bool(next(iter(obstore.list(objects, prefix or None, chunk_size=1)), ()))

    @cached_property
    def _look(self) -> Any:
        return self._connect(_QUICK)

    @cached_property
    def _work(self) -> Any:
        return self._connect(_PATIENT)

    def _connect(self, tries: int) -> Any:
        try:
            from obstore.store import from_url
        except ImportError:
            raise StoreError(
                f"{self.uri} is in an object store, which needs obstore: pip install 'csp_index[storage]'"
            ) from None
        client: Any = {"connect_timeout": _CONNECT, "timeout": _REQUEST, "allow_http": _plain_http()}
        retry: Any = {"max_retries": tries, "retry_timeout": timedelta(minutes=1)}
        with self._told("cannot be opened"):
            return from_url(self.uri, client_options=client, retry_config=retry, **self._credentials())

    def _credentials(self) -> dict[str, Any]:
        """Return a provider of AWS keys from sources that Lance reads but obstore does not: profiles, boto3."""
        if self.scheme != "s3" or {"AWS_ACCESS_KEY_ID", "AWS_SKIP_SIGNATURE"} & os.environ.keys():
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
            raise StoreError(
                f"no keys for {self.uri} in the environment: set AWS_ACCESS_KEY_ID and "
                "AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or AWS_SKIP_SIGNATURE=true where none are needed"
            ) from exc

    @contextmanager
    def _told(self, failure: str) -> Iterator[None]:
        from obstore.exceptions import BaseError

        try:
            yield
        except (BaseError, OSError, ValueError) as exc:
            raise StoreError(f"{self.uri} {failure}: {reason(exc)}") from exc


def reason(exc: BaseException) -> str:
    """Return in one line why a request failed, from the message of object store or Lance; others unchanged."""
    text = str(exc)
    if "Missing SecretAccessKey" in text or "Missing AccessKeyId" in text:
        return "no keys: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, both"
    if "Error performing" not in text and "RetryError" not in text:
        return one_line(exc)
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


def _version(meta: Any) -> Any:
    return {name: meta[name] for name in ("e_tag", "version") if meta.get(name) is not None}


def _plain_http() -> bool:
    """Return whether unencrypted requests are allowed: by the environment, or by an http endpoint."""
    endpoint = os.environ.get("AWS_ENDPOINT_URL") or os.environ.get("AWS_ENDPOINT") or ""
    return endpoint.startswith("http://") or os.environ.get("AWS_ALLOW_HTTP", "").lower() == "true"
