"""From asyncio to an ordinary iterator: what a coroutine hands over, as it comes."""

import asyncio
import queue
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import suppress
from typing import Any, TypeVar

T = TypeVar("T")


def pumped(work: Callable[[Callable[[T], None]], Coroutine[Any, Any, None]]) -> Iterator[T]:
    """What a coroutine gives to the function that it gets, which runs in an event loop on a thread of its own.

    An exception in it ends the iterator, after what came before. Closing the iterator (or Ctrl-C in its consumer)
    cancels the coroutine, and waits until it has ended.
    """
    results: queue.SimpleQueue[tuple[T] | BaseException | None] = queue.SimpleQueue()

    def thread_main() -> None:
        try:
            loop.run_until_complete(task)
        except BaseExceptionGroup as group:
            results.put(group.exceptions[0])
        except BaseException as error:
            results.put(error)
        else:
            results.put(None)
        finally:
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.close()

    loop = asyncio.new_event_loop()
    task = loop.create_task(work(lambda result: results.put((result,))))
    thread = threading.Thread(target=thread_main, name="workbench-client", daemon=True)
    thread.start()
    try:
        while (result := results.get()) is not None:
            if isinstance(result, BaseException):
                raise result
            yield result[0]
    finally:
        with suppress(RuntimeError):  # the loop has ended by itself
            loop.call_soon_threadsafe(task.cancel)
        thread.join()
