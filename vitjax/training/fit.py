"""A run from its config to its best model."""

import contextlib
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import jax
import numpy as np
from ml_collections import ConfigDict

from vitjax.arrays import Batch
from vitjax.config import build
from vitjax.data.loading import merge_states
from vitjax.errors import UserError
from vitjax.training.checkpoints import host_variables, latest_step, read_position, read_state, save
from vitjax.training.devices import check_batch_size, gather_json
from vitjax.training.evaluation import evaluate
from vitjax.training.feed import Fed, fed, feed
from vitjax.training.initial import start_from, variable_shapes
from vitjax.training.interruption import stop_requests
from vitjax.training.logs import RunLog, Window
from vitjax.training.messages import RunSummary, first_lines, last_lines, nonfinite_message, resume_lines
from vitjax.training.plots import draw_batch, draw_curves
from vitjax.training.run import Parts, Programs, check_evaluation, evaluation_shards, make_parts, make_programs
from vitjax.training.run_folder import read_rows
from vitjax.training.state import TrainState, evaluation_variables
from vitjax.training.step import StepResult
from vitjax.weights.bundle_io import read_bundle, save_bundle

__all__ = ["RunSummary", "fit"]


def fit(config: ConfigDict) -> RunSummary:
    """Trains, evaluates and keeps the best model, as the config says; resumes what its run folder holds.

    Args:
        config: with the keys that ARCHITECTURE.md lists; it is not changed.

    Returns:
        How the run ended. After SIGTERM or Ctrl-C the state is saved and `interrupted` is set.

    Raises:
        UserError: the config, the data, or the run folder does not do; before the first step wherever that is
            possible. Also when loss or gradient stop being finite numbers: that update is not made, and no checkpoint
            holds it.
    """
    began = time.perf_counter()
    parts = make_parts(config)
    with contextlib.ExitStack() as at_end:
        at_end.callback(parts.manager.close)
        at_end.callback(parts.manager.wait_until_finished)
        at_end.callback(parts.stream.close)
        start = latest_step(parts.manager)
        if start is not None:
            parts.stream.restore(read_position(parts.manager, start))
        batch = next(parts.stream)
        check_batch_size(batch, parts.mesh, parts.settings.accumulate_steps, setting="train")
        first = fed(batch, parts.stream.state(), parts.mesh)
        programs = make_programs(parts, first.batch)
        log = at_end.enter_context(
            RunLog(
                parts.folder,
                start=start or 0,
                steps=parts.settings.steps,
                active=parts.writes,
                log_examples=parts.settings.log_examples,
            )
        )
        for line in (*first_lines(parts, programs, batch), *parts.notes, *resume_lines(parts, start)):
            log.say(line)
        if start is None:
            state = programs.make_state()
            if parts.settings.initial is not None:
                given = build(parts.settings.initial)(parts.model, variable_shapes(state))
                state, line = start_from(state, given)
                log.say(line)
        else:
            state = read_state(parts.manager, start, programs.abstract, programs.shardings)
        check_evaluation(parts, programs, state)
        stop = at_end.enter_context(stop_requests())
        loop = _Loop(parts, programs, log, stop, start or 0)
        summary = _train(loop, state, first, batch, began)
        for line in last_lines(parts, summary):
            log.say(line)
        return summary


@dataclass(frozen=True)
class _Loop:
    """What every part of the loop needs."""

    parts: Parts
    programs: Programs
    log: RunLog
    stop: Callable[[int], bool]
    start: int


def _train(loop: _Loop, state: TrainState, first: Fed, host_batch: Batch, began: float) -> RunSummary:
    """The host stays one step behind the device: it reads step n while step n + 1 runs."""
    parts, settings, step_of = loop.parts, loop.parts.settings, loop.programs.train_step
    upcoming, window, pending = first, Window(), deque[tuple[int, StepResult, Fed]]()
    best, scores, interrupted, step = _stored_best(parts), None, False, loop.start
    while step < settings.steps and not interrupted:
        current, called = upcoming, time.perf_counter()
        with jax.transfer_guard("disallow"):
            state, result = step_of(state, current.batch)
        step += 1
        pending.append((step, result, current))
        if step == loop.start + 1:
            _after_first_step(loop, result, host_batch, time.perf_counter() - called)
            window = Window()  # compilation is not training time
        if step < settings.steps:
            upcoming = feed(parts.stream, parts.mesh)
            window.wait(upcoming.seconds)
        interrupted = loop.stop(step) and step < settings.steps
        evaluates = (step % settings.evaluate_every == 0 or step == settings.steps) and not interrupted
        saves = step % settings.checkpoint_every == 0 or step == settings.steps or interrupted
        while len(pending) > (0 if evaluates or saves else 1):
            window = _read(loop, window, *pending.popleft())
        paused = time.perf_counter()
        if evaluates:
            scores = _evaluate(loop, state, step)
            best = _keep_best(loop, state, step, scores, best)
        if saves:
            save(parts.manager, step, state, merge_states(gather_json(current.position)))
        window.pause(time.perf_counter() - paused)
    parts.manager.wait_until_finished()
    if scores is None and not interrupted:
        scores = _evaluate(loop, state, step)
        best = _keep_best(loop, state, step, scores, best)
    compilations = getattr(step_of, "_cache_size", lambda: 0)()
    seconds = time.perf_counter() - began
    return RunSummary(parts.folder.root, step, scores or {}, best, interrupted, compilations, seconds)


