"""ardor: adversarial robustness distillation, from a robust teacher to a small model whose robustness is measured.

train, val, test = ardor.data.load("digits")
teacher, student = ardor.models.load("runs/teacher"), ardor.models.build("small_cnn", channels=1)
for epoch in ardor.epochs(student, teacher, ardor.methods.RSLAD(), train, ardor.Recipe(epochs=30), val=val):
    print(epoch)
print(ardor.evaluate(student, test, ardor.attacks.paper(ardor.Linf(8 / 255))))

A public name is imported when it is first used, so that `ardor --help` does not wait for torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ardor.version import __version__ as __version__

if TYPE_CHECKING:
    from ardor import attacks, data, errors, losses, methods, models, plot
    from ardor.attacks.threat import L2, Linf
    from ardor.deployment.export import export
    from ardor.engine.modes import attack_view, freeze
    from ardor.errors import ArdorError
    from ardor.evaluation import Report, evaluate, variance_gap
    from ardor.evaluation.comparison import compare
    from ardor.noise import Noise
    from ardor.training import Epoch, EpochRecord, History, Recipe, distill, epochs

__all__ = [
    "L2",
    "ArdorError",
    "Epoch",
    "EpochRecord",
    "History",
    "Linf",
    "Noise",
    "Recipe",
    "Report",
    "attack_view",
    "attacks",
    "compare",
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
    "plot",
    "variance_gap",
]

_HOMES = {
    "ardor.attacks.threat": ("L2", "Linf"),
    "ardor.deployment.export": ("export",),
    "ardor.engine.modes": ("attack_view", "freeze"),
    "ardor.errors": ("ArdorError",),
    "ardor.evaluation": ("Report", "evaluate", "variance_gap"),
    "ardor.evaluation.comparison": ("compare",),
    "ardor.noise": ("Noise",),
    "ardor.training": ("Epoch", "EpochRecord", "History", "Recipe", "distill", "epochs"),
}


def __getattr__(name: str) -> Any:
    home = next((home for home, names in _HOMES.items() if name in names), None)
    if home is None and name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = import_module(f"ardor.{name}") if home is None else getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
