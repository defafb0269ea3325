"""The process of a model that transformers runs: completions, or the scores of a reward model.

A script of its own (see :mod:`hosted_protocol`): it needs torch and transformers, peft for adapters, and nothing of
this package.

**Completions** are generated in batches of similar length, padded on the left and masked; or each takes the place of
one that has ended (:mod:`hosted_continuous`). Which requests share a batch must not matter. So every request draws its
tokens from a stream of its own: step ``k`` takes the token at the quantile
``hash(seed, k)`` of the model's distribution, with tokens in the order of their numbers, so that what rounding moves is
the bounds of an interval by 1e-7 and never which interval stands where. At temperature 0 the likeliest token is
taken. What remains is the arithmetic: other shapes round differently, in float32 some 1e-6 of a logit.
``generate`` of transformers does the steps, since it knows the caches of all architectures; its samplers do not: they
share one stream between the rows of a batch, and count padding as text that was seen.

min_p, top_k and top_p are applied in this order, as vLLM does; tokens of the prompt count as seen for the repetition
penalty. An answer is sent the moment it ends, while others of its batch go on.

**Scores** are raw logits of a sequence classification model with one label, of the whole conversation, padded on the
right and masked. These models read the score at the last token that is not the padding token of their configuration;
where it names none, the last token is meant, so each batch is padded with a token that occurs in none of its texts.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import platform
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aya_data.builders.arbitrage.teachers.hosted_continuous import Continuous, Unfit, has_flash_attention
    from aya_data.builders.arbitrage.teachers.hosted_protocol import (
        Desk,
        Refused,
        Unsafe,
        encoded,
        reason_of,
        serve,
        without_network,
    )
else:
    from hosted_continuous import Continuous, Unfit, has_flash_attention
    from hosted_protocol import Desk, Refused, Unsafe, encoded, reason_of, serve, without_network

AHEAD = 4
"""Batches whose requests are sorted by length together."""


def load(settings: dict[str, Any]) -> Completions | Scores:
    """Load tokenizer and model; ``task`` is ``generate`` or ``score``."""
    without_network()
    try:
        import torch

        transformers = _transformers()
    except ImportError as error:
        raise Refused(
            f"the interpreter has no {getattr(error, 'name', None) or 'torch'} ({reason_of(error)})",
            "Install torch and transformers there, or name another interpreter under 'python'.",
            "python",
        ) from error
    transformers.logging.disable_progress_bar()
    device = _device(settings["device"])
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(settings["tokenizer"], trust_remote_code=False)
        template = _template(settings, tokenizer)
        model = _model(settings, device)
    except (Refused, torch.OutOfMemoryError):
        raise
    # The libraries below raise whatever they like for a file that is none of theirs.
    except Exception as error:
        raise Refused(f"the model cannot be loaded: {reason_of(error)}") from error
    kind = Completions if settings["task"] == "generate" else Scores
    facts = {
        "engine": "transformers",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "dtype": str(model.dtype).removeprefix("torch."),
        "parameters": sum(weight.numel() for weight in model.parameters()),
        "tokenizer": _tokenizer_digest(tokenizer),
        "template": hashlib.sha256(template.encode()).hexdigest(),
    }
    return kind(model, tokenizer, template, settings, facts)


def _transformers() -> Any:
    """The library, whose types are not all there."""
    return importlib.import_module("transformers")


def _template(settings: dict[str, Any], tokenizer: Any) -> str:
    template = settings.get("template") or getattr(tokenizer, "chat_template", None)
    if not template:
        raise Refused("the tokenizer has no chat template", "Name a Jinja file under 'chat_template'.", "chat_template")
    if isinstance(template, dict):
        template = template.get("default") or next(iter(template.values()))
    return str(template)


def _device(name: str) -> Any:
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (AssertionError, RuntimeError) as error:
        raise Refused(
            f"there is no device {name!r} here: {reason_of(error)}", "Write cpu, or cuda:0 with a GPU.", "device"
        ) from error
    return device


def _model(settings: dict[str, Any], device: Any) -> Any:
    import torch

    transformers = _transformers()
    folder, task = settings["model"], settings["task"]
    config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False)
    if task == "score" and config.num_labels != 1:
        raise Refused(
            f"the model has {config.num_labels} labels, a reward model has one",
            "Choose a model that was trained to give one reward.",
        )
    dtype = settings["dtype"]
    if dtype == "auto" and device.type == "cpu":
        dtype = "float32"
    version = tuple(int(part) for part in transformers.__version__.split(".")[:2])
    automatic = transformers.AutoModelForCausalLM if task == "generate" else None
    made, loading = (automatic or transformers.AutoModelForSequenceClassification).from_pretrained(
        folder,
        config=config,
        trust_remote_code=False,
        output_loading_info=True,
        **{"dtype" if version >= (4, 56) else "torch_dtype": dtype if dtype == "auto" else getattr(torch, dtype)},
    )
    # What the checkpoint does not have is made of random numbers, which would answer too.
    missing = sorted(loading["missing_keys"])
    if missing:
        raise Refused(
            f"the checkpoint has no weights for {missing[0]}"
            + (f" and {len(missing) - 1} more" if len(missing) > 1 else ""),
            "It is no language model." if task == "generate" else "It is no reward model.",
        )
    if settings.get("adapter"):
        made = _adapted(made, settings["adapter"])
    return made.to(device).eval()


def _adapted(model: Any, folder: str) -> Any:
    try:
        peft: Any = importlib.import_module("peft")
    except ImportError as error:
        what = "an adapter needs the package 'peft', which the interpreter has not"
        raise Refused(what, "Install it.", "adapter") from error
    return peft.PeftModel.from_pretrained(model, folder, is_trainable=False).merge_and_unload()


def _tokenizer_digest(tokenizer: Any) -> str:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    content = backend.to_str() if backend is not None else repr(sorted(tokenizer.get_vocab().items()))
    return hashlib.sha256(content.encode()).hexdigest()


class _Request:
    """One request as the model reads it: token numbers, and so many tokens that an answer may have."""

    __slots__ = ("id", "limit", "seed", "tokens")

    def __init__(self, id: int, tokens: list[int], seed: int, limit: int) -> None:
        self.id, self.tokens, self.seed, self.limit = id, tokens, seed, limit

    @property
    def room(self) -> int:
        return len(self.tokens) + self.limit


class _Batching:
    """Takes requests, sorts them by length, and runs them in batches within the limits."""

    answers = True

    def __init__(
        self, model: Any, tokenizer: Any, template: str, settings: dict[str, Any], facts: dict[str, Any]
    ) -> None:
        self.model, self.tokenizer, self.template, self.settings = model, tokenizer, template, settings
        self.rows: int = settings["batch_size"]
        self.tokens: int = settings["batch_tokens"]
        context = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        asked = settings.get("max_length")
        self.context: int | None = min(filter(None, (context, asked)), default=None)
        self.facts = {**facts, "max_length": self.context}

    def run(self, desk: Desk) -> None:
        self.batches(desk, [])

    def batches(self, desk: Desk, held: list[_Request]) -> None:
        """Answer what is held and what comes, batch by batch."""
        while True:
            new = desk.take(self.rows * AHEAD - len(held), wait=not held)
            if desk.stopped or not (held or new):
                return
            held += filter(None, (self.prepared(desk, request) for request in new))
            # The longest first: what does not fit into memory shows at once.
            held.sort(key=lambda request: (-len(request.tokens), request.id))
            batch = held[: self._fitting(held)]
            held = held[len(batch) :]
            if batch:
                self.careful(desk, batch)

    def prepared(self, desk: Desk, request: dict[str, Any]) -> _Request | None:
        """Return a request as the model reads it; answers those that it cannot read."""
        id = request["id"]
        try:
            tokens = encoded(
                self.tokenizer,
                request["messages"],
                template=self.template,
                variables=self.settings.get("template_variables"),
                answer=self.answers,
            )
        except Unsafe as error:
            desk.absent(id, str(error))
            return None
        # Templates are programs; they raise what they like.
        except Exception as error:
            desk.fail(id, f"the chat template refuses the conversation: {reason_of(error)}")
            return None
        limit = self.settings["sampling"]["max_tokens"] if self.answers else 0
        if self.context is not None:
            limit = min(limit, self.context - len(tokens))
            if limit < (1 if self.answers else 0):
                reason = f"the conversation has {len(tokens)} tokens, the model takes {self.context}"
                desk.absent(id, reason, prompt_tokens=len(tokens))
                return None
        if not tokens:
            desk.fail(id, "the chat template makes an empty text of the conversation")
            return None
        return _Request(id, tokens, request["seed"], limit)

    def _fitting(self, held: list[_Request]) -> int:
        room = 0
        for count, request in enumerate(held[: self.rows]):
            room = max(room, request.room)
            if count and room * (count + 1) > self.tokens:
                return count
        return min(len(held), self.rows)

    def careful(self, desk: Desk, batch: list[_Request]) -> None:
        """Run a batch, in halves where the device has not the memory for it."""
        import torch

        left = {request.id: request for request in batch}
        reason = ""
        try:
            with torch.inference_mode():
                self._batch(desk, batch, left)
        except torch.OutOfMemoryError as error:
            reason = reason_of(error)
        if not reason or desk.stopped:
            return
        # Outside the handler, whose traceback holds the tensors.
        with contextlib.suppress(RuntimeError):
            torch.cuda.empty_cache()
        again = list(left.values())
        if len(again) <= 1:
            for request in again:
                desk.fail(request.id, f"the device has too little memory: {reason}")
            return
        self.tokens = max(1, sum(request.room for request in batch) // 2)
        half = (len(again) + 1) // 2
        self.careful(desk, again[:half])
        self.careful(desk, again[half:])

    def _batch(self, desk: Desk, batch: list[_Request], left: dict[int, _Request]) -> None:
        raise NotImplementedError


class Completions(_Batching):
    """A causal language model that answers."""

    def __init__(self, model: Any, *rest: Any) -> None:
        super().__init__(model, *rest)
        # Published models bring samplers of their own; what is asked for is asked for in full.
        known = model.generation_config
        ends = known.eos_token_id if known is not None else None
        listed = ends if isinstance(ends, list) else [ends]
        self.ends = frozenset(end for end in [*listed, self.tokenizer.eos_token_id] if end is not None)
        self.pad: int = next((one for one in (self.tokenizer.pad_token_id, *sorted(self.ends)) if one is not None), 0)
        model.generation_config = _transformers().GenerationConfig()
        self.sampler = Sampler(self.settings["sampling"])
        self.stops: list[str] = list(self.settings["sampling"]["stop"])
        # A token is a byte at least, so that the end of a stop text lies in so many of the last ones.
        self.tail = max((len(stop.encode()) for stop in self.stops), default=0) + 4
        self.continuous = self._continuous(self.settings.get("batching", "padded"))
        self.facts["batching"] = "padded" if self.continuous is None else "continuous"

    def _continuous(self, batching: str) -> Continuous | None:
        if batching == "padded" or (batching == "auto" and not has_flash_attention(self.model)):
            return None
        try:
            return Continuous(self, self.rows, self.tokens)
        except Unfit as unfit:
            if batching == "continuous":
                raise Refused(str(unfit), "Write padded, which all models can do.", "batching") from unfit
            return None

    def run(self, desk: Desk) -> None:
        """Answer requests until told to stop; in batches where they cannot take each other's place."""
        left = [] if self.continuous is None else self.continuous.run(desk)
        if not desk.stopped:
            self.batches(desk, left)

    def _batch(self, desk: Desk, batch: list[_Request], left: dict[int, _Request]) -> None:
        import torch

        transformers = _transformers()
        width = max(len(request.tokens) for request in batch)
        device = self.model.device
        ids = torch.tensor([[self.pad] * (width - len(one.tokens)) + one.tokens for one in batch], device=device)
        mask = torch.tensor([[0] * (width - len(one.tokens)) + [1] * len(one.tokens) for one in batch], device=device)
        drawn = _Drawn(self.sampler, batch, ids, mask)
        ending = _Ending(self, desk, batch, left)
        self.model.generate(
            input_ids=ids,
            attention_mask=mask,
            generation_config=transformers.GenerationConfig(
                max_new_tokens=max(request.limit for request in batch),
                do_sample=False,
                num_beams=1,
                pad_token_id=self.pad,
                use_cache=True,
            ),
            logits_processor=transformers.LogitsProcessorList([drawn]),
            stopping_criteria=transformers.StoppingCriteriaList([ending]),
        )

    def stopped(self, made: list[int]) -> bool:
        """Whether a stop text ends in the last token made."""
        return bool(self.stops) and any(stop in self.text(made[-self.tail :]) for stop in self.stops)

    def send(self, desk: Desk, request: _Request, made: list[int], finish: str) -> None:
        """Answer a request with the tokens made; the one that ends a sequence is none of its text."""
        text = self.text(made[:-1] if finish == "stop" and made[-1] in self.ends else made)
        cuts = [at for at in (text.find(stop) for stop in self.stops) if at >= 0]
        if cuts:
            text, finish = text[: min(cuts)], "stop"
        elif finish == "length":
            # The last character may have been cut apart.
            text = text.rstrip("\N{REPLACEMENT CHARACTER}")
        desk.answer(
            request.id, text=text, finish=finish, prompt_tokens=len(request.tokens), completion_tokens=len(made)
        )

    def text(self, tokens: list[int]) -> str:
        """Return the text of tokens, without special ones."""
        text: str = self.tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text


