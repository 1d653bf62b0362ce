"""What a command is about: its configuration (file, variants, options), its net, images and threat."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

import torch
from cyclopts import Parameter, Token
from torch import nn

from ardor import data, models
from ardor.attacks.threat import BY_NAME, Linf
from ardor.data.split import Split
from ardor.errors import ConfigError
from ardor.models import hub, zoo
from ardor.models.loading import net_for
from ardor.storage.config import build, classes, merged, number
from ardor.storage.recipes import read_recipe, shipped_recipes
from ardor.storage.runs import Run, mapping, threat_in
from ardor.storage.trust import require_no_code
from ardor.training.recipe import find_device
from ardor.types import Threat

Overrides: TypeAlias = Annotated[dict[str, Any], Parameter(parse=False)]
"""The dotted options of a command line, nested: see `split_words`."""

Checkpoint: TypeAlias = Literal["best", "last", "averaged"]


TEACHERLESS = [name for name, kind in classes("method").items() if not vars(kind).get("needs_teacher", True)]

Method: TypeAlias = Annotated[
    str | None,
    Parameter(
        help=f"With a teacher: {', '.join(n for n in sorted(classes('method')) if n not in TEACHERLESS)}. Without: "
        f"{', '.join(sorted(TEACHERLESS))}. Or file.py:Name of your own. Default rslad."
    ),
]
"""A method by its name; its text in a help lists all of them."""


def _number(kind: Any, tokens: Sequence[Token]) -> float:
    try:
        return number(tokens[0].value)
    except ConfigError as error:
        raise ValueError(str(error)) from None


Number: TypeAlias = Annotated[float, Parameter(converter=_number)]
"""An option that takes 8/255, too."""


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class NetWords:
    """The net, images and threat of a command; those of RUN where they are not typed.

    Parameters
    ----------
    model
        Name of a net or file.py:Name, instead of RUN.
    weights
        File of its weights: .safetensors, or .pt read with weights_only.
    data
        Data set; default the run's.
    threat
        linf or l2; default the run's.
    checkpoint
        Checkpoint of the run.
    seed
        Seed of the attacks' random starts.
    trust_code
        Run the `file.py:Name` that a file names, where it is in the working folder or below.
    """

    model: str | None = None
    weights: str | None = None
    data: str | None = None
    threat: str | None = None
    checkpoint: Checkpoint = "best"
    seed: int = 0
    trust_code: bool = False

    def load(
        self, run: Path | None, part: str, overrides: Overrides, exported: nn.Module | None = None
    ) -> tuple[nn.Module, Split, Threat]:
        """The net, images and threat; `exported` is the net of RUN where that is an exported file.

        Raises
        ------
        ConfigError
            Unless exactly one net is named.
        ConfigError, DataError, ModelError, CheckpointError
            As the functions that make the three.
        """
        typed = [f"--{key} {value}" for key in ("model", "weights") if (value := getattr(self, key)) is not None]
        typed += [f"--model.{key}" for key in overrides.get("model", {})]  # another net than the run's reports are of
        if run is not None and typed:
            raise ConfigError(
                f"expected a run or --model, got {run} and {' '.join(typed)}: type one of them, a run too as --model"
            )
        if run is None and self.model is None:
            raise ConfigError("expected RUN, or --model NAME --weights FILE --data NAME, got neither: type one of them")
        if exported is None:
            named = self.model if run is None and (zoo.is_name(self.model) or hub.is_name(self.model)) else run
            source, trained = data_of(named, self.data, self.trust_code), threat_of(named)
            net = None if run is None else models.load(run, checkpoint=self.checkpoint, trust_code=self.trust_code)
        else:
            metadata: Any = exported.metadata
            source = data_of_file(run, metadata) if self.data is None else {}
            net, trained = exported, metadata.get("threat", {})
            advice = "type --data with a name of your own, and --threat"
            require_no_code({"data": source, "threat": trained}, f"the metadata of {run}", advice=advice)
        threat = find_threat(self.threat, overrides, trained)
        split = find_split(source, self.data, part, overrides)
        if net is None:
            options = {"name": self.model, "weights": self.weights, **overrides.get("model", {})}
            net = net_for("model", options, split, fresh=False, trust_code=self.trust_code)
        return net, split, threat


def of_package(run: Path | None, words: NetWords) -> tuple[Path | None, NetWords]:
    """RUN and the words, where RUN is the name of a net of the package, as if it was typed as --model."""
    if run is None or words.model is not None or not zoo.is_name(run):
        return run, words
    return None, replace(words, model=str(run))


UNBUILT = ("fingerprint", "processes", "threads", "lengthened")
"""What a run's config records beside what it was built from."""

RUN = NetWords()
"""RUN without other words."""


