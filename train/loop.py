"""The training loop, read from top to bottom: batch, step, and at the boundary between two steps everything else.

It names no attachment: what rides along is visited when due. Everything a segment stands on is in `session`.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from lab.checkpoint import NotEnoughDisk
from lab.corpus import Batch
from train.attachments import Attachment, Moment, is_due
from train.control import POLL_SECONDS, Trainer
from train.evaluation import batch_loss
from train.generators import untouched_generators
from train.room import pieces, said_when_full, within_memory
from train.schedule import learning_rate
from train.segment import Session


@dataclass(frozen=True)
class Outcome:
    """Why a segment ended, and the exit code that says so."""

    reason: str
    exit_code: int


def train(session: Session) -> Outcome:
    """Train from the session's step to its end, or until something asks to stop.

    Returns:
        "finished" (exit 0), "SIGINT"/"SIGTERM"/"stop" (130, saved), or "non-finite" (3, saved before the bad update).
    """
    config, model, optimizer, ranks = session.config, session.model, session.optimizer, session.ranks
    parameters = [p for p in model.parameters() if p.requires_grad]
    with session.control.signals():
        ranks.decide(session, partial(begin, session))
        while session.step < session.end and session.stop is None:
            started = time.perf_counter()
            cursor = session.corpus.state_dict()
            batches = [session.corpus.next_batch(session.step) for _ in range(config.train.accumulation)]
            passed = within_memory(session, partial(accumulate, session, batches))
            if (
                passed is None
            ):  # out of memory: the same step from the same batch, in smaller micro-batches from here on
                session.corpus.load_state_dict(cursor)
                ranks.decide(session, partial(save, session))
                continue
            loss, targets = passed
            for intervention in session.interventions:
                intervention.before_step()
            norm = float(torch.nn.utils.clip_grad_norm_(parameters, config.optimizer.clip))
            if not (
                math.isfinite(loss) and math.isfinite(norm)
            ):  # before the update: a bad step never reaches the weights
                optimizer.zero_grad(set_to_none=True)
                session.corpus.load_state_dict(cursor)
                ranks.decide(session, partial(put_aside, session, batches, loss, norm))
                return Outcome("non-finite", 3)
            for group in optimizer.param_groups:  # each by the same schedule, from a peak of its own
                group["lr"] = learning_rate(session.step, session.horizon, config.optimizer, group["peak"])
            rate = optimizer.param_groups[0]["lr"]
            with said_when_full(session, "in the optimizer's update, whose memory no smaller micro-batch changes"):
                optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            for intervention in session.interventions:
                intervention.after_step()
            session.step += 1
            session.tokens_seen += targets
            session.spent["train"] += time.perf_counter() - started
            ranks.decide(session, partial(taken, session, loss, norm, rate))
        return Outcome("finished", 0) if session.stop is None else Outcome(session.stop, 130)


def accumulate(session: Session, batches: Sequence[Batch]) -> tuple[float, int]:
    """Gradients of the mean loss over all micro-batches; returns that mean in nats per token, and the number of targets.

    Divided by the targets of all micro-batches together: a fully masked one must neither give 0/0 nor count as much as
    the others. Of several processes each takes its share of the rows, and gradients and loss are added up over all.
    """
    targets = sum(int(batch.mask.sum()) for batch in batches)
    losses: list[Tensor] = []
    own = pieces(session.ranks.share(batches), session.micro_batch)
    for batch in own:
        with session.ranks.gradients(last=batch is own[-1]):
            summed, count = batch_loss(session.model, batch, session.dtype, session.forward)
            loss = summed / max(1, targets)
            losses.append(loss.detach())
            for intervention in session.interventions:
                extra = intervention.loss(session.model, batch)
                if extra is not None:
                    loss = loss + extra * (count / max(1, targets))
            torch.autograd.backward(loss)
    # Read once a step: on a graphics card each look waits for all that was asked of it.
    return session.ranks.total(sum(torch.stack(losses).tolist())), targets


def begin(session: Session) -> None:
    """Before the first step: what is due at step 0, or a branch's freeze, which holds from its first step on."""
    if session.step == 0 and session.fresh:
        boundary(session)
    elif session.turn():
        save(session)
    stand_still(session)  # a run that was killed or stopped while paused is paused still


def taken(session: Session, loss: float, norm: float, rate: float) -> None:
    """A step is taken: its numbers, and the boundary to the next one."""
    session.record_step(loss, norm, rate)
    boundary(session)


def put_aside(session: Session, batches: Sequence[Batch], loss: float, norm: float) -> None:
    """A step that was not taken: its batch is kept as evidence, and the weights before it are saved."""
    session.keep_bad_batch(batches, loss, norm)
    save(session)


def boundary(session: Session) -> None:
    """Between two steps: due visits, what is due to be held or let go, commands, a due checkpoint, standing still."""
    visit(session, [a for a in session.attachments if is_due(a, session.step, session.end)])
    changed = session.turn()
    obey(session)
    step, every = session.step, session.config.checkpoint.every
    due = changed or step % every == 0 or step == session.end or session.is_milestone(step)
    if due or session.control.held or session.control.stop_reason is not None:
        save(session)
    stand_still(session)


def stand_still(session: Session) -> None:
    """Wait, weights in memory, until no latch is held; commands are obeyed meanwhile."""
    control = session.control
    said = {"disk": ""}  # `save` speaks of that one
    while control.held and control.stop_reason is None:
        for owner in control.held.keys() - said.keys():
            said[owner] = control.held[owner]
            way = f"Go on with: lab unpause {session.run.name} --owner {owner}"
            session.say(f"training stands still at step {session.step}, held by {owner}: {said[owner]}. {way}")
        time.sleep(POLL_SECONDS)
        obey(session)
        if "disk" in control.held:
            save(session)
    if len(said) > 1 and control.stop_reason is None:
        session.say(f"no latch is held any more: training goes on at step {session.step}")


def obey(session: Session) -> None:
    """Carry out the commands that have come in. The only place where anything outside reaches into training."""
    if session.control.has_mail():
        session.control.obey(session.step, Trainer(session, visit, save))


def visit(session: Session, attachments: Sequence[Attachment]) -> None:
    """Let attachments look, with the model in evaluation mode and the training generators put aside."""
    if not attachments:
        return
    moment = Moment(
        step=session.step,
        segment=session.segment,
        tokens_seen=session.tokens_seen,
        model=session.model,
        corpus=session.corpus,
        metrics=session.newest,
        records=session.records,
        run=session.run,
        ask_to_hold=lambda owner, reason: session.control.hold(owner, reason, session.step),
        spent=session.spent,
    )
    session.model.eval()
    with torch.no_grad(), untouched_generators():
        for attachment in attachments:
            started = time.perf_counter()
            name = attachment.name
            with said_when_full(session, f"while {name} looked", f", or none of it: --set {name}.every=0"):
                attachment.visit(moment)
            session.visited[attachment.name] = session.step
            session.spent[attachment.name] += time.perf_counter() - started
    session.model.train()
    session.record_costs()


def save(session: Session) -> None:
    """A checkpoint of this step. Without room for it the run stands still, held by "disk", and tries again."""
    started = time.perf_counter()
    try:
        session.save()
    except NotEnoughDisk as refusal:
        if session.control.hold("disk", str(refusal), session.step):
            session.say(f"training stands still at step {session.step} until there is room: {refusal}")
    else:
        if session.control.release("disk", session.step):
            session.say(f"there is room again: step {session.step} is saved, training goes on")
    session.spent["checkpoint"] += time.perf_counter() - started
