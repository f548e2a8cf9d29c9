"""A sampler that waits, in a thread of its own, for predictions that somebody else makes."""

from __future__ import annotations

import queue
import threading

import torch
from torch import Tensor

from atlas_core.contracts import Denoiser, Process, Sampler

_Ask = tuple[Tensor, Tensor]


class _ClosedError(Exception):
    """The walk was left."""


class Handoff:
    """Runs `sampler` from x along `times`; `asked` is its open question, `answer` gives x̂₀ and returns what follows."""

    def __init__(self, sampler: Sampler, process: Process, x: Tensor, times: Tensor) -> None:
        """Start it, up to its first question."""
        self.process = process
        self._asks: queue.Queue[_Ask | Tensor | BaseException] = queue.Queue()
        self._answers: queue.Queue[Tensor | None] = queue.Queue()
        self._thread = threading.Thread(target=self._run, args=(sampler, x, times), daemon=True)
        self._thread.start()
        self.asked: _Ask = self._next()  # type: ignore[assignment]

    def answer(self, x0: Tensor) -> Tensor:
        """Answer the open question; return the state of the next one, or the result."""
        self._answers.put(x0)
        following = self._next()
        if isinstance(following, Tensor):
            return following
        self.asked = following
        return following[0]

    def close(self) -> None:
        """Let the thread end."""
        self._answers.put(None)
        self._thread.join()

    def take(self, index: Tensor) -> Denoiser:
        """Refuse: the pipeline predicts all rows at once."""
        raise ValueError("a pipeline of diffusers predicts all rows at once")

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        self._asks.put((x, t))
        answer = self._answers.get()
        if answer is None:
            raise _ClosedError
        return answer

    def _next(self) -> _Ask | Tensor:
        following = self._asks.get()
        if isinstance(following, BaseException):
            raise following
        return following

    def _run(self, sampler: Sampler, x: Tensor, times: Tensor) -> None:
        try:
            with torch.no_grad():
                *_, last = sampler.steps(self, x, times)
            self._asks.put(last.x)
        except _ClosedError:
            pass
        except BaseException as error:  # noqa: BLE001 - it is raised where the answer was given
            self._asks.put(error)
