"""How many damaged samples a run puts up with: each is named in the log, and too many stop it."""

import logging
from collections import Counter

from pretrain.batch import Batch
from sharding.errors import UserError

log = logging.getLogger(__name__)

AT_LEAST = 1_000  # samples over which the share is reckoned: one damaged among the first ten is not 10 %


class SkipLimit:
    """Counts what one rank skips. `share` of the samples may be, 0 to 1; of the first 1,000 as many as of 1,000."""

    def __init__(self, share: float) -> None:
        self.share = share
        self.samples = 0
        self.skipped: Counter[str] = Counter()  # by reason

    def count(self, batch: Batch) -> None:
        """Add a batch; UserError, with the reasons and how often each occurred, where it is one too many."""
        self.samples += len(batch.keys)
        for sample in batch.skipped:
            self.skipped[sample.reason] += 1
            log.error("sample %s skipped: %s", sample.key, sample.detail)
        if batch.skipped and self.skipped.total() > self.share * max(self.samples, AT_LEAST):
            reasons = ", ".join(f"{count} {reason}" for reason, count in self.skipped.items())
            last = batch.skipped[-1]
            raise UserError(
                f"{reasons} of {self.samples:,} samples, more than data.max_skipped {self.share:g} allows; "
                f"the last was {last.key}: {last.detail}; `sharding verify` finds all"
            )
