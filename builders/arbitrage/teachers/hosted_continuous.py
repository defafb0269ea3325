"""Continuous batching by transformers: a sequence that ends makes room for the next at once, and nothing is padded.

Beside :mod:`hosted`, whose completions it makes with the same tokens. The manager of transformers (5.23) has one random
state for all requests; what it has too is a list of processors of logits, each told which requests the rows belong to.
One of them leaves, of every row, the token that the request's own stream draws, so that "the likeliest", which the
manager then takes, is that one. What is drawn is decided on the host, so that nothing runs ahead of it and there are no
captured graphs.

Without flash attention the manager masks all pages of a batch for each of its sequences: on a CPU it takes twice the
time of padded batches (tiny model, 32 at a time, 0.98 s against 2.05 s). So it is the usual way on GPUs with flash
attention alone. Its parts that are used here are private to a degree; where they are others, :class:`Unfit` says so.
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from aya_data.builders.arbitrage.teachers.hosted_protocol import Desk, reason_of
else:
    from hosted_protocol import Desk, reason_of

__all__ = ["Continuous", "Unfit", "has_flash_attention"]

PAGE = 16
"""Tokens of a page of the cache."""
MASKED, UNMASKED = 1024, 8192
"""Tokens that one step reads at most, those of new prompts above all: where masks grow with them, and elsewhere."""
PATIENCE = 0.05
"""Seconds to wait for an answer before new requests are looked for."""


class Unfit(Exception):
    """Continuous batching is not to be had here."""


def has_flash_attention(model: Any) -> bool:
    """Whether there is an attention that reads of each sequence its own pages alone."""
    import torch

    if model.device.type != "cuda" or model.dtype not in (torch.bfloat16, torch.float16):
        return False
    known: Any = importlib.import_module("transformers.utils")
    checks = (getattr(known, f"is_flash_attn_{version}_available", None) for version in (3, 2))
    return bool(getattr(model, "_supports_flash_attn", False)) and any(check() for check in checks if check is not None)


class Continuous:
    """The requests that run, and the manager that runs them; ``engine`` is the :class:`hosted.Completions` that reads
    requests and writes texts. At most ``rows`` run at a time, in a cache of ``tokens``."""

    def __init__(self, engine: Any, rows: int, tokens: int) -> None:
        self.engine, self.rows, self.tokens = engine, rows, tokens
        self.running: dict[str, Any] = {}
        self.seen: dict[str, Any] = {}
        self.desk: Desk | None = None
        self.manager: Any = self._made()
        self.started = False

    def _made(self) -> Any:
        model = self.engine.model
        try:
            transformers: Any = importlib.import_module("transformers")
            flash = has_flash_attention(model)
            manager = model.init_continuous_batching(
                generation_config=transformers.GenerationConfig(
                    do_sample=False, eos_token_id=sorted(self.engine.ends) or -1
                ),
                continuous_batching_config=transformers.ContinuousBatchingConfig(
                    page_size=PAGE,
                    num_blocks=-(-self.tokens // PAGE) + self.rows,
                    max_batch_tokens=max(UNMASKED if flash else MASKED, self.rows),
                    max_requests_per_batch=self.rows,
                    max_blocks_per_request=0,
                    use_async_batching=False,
                    use_cuda_graph=False,
                    auto_switch_to_flash=flash,
                ),
            )
            processors = manager.logit_processor
            processors.logits_processor.append(self._processor())
            processors.tensors_required += 1
            processors.do_processing = True
        # Of parts that are others than expected, anything may be raised.
        except Exception as error:
            raise Unfit(f"there is no continuous batching for this model here: {reason_of(error)}") from error
        return manager

    def _processor(self) -> Any:
        module: Any = importlib.import_module("transformers.generation.continuous_batching.cb_logits_processors")
        return type("Drawn", (_Drawn, module.ContinuousBatchingLogitsProcessor), {})(self)

    def run(self, desk: Desk) -> list[Any]:
        """Answer requests until told to stop. Returns early, with what is not answered, where the manager broke: of too
        little memory, or of an architecture that it does not know."""
        self.desk = desk
        large: list[Any] = []
        while True:
            room = 0 if large else self.rows - len(self.running)
            new = desk.take(room, wait=not self.running) if room else []
            if desk.stopped:
                self._close()
                return []
            for request in filter(None, (self.engine.prepared(desk, one) for one in new)):
                if request.room > self.tokens:
                    large.append(request)
                else:
                    self._add(request)
            if self.running and (trouble := self._collect()):
                sys.stderr.write(f"continuous batching ended: {trouble}\n")
                left = [*self.running.values(), *large]
                self._close()
                return left
            if large and not self.running:
                self._close()
                for request in large:
                    self.engine.careful(desk, [request])
                large.clear()

    def _add(self, request: Any) -> None:
        if self.manager is None:
            self.manager = self._made()
        start, self.started = not self.started, True
        name = str(request.id)
        # First: the manager may have it answered before this returns.
        self.running[name] = request
        ends = sorted(self.engine.ends) or -1
        self.manager.add_request(request.tokens, request_id=name, max_new_tokens=request.limit, eos_token_id=ends)
        if start:  # once: a manager whose thread has ended drops requests, and would forget why if started again
            self.manager.start()

    def _collect(self) -> str:
        """Send what has ended, after a moment's wait for the first; return what broke the manager, if anything did."""
        wait = PATIENCE
        while (found := self.manager.get_result(timeout=wait)) is not None:
            wait = 0.0
            if found.error is not None:
                return str(found.error)
            request = self.running.get(found.request_id)
            if request is not None and found.is_finished():
                made = list(found.generated_tokens)
                self._finish(request, made, "stop" if made and made[-1] in self.engine.ends else "length")
        return "" if self.manager.is_running() else "its thread has ended"

    def _finish(self, request: Any, made: list[int], finish: str) -> None:
        name = str(request.id)
        if self.running.pop(name, None) is not None and self.desk is not None:
            self.seen.pop(name, None)
            self.engine.send(self.desk, request, made, finish)

    def _close(self) -> None:
        """End the manager's thread, and give back its cache."""
        manager, self.manager, self.started = self.manager, None, False
        self.running.clear()
        self.seen.clear()
        if manager is not None:
            manager.stop(block=True, hard_stop=True)

    # The manager's thread.

    def draws(self, states: list[Any]) -> list[tuple[int, int]]:
        """Return seed and step of the token that each of these states of the manager is about to get."""
        if self.desk is not None:
            self.desk.step()
        return [self._draw(state) for state in states]

    def _draw(self, state: Any) -> tuple[int, int]:
        request = self.running.get(state.request_id)
        if request is None:
            return 0, 0  # answered already
        # What made room for others in between has what it made among its initial tokens.
        step = len(state.initial_tokens) + len(state.generated_tokens) - len(request.tokens)
        if step and self.engine.stops:
            made = [*state.initial_tokens[len(request.tokens) :], *state.generated_tokens]
            if self.engine.stopped(made):
                self._finish(request, made, "stop")
                self.manager.cancel_request(state.request_id)
        return request.seed, step

    def tokens_seen(self, states: list[Any], scores: Any) -> Any:
        """Return which tokens of the vocabulary stand in each of the texts: bool, like ``scores``; None if it does not
        matter."""
        import torch

        if self.engine.sampler.penalty == 1.0:
            return None
        rows = []
        for state in states:
            row = self.seen.get(state.request_id)
            if row is None:
                row = torch.zeros(scores.shape[1], dtype=torch.bool, device=scores.device)
                row[torch.tensor([*state.initial_tokens, *state.generated_tokens], device=scores.device)] = True
                if state.request_id in self.running:
                    self.seen[state.request_id] = row
            else:
                # What made room for others in between has its newest token among its initial ones.
                row[(state.generated_tokens or state.initial_tokens)[-1]] = True
            rows.append(row)
        return torch.stack(rows)


class _Drawn:
    """Samples the rows of a step of the manager."""

    supported_kwargs: ClassVar[dict[str, type]] = {}
    ignored_kwargs = ()

    def __init__(self, batch: Continuous) -> None:
        self.batch = batch
        self.states: list[Any] = []
        self.next: list[tuple[int, int]] = []

    def fill_defaults(self, int32_tensor: Any) -> None:
        """It has no use for the tensor that arguments go by."""
        int32_tensor.zero_()

    def prepare_tensor_args(self, requests_with_new_token: list[Any]) -> Any:
        """Take down whose tokens are next."""
        import torch

        self.states = [one.state for one in requests_with_new_token]
        self.next = self.batch.draws(self.states)
        return torch.zeros(len(self.states), dtype=torch.int32)

    def __call__(self, scores: Any, tensor_arg: Any) -> Any:
        return self.batch.engine.sampler(scores, self.next, self.batch.tokens_seen(self.states, scores))