class Sampler:
    """Leaves, of the scores of each row, the one token that its own stream draws."""

    def __init__(self, sampling: dict[str, Any]) -> None:
        self.temperature: float = sampling["temperature"]
        self.top_p: float = sampling["top_p"]
        self.top_k: int | None = sampling["top_k"]
        self.min_p: float = sampling["min_p"]
        self.penalty: float = sampling["repetition_penalty"]

    def __call__(self, scores: Any, draws: list[tuple[int, int]], seen: Any) -> Any:
        """``scores`` [rows, vocabulary]; ``draws`` are seed and step of each row; ``seen`` (bool, like scores, or None
        where nothing is penalised) are the tokens that were there."""
        import torch

        scores = scores.float()
        if seen is not None:
            scores = torch.where(seen, torch.where(scores > 0, scores / self.penalty, scores * self.penalty), scores)
        if self.temperature == 0:
            return scores
        odds = torch.softmax(scores / self.temperature, dim=-1)
        odds = self._truncated(odds)
        # In double precision and in the order of token numbers: see above.
        sums = odds.double().cumsum(dim=-1)
        at = torch.tensor([[quantile(*draw)] for draw in draws], dtype=torch.float64, device=scores.device)
        chosen = torch.searchsorted(sums, at * sums[:, -1:], right=True).clamp_(max=odds.shape[-1] - 1)
        return torch.full_like(scores, float("-inf")).scatter_(1, chosen, 0.0)

    def _truncated(self, odds: Any) -> Any:
        import torch

        if self.min_p > 0:
            odds = odds.masked_fill(odds < self.min_p * odds.amax(dim=-1, keepdim=True), 0.0)
        if self.top_k is not None and self.top_k < odds.shape[-1]:
            least = torch.topk(odds, self.top_k, dim=-1).values[:, -1:]
            odds = odds.masked_fill(odds < least, 0.0)
        if self.top_p < 1:
            ordered = torch.sort(odds, dim=-1, descending=True).values
            sums = ordered.double().cumsum(dim=-1)
            # The fewest likeliest tokens that reach top_p; as likely a token as the last of them stays too.
            enough = (sums - ordered < self.top_p * sums[:, -1:]).sum(dim=-1, keepdim=True)
            odds = odds.masked_fill(odds < ordered.gather(1, enough - 1), 0.0)
        return odds


