"""load: names to nets with weights, from a run folder, a published checkpoint or third-party code."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from torch import nn

from ardor.data.split import Split
from ardor.errors import ArdorError, CheckpointError, ConfigError, shown
from ardor.models.builders import BUILDERS, build, find_builder, is_named, known
from ardor.models.hub import from_folder, is_local, local_of
from ardor.models.known import require_known
from ardor.models.normalise import Normalised, Numbers, composed
from ardor.models.reading import is_safetensors
from ardor.models.timm_nets import is_timm, options_of, sizes_of, untrained
from ardor.models.weights import load_weights, require_values
from ardor.storage.arguments import typed
from ardor.storage.config import arguments
from ardor.storage.imports import BUNDLED, nearest
from ardor.storage.reading import parse_yaml
from ardor.storage.runs import Run
from ardor.storage.tensors import read_tensors
from ardor.storage.trust import require_no_code

PUBLISHED: dict[str, tuple[str, ...]] = {"robustbench": ("weights", "state", "root", "download"), "hf": (), "ardor": ()}
"""Prefixes, before the colon, of the names of published nets, and the options that each takes."""

WHOLE = ("hf", "ardor")
"""Prefixes of names that are of one net and its one file of weights."""

Statistics: TypeAlias = Mapping[str, Any]
"""mean and std where they are given, else empty."""


@typed
def load(
    name: str | Path,
    *,
    weights: str | Path | None = None,
    state: str | None = None,
    new_head: bool = False,
    checkpoint: str = "best",
    root: str | Path = "models",
    download: bool = False,
    mean: Numbers | None = None,
    std: Numbers | None = None,
    trust_code: bool = False,
    **options: Any,
) -> nn.Module:
    """A net with weights, in eval mode. `net.built_as` records its source, `known_of(net)` its published figures.

    Parameters
    ----------
    name
        One of these:

        - a run's folder, whose config.yaml names the student;
        - a weights file of a run, which names its net itself;
        - a builder's name or `file.py:Name`, with `weights`; a `file.py:Name` without weights brings its own;
        - `ardor:NAME`, a net that the package has (see `zoo`): `ardor models` lists them;
        - `robustbench:ID` or `robustbench:cifar100/ID`, one of `known.KNOWN`: our network with the file `weights`, else
          with ROOT/DATA/Linf/ID.pt, where RobustBench keeps it; else, with `download`, from its plain address to
          there; else by the package robustbench, if that is installed;
        - `hf:OWNER/NAME@REVISION` (see `hub`; the commit is recorded), or a folder of that form, `hf:./FOLDER` or its
          path;
        - `timm:NAME`: timm's net behind its own normalisation, with timm's weights and classes or those in `weights`.
    weights
        File of weights (see `load_weights`).
    state
        The key of one of several state dicts in `weights`: an average, say.
    new_head
        Where `weights` are for other classes: all layers but the last, which is drawn from the seed. A student that is
        to be trained always takes them so.
    checkpoint
        Checkpoint of a run: best, last or averaged.
    root
        Folder of published weights, also for downloads.
    download
        Download published weights that are absent.
    mean, std
        One number per channel on the [0, 1] scale: of a builder's first layer; before the net as it is otherwise, for
        one that was normalised outside.
    trust_code
        Accept a `file.py:Name` in a run's config.yaml, where it is in the working folder or below. A name that you give
        yourself needs no leave.
    options
        Options of `build`. Published nets take the data's classes and channels, only to refuse a net for others.

    Raises
    ------
    ConfigError
        For a name or option that does not exist.
    RunError
        For a folder that is no run.
    ModelError
        For a published net with other classes.
    CheckpointError
        For weights that are missing, damaged or made for another net.
    """
    name = str(name)
    path = Path(name)
    statistics = {key: value for key, value in (("mean", mean), ("std", std)) if value is not None}
    if state is not None and (weights is None or source_of(name) in WHOLE):
        raise ConfigError(
            f"expected weights for the state {shown(state, 40)}, got {shown(name)}, which has one: type "
            "--model.weights FILE, or leave the state out"
        )
    folder = path if weights is None and not known(name) and is_local(path) else local_of(name)
    if folder is not None:
        _refuse_options(name, weights, options)
        if checkpoint != "best":
            raise ConfigError(
                f'expected no checkpoint for {name}, which holds one net, got "{checkpoint}": leave it out'
            )
        net, file = from_folder(folder, options.get("classes"))
        net = _marked(net, file)
        built: dict[str, Any] = vars(net)["built_as"]
        return load(weights=file, **built, **composed(net, **_both(statistics))) if statistics else net
    if source_of(name):
        return _published(name, weights, state, root, download, options, statistics)
    if is_timm(name):
        options = options_of(name, weights, options)
    if weights is not None:
        net = build(name, mean=mean, std=std, **options)
        seed = {"seed": vars(net)["built_as"]["seed"]}
        kept = load_weights(net, weights, state, new_head=new_head)
        net = _marked(net, weights, state=state)
        if kept:
            vars(net)["start"] = {"head": kept}
            vars(net)["built_as"] |= seed
        return net
    if known(name):
        raise ConfigError(
            f'expected weights for "{name}", got none: type --model.weights FILE.safetensors, or build a net without'
        )
    if os.path.isdir(name):  # which takes a name of any length
        return _from_run(Run(name), checkpoint, options, statistics, trust_code)
    if os.path.isfile(name):
        return load(weights=name, **_built(_recorded(path) | options, statistics, path))
    require_there(name)
    trusted = {"trust_code": True} if trust_code and name in BUNDLED else {}  # for the runs that this one names
    net = build(name, mean=mean, std=std, **options, **trusted)  # third-party code, with weights of its own
    vars(net)["built_as"].pop("trust_code", None)
    return _marked(net, None)


def net_for(who: str, config: Mapping[str, Any], split: Split, *, fresh: bool, trust_code: bool = False) -> nn.Module:
    """The net that a config names, for the images at hand.

    Parameters
    ----------
    who : str
        The key of the config, for messages: "student", "teacher", "model".
    config : Mapping
        `name`, and the options of `load` and of the builder; classes and channels default to those of `split`.
    split : Split
        The images.
    fresh : bool
        Random weights, unless the config names a file of weights.
    trust_code : bool
        As in `load`, for the run that the config names.

    Raises
    ------
    ConfigError, ModelError, CheckpointError
        As `build` and `load`; also for a fresh net by the name of a trained one.
    """
    name = str(config["name"])
    trained = os.path.isdir(name) or source_of(name) is not None
    if fresh and trained:
        raise ConfigError(
            f"expected a net's name for the {who}, got {name}, which is trained: type --{who} small_cnn, say, "
            f"and --{who}.weights FILE to start from weights"
        )
    if not trained:
        require_there(name)
        if os.path.isfile(name) and not name.endswith(".py"):
            raise ConfigError(
                f"expected the name of a net for the {who}, got the file {name}: type that name in its place, "
                f"resnet18, say, and --{who}.weights {name}"
            )
    with _options_of(who):
        return _net_for(who, config, split, fresh, trained, trust_code)


@contextlib.contextmanager
def _options_of(who: str) -> Iterator[None]:
    """The options of nets in messages are those of `who`."""
    try:
        yield
    except ArdorError as error:
        error.args = (re.sub(r"--(student|teacher|model)\.", f"--{who}.", error.args[0]),)
        raise


def _net_for(
    who: str, config: Mapping[str, Any], split: Split, fresh: bool, trained: bool, trust_code: bool
) -> nn.Module:
    name = str(config["name"])
    given = {key: value for key, value in config.items() if value is not None}
    makers = () if trained else (build, find_builder(name)[1])
    options: dict[str, Any] = {"trust_code": trust_code, **arguments(given, who, load, *makers)}
    if os.path.isdir(name):
        return load(**options)
    of_data = {"classes": split.classes, "channels": split.shape[0]}
    options = of_data | (sizes_of(name, split.shape) if is_timm(name) else {}) | options
    if fresh and "weights" not in options:
        return build(**{key: value for key, value in options.items() if key != "trust_code"})
    options.setdefault("new_head", fresh)
    net = load(**options)
    require_known(net, split.shape, split.classes, who)
    return net


def source_of(name: str) -> str | None:
    """Which of `PUBLISHED` a name begins with, or None."""
    source, colon, _ = name.partition(":")
    return source if colon and source in PUBLISHED else None


def _published(
    name: str,
    weights: str | Path | None,
    state: str | None,
    root: str | Path,
    download: bool,
    options: dict[str, Any],
    statistics: Statistics,
) -> nn.Module:
    from ardor.models import hub, published, zoo

    _refuse_options(name, weights, options)
    classes, path = options.get("classes"), weights
    if name.startswith("robustbench:"):
        net, name, path = published.from_robustbench(
            name, weights=weights, state=state, root=root, download=download, classes=classes
        )
    elif name.startswith(zoo.PREFIX):
        net = zoo.from_zoo(name, classes)
    else:
        net, name = hub.from_hub(name, classes)
    vars(net)["built_as"] = {"name": name}
    return _marked(net, path, statistics, state)


def _refuse_options(name: str, weights: str | Path | None, options: dict[str, Any]) -> None:
    """Refuse options of a published net: another width would be another net under its name."""
    if extra := [option for option in options if option not in ("classes", "channels")]:
        raise ConfigError(
            f"expected no options for {name}, which is built as it was published, got {', '.join(extra)}: leave them "
            "out, or name the network, say wide_resnet, with its weights"
        )
    if weights is not None and source_of(name) in WHOLE:
        raise ConfigError(f"expected no weights for {name}, which brings its own, got {weights}: leave them out")


def _recorded(path: Path) -> dict[str, Any]:
    """The arguments of `build` in the metadata of a weights file. Raises ConfigError, also for code to run."""
    text = read_tensors(path)[1].get("net", "") if is_safetensors(path) else ""
    config = parse_yaml(text, f"the metadata of {path}")
    if not isinstance(config, dict) or not is_named(str(config.get("name"))):
        raise ConfigError(
            f"expected a file whose metadata name its net, as those of a run do, got {path}: "
            f"name the net, say resnet18, and type --model.weights {path}"
        )
    require_no_code(config, path, "net")  # also below the name, where an option could be built
    return config


def _built(config: Mapping[str, Any], statistics: Statistics, path: Path) -> dict[str, Any]:
    """A net's config in the types of the builder, a mean of "128/255" as a number; `statistics` go before its own."""
    built = untrained(arguments(config, "student", build, find_builder(config["name"])[1]))
    require_values(built, path)
    return built | (composed(build(**built), **_both(statistics)) if statistics else {})


