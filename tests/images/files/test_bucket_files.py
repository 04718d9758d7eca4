"""Files of object stores: listed in order, read whole, and what goes wrong with one or with all."""

from __future__ import annotations

import pytest
from bucket_images import picture, put
from buckets import Bucket

from csp_index.errors import SourceError, StoreError
from csp_index.images.decode import ImageFailure, ImageRead, read_images
from csp_index.images.files import bucket_files
from csp_index.images.files.bucket_files import bucket_names, read_bucket
from csp_index.settings import MAX_IMAGE_BYTES

pytestmark = pytest.mark.s3


@pytest.fixture(autouse=True)
def fresh_clients() -> None:
    """Each bucket has a client that knows the server of its test."""
    bucket_files._bucket_client.cache_clear()


def test_a_file_is_read_whole_or_not_at_all(bucket: Bucket) -> None:
    put(bucket, {"p/a.bin": bytes(range(256)) * 40})
    assert read_bucket(f"s3://{bucket.name}/p/a.bin", MAX_IMAGE_BYTES) == bytes(range(256)) * 40


def test_an_order_that_is_none_is_refused(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = [{"path": "b.jpg", "size": 1}, {"path": "a.jpg", "size": 1}]
    monkeypatch.setattr(bucket_files, "_listed", lambda uri: iter(listed))
    with pytest.raises(SourceError, match=r"in no fixed order \('a.jpg' comes late\)"):
        list(bucket_names(f"s3://{bucket.name}"))


def test_one_file_that_cannot_be_read_is_a_failure_of_its_own(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    put(bucket, {"p/a.jpg": picture(), "p/b.jpg": b"no picture", "p/c.jpg": picture() + bytes(3000)})
    monkeypatch.setenv(MAX_IMAGE_BYTES.variable, "2000")
    uris = [f"s3://{bucket.name}/p/{name}.jpg" for name in "abcd"]
    first, *others = read_images(uris)
    assert isinstance(first, ImageRead)
    assert all(isinstance(one, ImageFailure) for one in others)
    reasons = [one.reason for one in others]
    assert "more than the setting max_image_bytes allows" in reasons[1] and "no longer in the bucket" in reasons[2]


def test_a_server_that_fails_ends_the_work_and_loses_no_picture(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(bucket, {"p/a.jpg": picture()})
    monkeypatch.setattr(bucket_files, "_PATIENT", 0)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(StoreError, match="the server does not answer: check AWS_ENDPOINT_URL"):
        next(read_images([f"s3://{bucket.name}/p/a.jpg"]))
