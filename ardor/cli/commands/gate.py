"""`ardor gate`: whether a teacher is what it claims to be, before hours are spent on it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from cyclopts import App, Parameter

from ardor.attacks.threat import Linf
from ardor.cli import display
from ardor.cli.nets import data_options, make_net, net_options
from ardor.cli.options import grouped, options_for, piece, values, with_options
from ardor.cli.selection import find_split, find_threat, first_stage, run_of, trained_threat
from ardor.diagnostics.record import record_of
from ardor.diagnostics.teacher import LIMIT, wants_robust
from ardor.diagnostics.teacher import examine_teacher as judge
from ardor.errors import ConfigError
from ardor.methods.find import find_method
from ardor.models.loading import require_there
from ardor.training.recipe import find_device

NAMES = ("data", "student", "method", "threat")

HELP = """Measure a teacher on validation images before it teaches: clean accuracy and PGD-20 against its record, the
entropy of its soft labels, and how many of a student's adversarial examples fool it too.

TEACHER is a folder that `ardor train` made, whose data and threat are used unless you type others, or a net's name with
--teacher.weights and --data. A teacher that is not what its record says is refused, with the likely cause:
mis-normalised, weights never loaded, another class order, other images, not robust.

Each finding is explained in docs/gate.md. The exit code is 1 where the teacher is refused, else 0.

Examples:

`ardor gate runs/teacher --student runs/sat`

`ardor gate resnet18 --teacher.weights w.safetensors --data cifar10 --threat.eps 8/255`
"""


def app(argv: Sequence[str]) -> App:
    """The command with the options of what `argv` names."""
    asked = first_stage(argv, NAMES)
    named = argv[0] if argv and not argv[0].startswith("-") else None
    run = run_of(argv)
    trained = run.config if run else {}
    threat = find_threat(asked, argv, trained_threat(run)) or Linf()
    pieces = {"threat": options_for(type(threat), threat), "data": data_options(asked.names.get("data"))}
    nets = {"teacher": named, "student": asked.names.get("student")}
    pieces |= {who: net_options(name, runs=True) for who, name in nets.items() if name is not None}
    rows = [piece(key, options) for key, options in pieces.items()]
    options = grouped(rows, argv=list(argv), trained=trained, resolved_threat=threat)
    command = App(name="gate", help=HELP)
    command.default(with_options(gate, options))
    return command


def gate(
    teacher: Annotated[str | None, Parameter(name="TEACHER", help="a run's folder or a net's name; first")] = None,
    /,
    *,
    data: Annotated[str | None, Parameter(help="the data set; default the run's own")] = None,
    student: Annotated[str | None, Parameter(help="a trained net of the student's kind: a run, or a name")] = None,
    method: Annotated[str, Parameter(help="that the teacher is for; kd wants no robust one")] = "rslad",
    threat: Annotated[str | None, Parameter(help="linf or l2; default the run's own")] = None,
    part: Annotated[Literal["val", "test", "train"], Parameter(help="of the data")] = "val",
    limit: Annotated[int, Parameter(help="how many images, classes in proportion")] = LIMIT,
    batch: Annotated[int, Parameter(help="images at a time")] = 256,
    seed: Annotated[int, Parameter(help="of the attacks' random starts")] = 0,
    device: Annotated[str, Parameter(help="auto, cpu, cuda ...")] = "auto",
    more: Any = None,
) -> int:
    """Judge the teacher that the words and `more` describe."""
    if teacher is None:
        raise ConfigError("expected a teacher, got none: type ardor gate RUN, or a name and --teacher.weights FILE")
    require_there(teacher)  # before its data are asked for
    typed = {word[7:].partition("=")[0] for word in more.argv if word.startswith("--data.")}
    named = {k: v for k, v in values(more.data).items() if data is not None or k in typed}
    split = find_split(more.trained, data, part, named)
    where = find_device(device)
    net = make_net("teacher", teacher, values(more.teacher), split, fresh=False).to(where)
    pupil = None
    if student is not None:
        pupil = make_net("student", student, values(more.student), split, fresh=False).to(where)
    with display.progress("gate", 100) as move:
        seen = judge(
            net,
            split,
            more.resolved_threat,
            record=record_of(teacher, net),
            student=pupil,
            robust=wants_robust(find_method(method)),
            limit=limit,
            batch=batch,
            seed=seed,
            progress=lambda name, done, todo: move(100 * done // todo, name),
        )
    display.say(f"{teacher} as a teacher, on {seen.n} images of {split.name} ({split.part})")
    display.say(seen.text())
    return 1 if seen.refused else 0