def _both(statistics: Statistics) -> Statistics:
    if len(statistics) == 1:
        raise ConfigError("expected mean and std together, got one of them: give both, or neither for raw images")
    return statistics


def require_there(name: str) -> None:
    """Raise ConfigError where `name` is no net's name, no `file.py:Name`, and no folder or file that exists."""
    if known(name) or ":" in name or os.path.exists(name):
        return
    path, is_path = Path(name), "/" in name or os.sep in name
    if re.fullmatch(r"\.[a-z]\w*", path.suffix) and path.parent.is_dir():
        near = nearest(path.name, os.listdir(path.parent))
        if near or is_path:
            raise ConfigError(f"expected a run folder or a file, got {name}, where there is none{near}: check the path")
    if is_path:
        raise ConfigError(
            f"expected a run folder or a file of weights, got {name}, where there is none: check the path, "
            f"or make the run first, with ardor train RECIPE --run {name}"
        )
    from ardor.models import zoo

    names = (*BUILDERS, *(zoo.PREFIX + each for each in zoo.shipped()))
    raise ConfigError(
        f'expected a run folder or the name of a net, got "{name}", which is neither{nearest(name, names)}: '
        f"check the path, or type one of {', '.join(BUILDERS)} with weights"
    )


def _from_run(
    run: Run, checkpoint: str, options: dict[str, Any], statistics: Statistics, trust_code: bool
) -> nn.Module:
    if options:
        raise ConfigError(
            f"expected no options for the run {run.folder}, whose config.yaml has them, got {', '.join(options)}: "
            "leave them out"
        )
    student = run.part("student", trust_code=trust_code)
    path = run.checkpoint(checkpoint)
    if not path.is_file():
        existing = run.checkpoints()
        raise CheckpointError(
            f'expected the checkpoint "{checkpoint}" in {run.folder}, got '
            f"{' and '.join(existing) or 'a run without any'}: "
            + (f"type --model.checkpoint {existing[0]}" if existing else "train it first")
        )
    # `weights` and `state` are what the student started from; the run's checkpoint replaces them.
    config = {key: value for key, value in student.items() if key not in ("weights", "state")}
    config = _built(config, statistics, path)
    net = build(**config)
    load_weights(net, path)
    return _marked(net, path)


def _marked(
    net: nn.Module, weights: str | Path | None, statistics: Statistics | None = None, state: str | None = None
) -> nn.Module:
    """The net in eval mode, with its file of weights recorded in place of its initial seed."""
    built_as = {k: v for k, v in vars(net)["built_as"].items() if k != "seed"}
    if statistics:  # a net of ours keeps its own form: it is rebuilt with them; any other one is wrapped
        net = Normalised(net, **_both(statistics))
    vars(net)["built_as"] = {**built_as, **(statistics or {})}
    vars(net)["loaded_from"] = None if weights is None else str(weights)
    if state is not None:
        vars(net)["loaded_state"] = state
    return net.eval()
