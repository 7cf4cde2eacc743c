"""What to do when TLS fails, for either server: the libraries say what happened, and not whose move it is."""

from __future__ import annotations

import ssl
from typing import Final

_ANOTHER_HOST: Final = (62, 63, 64)
_TIME: Final = (9, 10)
_NOBODY_KNOWN: Final = (2, 18, 19, 20, 21)
"""X509_V_ERR_… of OpenSSL, as `verify_code` has them."""


def advice(error: ssl.SSLError, authority: str, certificate: str) -> str:
    """What somebody can do; `authority` and `certificate` are the options of the URL for the two files."""
    code, reason = getattr(error, "verify_code", None), getattr(error, "reason", None) or ""
    if code in _ANOTHER_HOST:
        return "the server's certificate is for another host: use the name in the URL that it was made for"
    if code in _TIME:
        return "the server's certificate is too old or too new: renew it, or set this machine's clock"
    if code in _NOBODY_KNOWN:
        return f"nobody known vouches for the server: name the file with its CA's certificate: {authority}= in the URL"
    if "CERTIFICATE_REQUIRED" in reason:
        return f"the server asks for a client certificate: name its file by {certificate}= in the URL"
    if "ALERT" in reason and any(each in reason for each in ("CERTIFICATE", "UNKNOWN_CA", "DECRYPT")):
        return f"the server does not take the client certificate: check {certificate}= in the URL"
    return "check that the server speaks TLS, and the certificates"