def quantile(seed: int, step: int) -> float:
    """Return the number in [0, 1) that decides step ``step`` of the request with this seed."""
    hashed = hashlib.blake2b(b"%d %d" % (seed, step), digest_size=8).digest()
    return (int.from_bytes(hashed, "big") >> 11) / (1 << 53)


class _Drawn:
    """Samples the rows of a batch of ``generate``."""

    def __init__(self, sampler: Sampler, batch: list[_Request], ids: Any, mask: Any) -> None:
        self.sampler, self.ids, self.mask = sampler, ids, mask
        self.seeds = [request.seed for request in batch]
        self.seen: Any = None

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        step = input_ids.shape[1] - self.ids.shape[1]
        if self.sampler.penalty != 1.0:
            if self.seen is None:
                counts = scores.new_zeros(scores.shape)
                self.seen = counts.scatter_add_(1, self.ids, self.mask.to(scores.dtype)) > 0
            if step:
                self.seen.scatter_(1, input_ids[:, -1:], True)
        return self.sampler(scores, [(seed, step) for seed in self.seeds], self.seen)


class _Ending:
    """Ends rows, and sends the answer of each when it does."""

    def __init__(self, engine: Completions, desk: Desk, batch: list[_Request], left: dict[int, _Request]) -> None:
        self.engine, self.desk, self.batch, self.left = engine, desk, batch, left
        self.made: list[list[int]] = [[] for _ in batch]

    def __call__(self, input_ids: Any, scores: Any, **_: Any) -> Any:
        import torch

        self.desk.step()
        for row, token in enumerate(input_ids[:, -1].tolist()):
            request = self.batch[row]
            if request.id not in self.left:
                continue
            made = self.made[row]
            made.append(token)
            if token in self.engine.ends or self.engine.stopped(made):
                self._send(request, made, "stop")
            elif len(made) >= request.limit:
                self._send(request, made, "length")
        done = [request.id not in self.left or self.desk.stopped for request in self.batch]
        return torch.tensor(done, dtype=torch.bool, device=input_ids.device)

    def _send(self, request: _Request, made: list[int], finish: str) -> None:
        del self.left[request.id]
        self.engine.send(self.desk, request, made, finish)