def _after_first_step(loop: _Loop, result: StepResult, host_batch: Batch, dispatch_seconds: float) -> None:
    began = time.perf_counter()
    jax.block_until_ready(result)
    seconds = dispatch_seconds + time.perf_counter() - began
    loop.log.say(f"compiled and made the first step in {seconds:.1f} s")
    if loop.parts.writes:
        train = loop.parts.train
        drawn = draw_batch(host_batch, train.labels, loop.parts.folder.plots, getattr(train, "patch_size", None))
        names = ", ".join(str(path) for path in drawn)
        loop.log.say(f"drew {names}" if drawn else "drew nothing: the batch has neither `image` nor `patches`")


def _read(loop: _Loop, window: Window, step: int, result: StepResult, current: Fed) -> Window:
    """Checks and logs one finished step; returns the window that the next step belongs to."""
    read = jax.device_get(result)
    if not read.finite:
        _stop_nonfinite(loop, step, read, current)
    metrics = {name: (float(total), float(count)) for name, (total, count) in read.metrics.items()}
    window.add(metrics, int(read.images), timed=step > loop.start + 1)
    loop.log.advance()
    loop.log.examples(step, current.examples)
    settings = loop.parts.settings
    if step % settings.log_every and step != settings.steps:
        return window
    row = {"learning_rate": float(read.learning_rate), "gradient_norm": float(read.gradient_norm)}
    loop.log.train(step, window.row() | row | loop.parts.stream.statistics())
    return Window()


def _stop_nonfinite(loop: _Loop, step: int, read: StepResult, current: Fed) -> None:
    """Ends the run; the state on the device is that of the step before, and is not saved either."""
    parts = loop.parts
    gathered = gather_json({"examples": current.examples.tolist()})
    examples = [number for part in gathered for number in part["examples"]]
    figures = {"loss": str(read.loss), "gradient_norm": str(read.gradient_norm)}
    loop.log.event(step, {"kind": "nonfinite", **figures, "examples": examples})
    parts.manager.wait_until_finished()
    raise UserError(nonfinite_message(parts.folder, step, read, examples, latest_step(parts.manager)))


def _evaluate(loop: _Loop, state: TrainState, step: int) -> dict[str, float]:
    began, parts = time.perf_counter(), loop.parts
    batches = parts.evaluation.epoch(evaluation_shards(parts.mesh))
    scores = evaluate(loop.programs.evaluation_step, evaluation_variables(state), batches, parts.task, parts.mesh)
    loop.log.evaluation(step, scores | {"seconds": time.perf_counter() - began})
    if parts.writes:
        draw_curves(list(read_rows(parts.folder.metrics)), parts.folder.plots)
    return scores


def _stored_best(parts: Parts) -> float | None:
    """The score of the bundle that an earlier part of this run left."""
    if not parts.folder.best.exists():
        return None
    return read_bundle(parts.folder.best, variables=False).score


def _keep_best(loop: _Loop, state: TrainState, step: int, scores: dict[str, float], best: float | None) -> float | None:
    """Writes `best/` if this evaluation beats all before it; a metric written `-name` is better when smaller."""
    parts, settings = loop.parts, loop.parts.settings
    name, sign = settings.best_name, settings.best_sign
    score = scores[name]
    if not np.isfinite(score) or (best is not None and sign * score <= sign * best):
        return best
    variables = host_variables(evaluation_variables(state))
    if parts.writes:
        save_bundle(
            parts.folder.best,
            model=settings.model,
            task=settings.task,
            batches=settings.evaluation,
            labels=tuple(parts.train.labels or ()),
            variables=variables,
            step=step,
            score=score,
            metric=name,
        )
    loop.log.say(f"step {step}: best {name} so far, {score:.4f}; kept in {parts.folder.best}")
    return score
