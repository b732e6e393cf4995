"""How many prompts and tokens a generation run still needs for the number of tasks asked for.

The share of candidates that are new falls as tasks are kept, since each of them is one more that a candidate may be
too similar to. As with the words of a text (Heaps' law), it falls as a power of what is known: c * known ** -a. Both
numbers are fitted to the answers so far; where these say little about a, it stays near 1/4, which is what samples from
many kinds of distributions with a long tail have in common.
"""

# Copyright 2026 The contributors. Licensed under the Apache License, Version 2.0 (see LICENSE).

import collections
import dataclasses
import math

EXPONENTS = [0.04 * i for i in range(51)]
USUAL_EXPONENT, ITS_SPREAD = 0.25, 0.25  # mean and standard deviation of the normal prior; a hundred tasks outweigh it


@dataclasses.dataclass
class Need:
    """What a run still needs, in the mean of what the answers so far took."""

    prompts: float
    prompt_tokens: float
    completion_tokens: float

    def text(self, prompts_per_request: int, price_per_million: list[float] | None = None) -> str:
        """As a clause: requests, tokens and, with the prices of a million prompt and completion tokens, the cost.

        >>> Need(19.2, 80_000, 1_020_000).text(5, [0.15, 0.60])
        'about 4 requests and 1,100,000 tokens, which cost about 0.62'
        """
        num_requests = math.ceil(self.prompts / prompts_per_request)
        text = f"about {num_requests:,} requests and {self.prompt_tokens + self.completion_tokens:,.0f} tokens"
        if price_per_million:
            prompt_price, completion_price = price_per_million
            cost = (self.prompt_tokens * prompt_price + self.completion_tokens * completion_price) / 1e6
            text += f", which cost about {cost:,.2f}"
        return text


class Forecast:
    """The answers so far, and what they say of the tasks still missing."""

    def __init__(self):
        # By the log of the number known, to a tenth, so that a long run's fit stays cheap.
        self._num_candidates, self._num_kept = collections.Counter(), collections.Counter()
        self._num_prompts = 0
        self._num_paid_prompts = self._prompt_tokens = self._completion_tokens = 0

    def observe(self, num_known: int, num_prompts: int, num_candidates: int, num_kept: int) -> None:
        """Count the candidates in the answer to some prompts, of which num_kept were new beside num_known."""
        self._num_prompts += num_prompts
        x = round(math.log(max(num_known + num_kept / 2, 1)), 1)
        self._num_candidates[x] += num_candidates
        self._num_kept[x] += num_kept

    def observe_cost(self, num_prompts: int, prompt_tokens: int, completion_tokens: int) -> None:
        """Count what an answer took."""
        self._num_paid_prompts += num_prompts
        self._prompt_tokens += prompt_tokens
        self._completion_tokens += completion_tokens

    def fit(self) -> tuple[float, float]:
        """c and a of the share that is new, c * known ** -a: the most probable ones, with the numbers kept Poisson."""
        total = self._num_kept.total()
        origin = min(self._num_candidates)  # keeps the powers near 1
        sum_log = sum(kept * (x - origin) for x, kept in self._num_kept.items())
        best = (-math.inf, 0.0, 0.0)
        for a in EXPONENTS:
            expected = sum(number * math.exp(-a * (x - origin)) for x, number in self._num_candidates.items())
            log_c = math.log(total / expected)
            log_prior = -(((a - USUAL_EXPONENT) / ITS_SPREAD) ** 2) / 2
            best = max(best, (total * log_c - a * sum_log + log_prior, log_c + a * origin, a))
        return math.exp(best[1]), best[2]

    def need(self, num_known: int, num_missing: int) -> Need | None:
        """What num_missing more tasks take; None as long as nothing was kept."""
        if not self._num_kept.total():
            return None
        c, a = self.fit()
        # The integral of 1 / share over the number known.
        candidates = ((num_known + num_missing) ** (1 + a) - num_known ** (1 + a)) / (c * (1 + a))
        prompts = candidates * self._num_prompts / self._num_candidates.total()
        per_prompt = prompts / max(self._num_paid_prompts, 1)
        return Need(prompts, self._prompt_tokens * per_prompt, self._completion_tokens * per_prompt)
