"""`HeadTrainer`: trains a head on packed rows, with checkpoints it can go on from.

Owns: the optimiser, the schedule, the loop, the checkpoint and the log. Knows nothing of where data comes from.

On a GPU it computes in bf16 (autocast) with master weights in float32; on a CPU in float32.
"""

from __future__ import annotations

import json
import math
import pickle
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from .....lang.errors import OptionError
from ...model.load.fields import first_line
from ...model.load.store import replace_file
from .conversations import PackedRows
from .features import FeatureStore, TrainingBatch
from .head import Eagle3Head
from .target import Target, visible
from .unroll import SoftCrossEntropy, Unroller, guess_losses, origins

CHECKPOINT, LOG = "checkpoint.pt", "log.jsonl"
_WARMUP = 0.02
_LAST_RATE = 0.01
_LOG_SECONDS = 10.0


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """How a head is trained.

    `steps` optimiser steps, or as many as `minutes` allow (one of the two). `rows` rows a step. `unroll` steps of
    training-time test, whose losses count `decay` to the power of the step. `rate`: the highest learning rate.
    `save_minutes` between checkpoints. `compiled`: compile the hot functions (None: on a GPU).
    """

    steps: int | None = None
    minutes: float | None = None
    rows: int = 32
    unroll: int = 5
    decay: float = 0.8
    rate: float = 1e-3
    weight_decay: float = 0.01
    clip: float = 1.0
    save_minutes: float = 2.0
    compiled: bool | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.minutes is None):
            raise OptionError("training takes steps or minutes, one of the two")
        if min(self.rows, self.unroll, self.steps or 1) < 1 or (self.minutes is not None and self.minutes <= 0):
            raise OptionError("training: steps, minutes, rows and unroll must be positive")