def configuration(
    recipe: Path | None,
    variants: Sequence[str],
    names: Mapping[str, str | None],
    overrides: Overrides,
    trust_code: bool = False,
) -> dict[str, Any]:
    """A recipe or run, its variants, then the names and dotted options that were typed. Raises ConfigError."""
    is_run = is_run_folder(recipe)
    if variants and (recipe is None or is_run):
        got, advice = (
            (f"the run {recipe}", "leave the variant out")
            if is_run
            else ("none", "type its name first, for example rslad")
        )
        raise ConfigError(f"expected a recipe for the variant {', '.join(variants)}, got {got}: {advice}")
    content: dict[str, Any] = {}
    if recipe is not None:
        content = Run(recipe).config if is_run else read_recipe(recipe, names.get("data"), variants, trust_code)
    content = {key: part for key, part in content.items() if key not in UNBUILT}
    if recipe is not None and is_run:
        require_no_code(content, recipe, trust_code=trust_code)
    typed = {key: {"name": name} for key, name in names.items() if name is not None}
    return dict(merged(merged(content, typed), overrides))


def require_run(run: Path, command: str) -> None:
    """Raise ConfigError unless RUN is the folder of a run; `command` takes one."""
    if Run(run).exists:
        return
    what, advice = "where there is no such folder", f"type {command}, or ardor runs for a list"
    if zoo.is_name(run):
        what, advice = "which is no folder of a run", f"ardor models {run} shows its figures"
    elif run.exists():
        what = "which is no folder of a run"
    raise ConfigError(f"expected RUN, got {run}, {what}: {advice}")


def is_run_folder(recipe: Path | None) -> bool:
    """Whether RECIPE is a run's folder: one with a configuration, or any folder that has no recipe's name."""
    return recipe is not None and recipe.is_dir() and (Run(recipe).exists or str(recipe) not in shipped_recipes())


def config_of(run: str | Path | None) -> dict[str, Any]:
    """The config of a run's folder; an empty one where that is none."""
    return Run(run).config if run is not None and Run(run).exists else {}


def data_of(run: str | Path | None, name: str | None, trust_code: bool) -> dict[str, Any]:
    """The data of a run's config or of a net of the package; empty for others, and where a `name` is typed instead."""
    if name is None and zoo.is_name(run):
        return mapping(zoo.training_of(str(run)).get("data"))
    return Run(run).part("data", trust_code=trust_code) if run and name is None and Run(run).exists else {}


def data_of_file(path: Path | None, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The data that an exported file was checked on: of the run that it lies in, else at the file's own size."""
    check = metadata.get("check") or {}
    if path is not None and (source := data_of(path.parent, None, False)).get("name") == check.get("name"):
        return source
    _, height, width = metadata["input"]["shape"]
    sized = str(check.get("name")).startswith(("folder:", "store:")) and height == width
    return {key: check[key] for key in ("name",) if key in check} | ({"size": height} if sized else {})


def threat_of(run: str | Path | None) -> dict[str, Any]:
    """The config of the threat that a run or net was trained under, else validated under; empty where none is known."""
    if zoo.is_name(run):
        return threat_in(zoo.training_of(str(run)), Path(str(run)))
    if run is not None and hub.is_name(run):
        return threat_in(hub.training_of(str(run)), Path(str(run)))
    return Run(run).threat if run is not None and Run(run).exists else {}


def find_threat(name: str | None, overrides: Overrides, trained: Mapping[str, Any]) -> Threat:
    """The threat that `--threat` and `--threat.eps` name, else `trained`, else L-inf 8/255. Raises ConfigError."""
    default = build(trained, "threat") if str(trained.get("name")).lower() in BY_NAME else Linf()
    content = {**({} if name is None else {"name": name}), **overrides.get("threat", {})}
    threat: Threat = build(content, "threat", default=default)
    return threat


def device_of(overrides: Overrides) -> torch.device:
    """The device that `--recipe.device` names. Raises ConfigError."""
    return find_device(overrides.get("recipe", {}).get("device", "auto"))


def find_data(source: Mapping[str, Any], name: str | None, overrides: Overrides) -> dict[str, Any]:
    """The arguments of `data.load` for `--data`, else for a run's data, with the dotted options of data."""
    content = {**(source if name is None else {"name": name}), **overrides.get("data", {})}
    if "name" not in content:
        raise ConfigError("expected --data with a name, got none: type --data digits")
    return data.options_of(content)


def find_split(source: Mapping[str, Any], name: str | None, part: str, overrides: Overrides) -> Split:
    """The images of one part of what `find_data` returns. Raises ConfigError and DataError."""
    options = find_data(source, name, overrides)
    if part == "test":
        return data.load_test(**options)
    return data.load(**options)[0 if part == "train" else 1]
