"""Threads that work is handed to, for as long as there are any."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class Threads(ThreadPoolExecutor):
    """A pool that takes work also after it was shut down, and while the interpreter ends, when none may be given any:
    it is done at once then, by whoever brings it. So what is pending can be sent, and written, to the very end.

    >>> threads = Threads(1)
    >>> threads.shutdown()
    >>> threads.submit(abs, -1).result()
    1
    """

    def submit(self, call: Callable[P, T], /, *arguments: P.args, **keywords: P.kwargs) -> Future[T]:
        """A future of what the call returns or raises."""
        left = [partial(call, *arguments, **keywords)]

        def once() -> T:
            return left.pop()()

        try:
            return super().submit(once)
        except RuntimeError:
            future: Future[T] = Future()
        try:
            future.set_result(once())  # It may stand in the queue, too, where no thread could be started.
        except BaseException as error:
            future.set_exception(error)
        return future
