"""The keys in Redis, for us and for people who look with redis-cli.

| key                                 | type       | holds                                                        |
|-------------------------------------|------------|--------------------------------------------------------------|
| `localfirst:<ns>:store`             | hash       | `store_id`, `format`: which store this is                    |
| `localfirst:<ns>:sessions`          | sorted set | session ids as they are, all with score 0                    |
| `localfirst:<ns>:{<session>}:head`  | hash       | `generation`; `seq` of the last change; `digest0`, `digest1`;|
|                                     |            | `floor`, the seq before the first element of the log, and if |
|                                     |            | it isn't 0 `floor_digest0`, `floor_digest1`; `admitted_at` of|
|                                     |            | the last change; `acked:<origin>`, the highest counter of    |
|                                     |            | each origin in the log or below its floor; if the session    |
|                                     |            | expires, `ttl` (ms) and `expires_at`: then the key, the log  |
|                                     |            | and the checkpoint expire, too                               |
| `localfirst:<ns>:{<session>}:log`   | list       | changes after `floor`, oldest first:                         |
|                                     |            | `<admitted_at>:<digest><wire bytes>`; the digest is of the   |
|                                     |            | log up to this change, in 8 bytes: two 32-bit numbers,       |
|                                     |            | big-endian                                                   |
| `localfirst:<ns>:{<session>}:`      | string     | what stands for the changes up to `floor`; there if `floor`  |
| `checkpoint`                        |            | isn't 0                                                      |
| `localfirst:<ns>:{<session>}:past`  | hash       | how lives of the session ended, by generation: `d<time>`, it |
|                                     |            | was deleted, which is forgotten then; `e<time>`, it expired, |
|                                     |            | or will                                                      |
| `localfirst:<ns>:hints`             | channel    | JSON `[session id, generation, seq]` of sessions as they move|

`<ns>` and `<session>` are percent-encoded (UTF-8; all but letters, digits and `_.-~`), so no id can look like another
key or break the hash tag that keeps a session in one slot of a cluster. The session "Ann & Bob" of the namespace "app":

    LRANGE localfirst:app:{Ann%20%26%20Bob}:log 0 -1

The index is written before the session, in another slot of a cluster, so it may name sessions that are not there; a
worker takes them out now and then. Times are Unix milliseconds by the server's clock.
"""

from __future__ import annotations

from urllib.parse import quote

from localfirst.errors import ConfigurationError


class Keys:
    """The names of all keys of one namespace."""

    def __init__(self, namespace: str) -> None:
        try:
            self._prefix = f"localfirst:{quote(namespace, safe='')}:"
        except (TypeError, UnicodeEncodeError):
            raise ConfigurationError(f"a namespace is a string of valid Unicode, not {namespace!a}") from None
        self.store = f"{self._prefix}store"
        self.sessions = f"{self._prefix}sessions"
        self.hints = f"{self._prefix}hints"

    def session(self, session_id: str) -> tuple[str, str, str, str]:
        """Head, log, checkpoint and ends of a session.

        >>> Keys("app").session("Bob")[:2]
        ('localfirst:app:{Bob}:head', 'localfirst:app:{Bob}:log')
        """
        tag = f"{self._prefix}{{{quote(session_id, safe='')}}}"
        return f"{tag}:head", f"{tag}:log", f"{tag}:checkpoint", f"{tag}:past"
