"""Limits and defaults, each with its unit and its source (AWS's newest value unless said otherwise)."""

from __future__ import annotations

from typing import Final

KIB: Final = 1024
MIB: Final = 1024 * KIB

# Payloads
MAX_ASYNC_EVENT_BYTES: Final = MIB  # Lambda asynchronous request, 1 MB since 2026-01
MAX_SYNC_PAYLOAD_BYTES: Final = 6 * MIB  # Lambda synchronous request and response
MAX_RESPONSE_BYTES: Final = 6_291_556  # Lambda's hard check on a response
MAX_STREAM_BYTES: Final = 200 * MIB  # Lambda's streamed response
MAX_MESSAGE_BYTES: Final = MIB  # SQS body and attributes, since 2025-08
MAX_STREAM_RECORD_BYTES: Final = MIB
MAX_BATCH_PAYLOAD_BYTES: Final = 6 * MIB  # what one invocation of a mapping may carry

# Queues, with the bounds of SQS
DEFAULT_VISIBILITY_TIMEOUT_S: Final = 30
MAX_VISIBILITY_TIMEOUT_S: Final = 43_200
MAX_DELAY_S: Final = 900
DEFAULT_RETENTION_S: Final = 345_600
MIN_RETENTION_S: Final = 60
MAX_RETENTION_S: Final = 1_209_600
MAX_RECEIVES: Final = 1_000
MAX_ATTRIBUTES: Final = 10
MAX_RECEIVE_WAIT_S: Final = 20
DEFAULT_KMS_REUSE_S: Final = 300
MAX_IN_FLIGHT: Final = 120_000  # of one queue, over the AWS wire; the SDK and workers know no such limit
MAX_LEASE_TOTAL_S: Final = 43_200  # how long one receive may hide a message, however often it is extended
QUEUE_GONE_S: Final = 60  # after its deletion a queue's name is not free for so long, over the AWS wire
PURGE_EVERY_S: Final = 60
DEDUPLICATION_MS: Final = 300_000  # FIFO: five minutes from the first accept
ATTEMPT_MS: Final = 300_000  # a ReceiveRequestAttemptId is good for five minutes
MAX_RECEIVE_COUNT: Final = 1_000  # messages a receive() of the SDK; the AWS wire keeps SQS's 10

# Functions: Lambda, wider where the comment says so
DEFAULT_TIMEOUT_S: Final = 3.0
MAX_TIMEOUT_S: Final = 86_400.0  # wider: Lambda stops at 900
DEFAULT_RETRIES: Final = 2
MAX_RETRIES: Final = 100  # wider: Lambda stops at 2
DEFAULT_RETRY_DELAYS_S: Final = (60.0, 120.0)
DEFAULT_MAX_EVENT_AGE_S: Final = 21_600.0
DEFAULT_MAX_CRASHES: Final = 3  # ours
MAX_CONCURRENCY: Final = 100_000
DEFAULT_KEEP_STATUS_S: Final = 3_600.0  # ours
MAX_KEEP_STATUS_S: Final = 604_800.0
MAX_KEEP_RESULT_BYTES: Final = MIB
KEPT_ERROR_CHARACTERS: Final = 512  # of an error's message, as long as its status is kept
SYSTEM_BACKOFF_FIRST_S: Final = 1.0  # Lambda: throttles and system errors go back with 1 s to 5 min
SYSTEM_BACKOFF_LAST_S: Final = 300.0

# Mappings: Lambda's event source mappings on standard queues
DEFAULT_BATCH_SIZE: Final = 10
MAX_BATCH_SIZE: Final = 10_000
MAX_BATCH_WINDOW_S: Final = 300.0
MIN_MAPPING_CONCURRENCY: Final = 1  # wider: Lambda starts at 2
MAX_MAPPING_CONCURRENCY: Final = 1_000

# Ours
MAX_PARTITIONS: Final = 256  # an id has room for 1,024
LEASE_MS: Final = 20_000
OWN_ID_MEMORY_MS: Final = 300_000  # a caller's id is remembered for five minutes
SEND_TOKEN_MEMORY_S: Final = 120  # a send's token lives one to two minutes
MAX_SEND_MESSAGES: Final = 1_000  # messages a script call
MAX_SEND_BYTES: Final = 4 * MIB  # bytes a script call, unless one message alone is larger
CLAIM_BYTES: Final = 6 * MIB
OUTBOX_KEEP_MS: Final = 86_400_000  # after a day what cannot be delivered goes to the dead-letter queue
ERROR_MESSAGE_ATTRIBUTE_BYTES: Final = 1_024  # Lambda: ErrorMessage of a dead letter is cut to 1 KB
DEFAULT_STREAM_MAX_LENGTH: Final = 1_000_000
DEFAULT_STREAM_RETENTION_S: Final = 604_800
DEFAULT_MEMORY_MB: Final = 128
MAX_MEMORY_MB: Final = 10_240
MAX_ENVIRONMENT_BYTES: Final = 4 * KIB