class HeadTrainer:
    """Trains `head` in place. `folder` keeps the checkpoint and the log; `saved` is called after each
    checkpoint.

    Raises `OptionError` where the folder's checkpoint is of another head or of other options.
    """

    def __init__(
        self,
        head: Eagle3Head,
        target: Target,
        rows: PackedRows,
        options: TrainOptions,
        folder: Path,
        keep_bytes: int,
        saved: Callable[[Eagle3Head], object] = lambda head: None,
    ) -> None:
        self.head = head.to(target.device).train()
        self._saved = saved
        self.target, self.options, self._folder = target, options, folder
        self.rows = min(options.rows, len(rows))
        self._count = len(rows)
        self.store = FeatureStore(target, rows, head.config.features_of(target.config.num_layers), keep_bytes)
        cuda = target.device.type == "cuda"
        compiled = cuda if options.compiled is None else options.compiled
        self._losses: Any = torch.compile(guess_losses, dynamic=True) if compiled else guess_losses
        self._total: Any = torch.compile(_log_total, dynamic=True) if compiled else _log_total
        self._unroller = Unroller(torch.compile if compiled else lambda function: function)
        matrices = [p for p in self.head.parameters() if p.dim() == 2]
        vectors = [p for p in self.head.parameters() if p.dim() != 2]
        self._adam = torch.optim.AdamW(
            [{"params": matrices, "weight_decay": options.weight_decay}, {"params": vectors, "weight_decay": 0.0}],
            lr=options.rate, betas=(0.9, 0.95), fused=cuda,
        )  # fmt: skip
        ids = head.draft_ids()
        self._head_rows = target.head_VE[ids]
        self._draft_of = torch.full((target.config.vocab_size,), -1, device=target.device)
        self._draft_of[ids] = torch.arange(len(ids), device=target.device)
        self.step, self.seconds = 0, 0.0
        self.log: list[dict[str, Any]] = []
        self._resume()

    @property
    def progress(self) -> float:
        """How much of the training is done, 0 to 1."""
        if self.options.steps is not None:
            return min(1.0, self.step / self.options.steps)
        assert self.options.minutes is not None
        return min(1.0, self.seconds / (60 * self.options.minutes))

    def run(self, seconds: float = math.inf, quiet: bool = False) -> bool:
        """Train to the end, or for so many seconds; whether the end was reached."""
        begin = saved = logged = time.monotonic()
        before, first = self.seconds, self.step
        sums: torch.Tensor | None = None
        with tqdm(total=self.options.steps, initial=self.step, unit="step", disable=quiet, mininterval=5.0) as bar:
            for numbers in self._order():
                if self.progress >= 1.0 or time.monotonic() - begin >= seconds:
                    break
                told = self.train(self.store.batch(numbers))
                sums = told if sums is None else sums + told
                self.step += 1
                now = time.monotonic()
                self.seconds = before + now - begin
                if now - logged >= _LOG_SECONDS or self.progress >= 1.0 or self.step == first + 1:
                    bar.update(self.step - bar.n)
                    bar.set_postfix_str(self._note(sums, quiet), refresh=False)
                    sums, logged = None, now
                if now - saved >= 60 * self.options.save_minutes:
                    self.save()
                    saved = time.monotonic()
        self.save()
        return self.progress >= 1.0

    def train(self, batch: TrainingBatch) -> torch.Tensor:
        """One optimiser step; sums over its guesses [3, S]: losses, right ones, all of them (on the device)."""
        options = self.options
        for group in self._adam.param_groups:
            group["lr"] = options.rate * self._share()
        told = []
        device = self.target.device
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            loss = torch.zeros((), device=device)
            wanted_NM = batch.last.flatten(0, 1)[batch.places - 1] @ self._head_rows.t()
            total_N = self._total(wanted_NM)
            right_N = self._draft_of[batch.top]
            weight_ME = self.head.lm_head.weight.to(wanted_NM.dtype)
            steps = self._unroller.steps(
                self.head, self.target.embed_VE, batch.tokens, visible(batch.segments), batch.features, options.unroll
            )
            for step, normed in enumerate(steps):
                from_N, inside_N = origins(batch.segments, batch.places, step)
                weight_N = (inside_N & (right_N >= 0)).float()
                hidden_NE = normed.flatten(0, 1)[from_N].to(wanted_NM.dtype)
                total, best = SoftCrossEntropy.apply(self._losses, hidden_NE, weight_ME, wanted_NM, total_N, weight_N)
                loss = loss + options.decay**step * total / weight_N.sum().clamp_min(1)
                hits = ((best == right_N) & inside_N).sum()
                told.append(torch.stack((total.detach(), weight_N.sum(), hits, inside_N.sum())))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.head.parameters(), options.clip)
        self._adam.step()
        self._adam.zero_grad(set_to_none=True)
        return torch.stack(told, 1)

    def save(self) -> None:
        """Write the checkpoint."""
        kept = {
            "head": self.head.state_dict(),
            "adam": self._adam.state_dict(),
            "config": self.head.config.to_json(),
            "options": self._kept_options(),
            "step": self.step,
            "seconds": self.seconds,
            "log": self.log,
        }
        self._folder.mkdir(parents=True, exist_ok=True)
        replace_file(self._folder / CHECKPOINT, lambda to: torch.save(kept, to))
        lines = "".join(json.dumps(each) + "\n" for each in self.log)
        replace_file(self._folder / LOG, lambda to: to.write_text(lines, encoding="utf-8"))
        self._saved(self.head)

    def _resume(self) -> None:
        file = self._folder / CHECKPOINT
        if not file.exists():
            return
        try:
            kept = torch.load(file, map_location=self.target.device, weights_only=True)
            mine, theirs = self.head.config.to_json(), kept["config"]
            differ = {key for key in mine | theirs if mine.get(key) != theirs.get(key) and key != "target"}
            differ |= {key for key, value in self._kept_options().items() if kept["options"].get(key) != value}
            if differ:
                raise OptionError(
                    f"{file}: its training had other values of {', '.join(sorted(differ))}; give those, or "
                    "another --out"
                )
            self.head.load_state_dict(kept["head"])
            self._adam.load_state_dict(kept["adam"])
            self.step, self.seconds, self.log = kept["step"], kept["seconds"], kept["log"]
        except (OSError, RuntimeError, KeyError, ValueError, EOFError, pickle.UnpicklingError) as error:
            raise OptionError(
                f"{file}: cannot be read as a checkpoint ({first_line(error)}); delete it to begin again"
            ) from error

    def _kept_options(self) -> dict[str, Any]:
        """The options that a training must keep when it goes on."""
        return {key: value for key, value in asdict(self.options).items() if key not in ("save_minutes", "compiled")}

    def _share(self) -> float:
        """The learning rate, as a share of the highest."""
        done = self.progress
        if done < _WARMUP:
            return max(done, 1e-3) / _WARMUP
        return _LAST_RATE + (1 - _LAST_RATE) * 0.5 * (1 + math.cos(math.pi * (done - _WARMUP) / (1 - _WARMUP)))

    def _order(self) -> Iterator[torch.Tensor]:
        """Numbers of rows, batch after batch, from where the training is; each epoch in an order of its own."""
        epoch_steps = self._count // self.rows
        while True:
            epoch, at = divmod(self.step, epoch_steps)
            generator = torch.Generator().manual_seed(self.options.seed + epoch)
            order = torch.randperm(self._count, generator=generator)
            for i in range(at, epoch_steps):
                yield order[i * self.rows : (i + 1) * self.rows]

    def _note(self, sums: torch.Tensor, quiet: bool) -> str:
        losses, weights, hits, counts = sums.double().cpu().tolist()
        right = [hit / max(1.0, count) for hit, count in zip(hits, counts)]
        loss = [each / max(1.0, weight) for each, weight in zip(losses, weights)]
        row = {"step": self.step, "seconds": round(self.seconds, 2), "loss": loss, "right": right}
        self.log.append(row)
        note = f"loss {loss[0]:.3f} right " + " ".join(f"{each:.3f}" for each in right)
        if not quiet:
            tqdm.write(f"step {self.step}, {self.seconds:.0f} s, {self.progress:.0%}: {note}")
        return note


def _log_total(logits_NM: torch.Tensor) -> torch.Tensor:
    return logits_NM.float().logsumexp(-1)
