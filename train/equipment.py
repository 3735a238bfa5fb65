"""What a session is equipped with before its first step: attachments by the configuration, other riders, a device."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from lab.config import RunConfig
from lab.errors import LabError
from lab.tokenizer import Tokenizer
from train.attachments import Attachment, Intervention
from train.benchmarking import Benchmarks
from train.chat_training import ChatTraining
from train.check_ins import CheckIns
from train.evaluation import Evaluation
from train.feedback import Feedback
from train.journal import Journal
from train.probing import Probing
from train.remedy import Remedy
from train.self_play import SelfPlay
from train.shimmer import Shimmer
from train.understanding import Understanding


@dataclass(frozen=True)
class Riders:
    """What rides along besides what the configuration asks for."""

    attachments: Sequence[Attachment] = ()
    interventions: Sequence[Intervention] = ()


def build_attachments(config: RunConfig, dtype: torch.dtype) -> list[Attachment]:
    """Everything that the configuration switches on; what is off is not built."""
    attachments: list[Attachment] = []
    if config.evaluation.every:
        attachments.append(Evaluation(config.evaluation, config.train.batch, dtype))
    if config.evaluation.benchmarks_every:
        attachments.append(Benchmarks(config.evaluation))
    if config.probing.every:
        attachments.append(Probing(config.probing))
    if config.shimmer.every:
        attachments.append(Shimmer(config.shimmer))
    if config.understanding.every:
        attachments.append(Understanding(config))
    if config.self_play.every:
        attachments.append(SelfPlay(config.self_play))
    if config.check_ins.every:
        attachments.append(CheckIns(config.check_ins))
    if config.journal.every:  # after probing, whose newest readings an informed entry shows
        attachments.append(Journal(config.journal))
    return attachments


def build_interventions(
    config: RunConfig, run: Path, dtype: torch.dtype, tokenizer: Tokenizer, attachments: Sequence[Attachment]
) -> list[Intervention]:
    """What the configuration lets act on training besides a freeze; each is given what it listens to.

    Args:
        run: the run's folder.
    """
    interventions: list[Intervention] = []
    heard = [one for one in attachments if isinstance(one, SelfPlay)]
    if config.remedy.every:
        remedy = Remedy(config.remedy, tokenizer, config.train.seed, dtype)
        for talk in heard:
            talk.listeners.append(remedy.hear)
        interventions.append(remedy)
    if config.feedback.every:
        feedback = Feedback(config.feedback, tokenizer, config.train.seed, dtype)
        for talk in heard:
            talk.listeners.append(feedback.hear)
        for one in attachments:
            if isinstance(one, Evaluation):
                one.listeners.append(feedback.measured)
        interventions.append(feedback)
    if config.data.chats:
        every, n_ctx = config.checkpoint.every, config.model.n_ctx
        interventions.append(ChatTraining(run, every, n_ctx, tokenizer, config.train.seed, dtype))
    return interventions


def choose_device(config: RunConfig) -> tuple[torch.device, torch.dtype]:
    """The device to train on and the type its products run in: bfloat16 where the device has it, float32 elsewhere.

    Raises:
        LabError: the device asked for is not there, or cannot do bfloat16.
    """
    name = config.train.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if (name.startswith("cuda") and not torch.cuda.is_available()) or (
        name == "mps" and not torch.backends.mps.is_available()
    ):
        raise LabError(f"train.device = {name!r}, but torch finds no such device here. Use train.device=cpu.")
    device = torch.device(name)
    has_bfloat16 = device.type == "cuda" and torch.cuda.is_bf16_supported()
    if config.train.dtype == "bfloat16" or (config.train.dtype == "auto" and has_bfloat16):
        return device, torch.bfloat16
    return device, torch.float32
