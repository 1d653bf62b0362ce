"""ardor: adversarial robustness distillation, from a robust teacher to a small model whose robustness is proven.

train, val, test = ardor.data.load("digits")
teacher, student = ardor.models.load("runs/teacher"), ardor.models.build("small_cnn", channels=1)
for epoch in ardor.epochs(student, teacher, ardor.methods.RSLAD(), train, ardor.Recipe(epochs=30), val=val):
    print(epoch)
print(ardor.evaluate(student, test, ardor.attacks.paper(ardor.Linf(8 / 255))))
"""

from ardor import attacks, data, errors, losses, methods, models
from ardor.attacks.threat import L2, Linf
from ardor.deployment.export import export
from ardor.engine.modes import attack_view, freeze
from ardor.errors import ArdorError
from ardor.evaluation import Report, evaluate, variance_gap
from ardor.noise import Noise
from ardor.training import Epoch, EpochRecord, Recipe, distill, epochs
from ardor.version import __version__ as __version__

__all__ = [
    "L2",
    "ArdorError",
    "Epoch",
    "EpochRecord",
    "Linf",
    "Noise",
    "Recipe",
    "Report",
    "attack_view",
    "attacks",
    "data",
    "distill",
    "epochs",
    "errors",
    "evaluate",
    "export",
    "freeze",
    "losses",
    "methods",
    "models",
    "variance_gap",
]
