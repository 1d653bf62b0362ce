"""ardor: adversarial robustness distillation, from a robust teacher to a small model whose robustness is proven.

train, val, test = ardor.data.load("digits")
teacher, student = ardor.models.load("runs/teacher"), ardor.models.build("small_cnn", channels=1)
for epoch in ardor.epochs(student, teacher, ardor.methods.RSLAD(), train, ardor.Recipe(epochs=30), val=val):
    print(epoch)
print(ardor.evaluate(student, test, ardor.attacks.paper(ardor.Linf(8 / 255))))
"""

__version__ = "0.1.0"

from ardor import attacks, data, errors, losses, methods, models
from ardor.errors import ArdorError
from ardor.evaluate import evaluate
from ardor.export import export
from ardor.modes import attack_view, freeze
from ardor.noise import Noise
from ardor.recipe import Recipe
from ardor.report import Report
from ardor.threat import L2, Linf
from ardor.train import Epoch, distill, epochs
from ardor.variance import variance_gap

__all__ = [
    "L2",
    "ArdorError",
    "Epoch",
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
