"""What users write: an app, and functions registered on it by decorators."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeVar

from broker import limits
from broker.builds import check_build
from broker.environment import check_environment
from broker.errors import InvalidOption
from broker.event_patterns import InvalidPattern
from broker.filter_criteria import SQS_BODY, FilterCriteria, RecordFilter
from broker.names import Queue, Target, check_name
from broker.records import FunctionSettings, MappingSettings, RecursiveLoop
from runtime.handlers import Handler, HandlerFunction, name_of

H = TypeVar("H", bound=Handler)


class App:
    """A set of functions that one worker serves. Decorators return the handler unchanged, so it stays testable.

    ``build`` names the code, as a release or a commit, so that versions can be published of it; or
    ``penstock runtime --build``. Raises InvalidOption.
    """

    def __init__(self, *, build: str = "") -> None:
        self.build: Final = check_build(build)
        """What this code is called: a release, a commit."""
        self.functions: Final[dict[str, HandlerFunction]] = {}

    def function(
        self,
        without_parentheses: None = None,
        /,
        *,
        name: str | None = None,
        timeout: float = limits.DEFAULT_TIMEOUT_S,
        retries: int = limits.DEFAULT_RETRIES,
        retry_delays: Sequence[float] = limits.DEFAULT_RETRY_DELAYS_S,
        max_event_age: float = limits.DEFAULT_MAX_EVENT_AGE_S,
        concurrency: int | None = None,
        paused: bool = False,
        max_crashes: int = limits.DEFAULT_MAX_CRASHES,
        on_success: Target | None = None,
        on_failure: Target | None = None,
        dead_letter: Target | None = None,
        keep_status: float = limits.DEFAULT_KEEP_STATUS_S,
        keep_result: int = 0,
        durability: str | None = None,
        recursive_loop: RecursiveLoop = "Terminate",
        description: str = "",
        memory: int = limits.DEFAULT_MEMORY_MB,
        environment: Mapping[str, str] | None = None,
        partitions: int = 1,
    ) -> Callable[[H], H]:
        """Registers a function under its own name, or ``name``. All times in seconds; Lambda's defaults.

        ``retries`` more tries follow an error or timeout, each after its delay of ``retry_delays`` (the last one
        repeats); an event older than ``max_event_age`` is given up. ``concurrency`` limits running calls over all
        workers and sources; 0 gives events up at once; ``paused`` keeps them queued. An event whose worker dies
        ``max_crashes`` more times while it runs alone is quarantined. How an event ended can be asked for
        ``keep_status`` seconds, with its result where that has at most ``keep_result`` bytes. ``durability`` is what an
        event must be before its sender is answered; a worker does not start where Redis does not give that. A chain of
        events that has run the function 16 times is stopped as a loop, unless ``recursive_loop`` is "Allow".
        ``memory`` (MB; it limits nothing) and ``environment`` are what the context tells. ``partitions`` spreads its
        events over the nodes of a cluster; there are never fewer than there were. Raises InvalidOption,
        InvalidName.
        """
        if without_parentheses is not None:
            raise TypeError("@app.function needs parentheses: write @app.function()")
        settings = FunctionSettings(
            timeout_s=timeout,
            retries=retries,
            retry_delays_s=_delays(retry_delays),
            max_event_age_s=max_event_age,
            concurrency=concurrency,
            paused=paused,
            max_crashes=max_crashes,
            on_success=_target("on_success", on_success),
            on_failure=_target("on_failure", on_failure),
            dead_letter=_target("dead_letter", dead_letter),
            keep_status_s=keep_status,
            keep_result_bytes=keep_result,
            durability=durability or "",
            recursive_loop=recursive_loop,
            description=description,
            memory_mb=memory,
            environment=_variables(environment),
            partitions=partitions,
        )

        def register(handler: H) -> H:
            self._add(HandlerFunction(handler, name=name, settings=settings))
            return handler

        return register

    def queue(
        self,
        queue: str | Queue,
        *,
        name: str | None = None,
        batch_size: int = limits.DEFAULT_BATCH_SIZE,
        batch_window: float = 0,
        partial_failures: bool = False,
        max_concurrency: int | None = None,
        filters: Sequence[str | dict[str, Any]] = (),
        timeout: float = limits.DEFAULT_TIMEOUT_S,
        concurrency: int | None = None,
        max_crashes: int = limits.DEFAULT_MAX_CRASHES,
        recursive_loop: RecursiveLoop = "Terminate",
        description: str = "",
        memory: int = limits.DEFAULT_MEMORY_MB,
        environment: Mapping[str, str] | None = None,
    ) -> Callable[[H], H]:
        """Registers a batch handler and the mapping that feeds it from a queue.

        It gets Lambda's SQS event, or a list of records where annotated ``list[Record[T]]``. A batch goes out when it
        has ``batch_size`` messages, 6 MB, or ``batch_window`` seconds are over. What succeeded is deleted; after an
        error the whole batch, with ``partial_failures`` what the handler's ``batchItemFailures`` name, is visible
        again when the queue's visibility timeout is over. At most ``max_concurrency`` batches run at a time over all
        workers. A window is not required for large batches: without one, a batch is what one poll found.
        ``filters`` are patterns, each a dict or its JSON text; a message that none of them matches is deleted, and the
        handler is not called for it. ``recursive_loop`` is as of :meth:`function`. Raises InvalidOption, InvalidName,
        InvalidPattern.
        """
        if callable(queue):
            raise TypeError('@app.queue needs the name of its queue: write @app.queue("orders")')
        queue_name = queue.name if isinstance(queue, Queue) else check_name("queue", queue)
        settings = FunctionSettings(
            timeout_s=timeout,
            concurrency=concurrency,
            max_crashes=max_crashes,
            recursive_loop=recursive_loop,
            description=description,
            memory_mb=memory,
            environment=_variables(environment),
        )
        patterns = _patterns(filters)

        def register(handler: H) -> H:
            function = name or name_of(handler)
            mapping = MappingSettings(
                queue=queue_name,
                function=check_name("function", function),
                batch_size=batch_size,
                batch_window_s=batch_window,
                partial_failures=partial_failures,
                max_concurrency=max_concurrency,
                filters=patterns,
            )
            self._add(HandlerFunction(handler, name=name, settings=settings, mapping_of=mapping))
            return handler

        return register

    def _add(self, function: HandlerFunction) -> None:
        if function.name in self.functions:
            raise InvalidOption("name", function.name, "a function of this app has that name already")
        self.functions[function.name] = function


def _delays(delays: object) -> tuple[float, ...]:
    if not isinstance(delays, tuple | list):
        raise InvalidOption("retry_delays", delays, "must be a tuple or list of seconds")
    return tuple(delays)


def _variables(environment: Mapping[str, str] | None) -> dict[str, str]:
    check_environment(environment or {})
    return dict(environment or {})


def _patterns(filters: object) -> tuple[str, ...]:
    if not isinstance(filters, tuple | list):
        raise InvalidOption("filters", filters, "must be a tuple or list of patterns")
    criteria = FilterCriteria(
        filters=tuple(one for index, stated in enumerate(filters) for one in _filter(index, stated).filters)
    )
    RecordFilter(criteria, SQS_BODY)  # raises InvalidPattern
    return tuple(one.pattern for one in criteria.filters)


def _filter(index: int, stated: object) -> FilterCriteria:
    place = f"Filters[{index}].Pattern"
    if not isinstance(stated, str | dict):
        raise InvalidPattern(place, "it must be a dict or its JSON text", stated)
    try:
        return FilterCriteria.of(stated)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidPattern(place, f"it cannot be encoded as JSON ({error})", stated) from error


def _target(option: str, target: object) -> Target | None:
    if target is not None and not isinstance(target, Target):
        raise InvalidOption(option, target, 'must be Queue("name"), Function("name") or Stream("name")')
    return target
