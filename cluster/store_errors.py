"""What can go wrong with a store, in words for the person who started the job.

All are OSErrors that survive pickling; none quotes a key or a password::

    StoreError(OSError)                     anything else that a store answered
    ├── StoreNotFound(FileNotFoundError)    no such file, folder or bucket
    ├── StoreDenied(PermissionError)        no, wrong or too weak credentials
    └── StoreUnreachable(ConnectionError)   no answer from the endpoint

A full disk stays a plain ``OSError`` with ``errno.ENOSPC``. botocore's classes are recognised by name, since only S3
needs that library; the price is that a renamed class there would fall through to its own wording.
"""

import contextlib
import re
from collections.abc import Iterator

_WRONG_KEYS = ("InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken", "TokenRefreshRequired")
_NO_KEYS = {"NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError", "TokenRetrievalError"}
_NO_ANSWER = {"HTTPClientError", "ConnectionError", "TimeoutError", "ConnectTimeoutError", "ReadTimeoutError"}


class StoreError(OSError):
    """A store's refusal that has no narrower class."""


class StoreNotFound(StoreError, FileNotFoundError):  # noqa: N818 - reads as the answer it is
    """Nothing lies there: the file, folder or bucket doesn't exist."""


class StoreDenied(StoreError, PermissionError):  # noqa: N818 - reads as the answer it is
    """The store knows us too little: no, wrong, expired or too weak credentials or file modes."""


class StoreUnreachable(StoreError, ConnectionError):  # noqa: N818 - reads as the answer it is
    """The store didn't answer."""


@contextlib.contextmanager
def translated(uri: str) -> Iterator[None]:
    """Raise whatever a store's library raises for `uri` in the body as one of our errors."""
    try:
        yield
    except StoreError:
        raise
    except Exception as error:
        clear = translate(error, uri)
        if clear is error:
            raise
        raise clear from error


def translate(error: Exception, uri: str) -> Exception:
    """Turn what a store's library raised for `uri` into one of our errors; any other error comes back as it is."""
    where, names = masked(uri), {kind.__name__ for kind in type(error).__mro__}
    code, said = _s3_answer(error)
    if isinstance(error, PermissionError) or code in ("AccessDenied", "403", *_WRONG_KEYS) or names & _NO_KEYS:
        return StoreDenied(f"{where}: access denied: {_denial(code, names)}{_culprit(error, where)}")
    if "ProfileNotFound" in names:
        return StoreDenied(f"{where}: AWS_PROFILE names a profile that the AWS configuration doesn't hold")
    if "ParamValidationError" in names:
        return StoreNotFound(f"{where}: not a name that S3 allows for a bucket or key")
    if isinstance(error, FileNotFoundError | NotADirectoryError) or code in ("NoSuchBucket", "NoSuchKey", "404"):
        lacking = "no such bucket; check its name and AWS_ENDPOINT_URL" if code == "NoSuchBucket" else "no such file"
        return StoreNotFound(f"{where}: {lacking}{_culprit(error, where)}")
    if names & _NO_ANSWER:
        return StoreUnreachable(f"{where}: no answer ({type(error).__name__}); check AWS_ENDPOINT_URL and the network")
    return StoreError(f"{where}: S3 answered {code}: {said}") if code else error


def _culprit(error: Exception, where: str) -> str:
    """Name the file that the system names, where that isn't the one asked for (a broken link in a listing)."""
    name = getattr(error, "filename", None)
    return f" ({name})" if isinstance(name, str) and name not in where else ""


def _denial(code: str, names: set[str]) -> str:
    if names & _NO_KEYS:
        return "no usable credentials; set AWS_PROFILE, or AWS_ACCESS_KEY_ID with its secret"
    if code in _WRONG_KEYS:
        return f"wrong or expired credentials ({code}); check AWS_PROFILE or AWS_ACCESS_KEY_ID with its secret"
    if code:
        return f"S3 answered {code}: the credentials are wrong or don't allow this; check them and the bucket's policy"
    return "the file's or folder's mode doesn't allow it to this user"


def masked(uri: str) -> str:
    """Leave out what stands before an @ in the host part: it may hold a password."""
    return re.sub(r"://[^/]*@", "://***@", uri)


def _s3_answer(error: BaseException) -> tuple[str, str]:
    """Find code and message of the S3 answer behind `error`; two empty strings if there is none."""
    cause: BaseException | None = error
    while cause is not None:
        response = getattr(cause, "response", None)
        if isinstance(response, dict) and "Error" in response:
            return str(response["Error"].get("Code", "")), str(response["Error"].get("Message", ""))
        cause = cause.__cause__
    return "", ""
