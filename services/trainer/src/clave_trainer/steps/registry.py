"""Which handler does which step."""

from clave_trainer.domain import pipeline_steps as names
from clave_trainer.steps import data, learning, release
from clave_trainer.steps.context import Handler

HANDLERS: dict[str, Handler] = {
    names.COLLECT_FEEDBACK: data.collect_feedback,
    names.TRAINING_SET: data.training_set,
    names.VALIDATE: data.validate,
    names.TRAIN: learning.train,
    names.EXPORT: learning.export,
    names.PARITY: learning.parity,
    names.EVALUATE: learning.evaluate,
    names.REGISTER: release.register,
    names.APPROVE: release.approve,
    names.ROLL_OUT: release.roll_out,
}