class Scores(_Batching):
    """A sequence classification model with one label."""

    answers = False

    def __init__(self, model: Any, *rest: Any) -> None:
        super().__init__(model, *rest)
        self.own_pad: int | None = model.config.get_text_config().pad_token_id

    def _batch(self, desk: Desk, batch: list[_Request], left: dict[int, _Request]) -> None:
        import torch

        config = self.model.config.get_text_config()
        pad = self.own_pad
        if pad is None:
            used = {token for request in batch for token in request.tokens}
            pad = config.pad_token_id = next(token for token in range(len(used) + 1) if token not in used)
        width = max(len(request.tokens) for request in batch)
        device = self.model.device
        ids = torch.tensor([one.tokens + [pad] * (width - len(one.tokens)) for one in batch], device=device)
        mask = torch.tensor([[1] * len(one.tokens) + [0] * (width - len(one.tokens)) for one in batch], device=device)
        logits = self.model(input_ids=ids, attention_mask=mask).logits
        for request, (value,) in zip(batch, logits.double().tolist()):
            if value != value or value in (float("inf"), float("-inf")):
                desk.fail(request.id, f"the model gave {value}, which is no score")
            else:
                desk.answer(request.id, value=value, prompt_tokens=len(request.tokens))
            del left[request.id]


if __name__ == "__main__":
    serve(load)
