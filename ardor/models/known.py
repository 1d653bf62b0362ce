"""Known teachers: published robust nets that the builders here can hold, and what was measured of each.

Ids, networks, accuracies and licences are those of RobustBench (github RobustBench/robustbench at 78fcc9e: model_zoo/,
model_info/, LICENSE; Croce et al., NeurIPS 2021); plain addresses are from the authors' own pages (github
google-deepmind/deepmind-research, adversarial_robustness; github wzekai99/DM-Improves-AT).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from ardor.errors import ConfigError, ModelError
from ardor.models.wide_resnet import CIFAR10, CIFAR100
from ardor.storage.config import as_text, number
from ardor.storage.imports import nearest


@dataclass(frozen=True)
class Known:
    """One published net: how to build it, where its weights are, and what is said of it.

    clean, autoattack: shares of the 10,000 test images, the second under AutoAttack in `norm` at `eps`. drive: the id
    of the file at Google Drive, which cannot be had without a browser. url: a plain address, or "" where none is.
    """

    id: str
    data: str
    builder: str
    depth: int
    width: int
    clean: float
    autoattack: float
    drive: str
    paper: str
    url: str = ""
    sub_block1: bool = False
    extra: str = "none"
    eps: float = field(default_factory=lambda: number("8/255"))
    norm: str = "Linf"
    licence: str = "MIT"
    shape: tuple[int, int, int] = (3, 32, 32)

    @property
    def name(self) -> str:
        """As load takes it, whatever other data have a net of this id."""
        return f"robustbench:{self.data}/{self.id}"

    @property
    def classes(self) -> int:
        """How many classes the data have."""
        return int(self.data.removeprefix("cifar"))

    @property
    def network(self) -> str:
        """The architecture in the field's short form."""
        if self.builder == "resnet18":
            return "ResNet-18"
        return f"WRN-{self.depth}-{self.width}" + (" SiLU" if self.builder == "wide_resnet_silu" else "")

    @property
    def mean_std(self) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
        """What the net itself does to images in [0, 1], or None where it takes them raw."""
        if self.builder != "wide_resnet_silu":
            return None
        return CIFAR100 if self.data == "cifar100" else CIFAR10

    @property
    def options(self) -> dict[str, Any]:
        """The builder's own, beside classes."""
        if self.builder == "resnet18":
            return {}
        sub_block1 = {"sub_block1": True} if self.sub_block1 else {}
        return {"depth": self.depth, "width": self.width, **sub_block1}

    @property
    def page(self) -> str:
        """Where a person with a browser gets the file."""
        return f"https://drive.google.com/file/d/{self.drive}/view"

    def place(self, root: str | Path) -> Path:
        """Where RobustBench keeps the file, and load looks for it."""
        return Path(root) / self.data / self.norm / f"{self.id}.pt"


def find(name: str, classes: int | None = None) -> Known | None:
    """The known net that `ID`, `DATA/ID` or either after `robustbench:` means, or None.

    classes: which data's, where two have a net of one id; CIFAR-10's where nobody says, as RobustBench does.
    """
    name = name.removeprefix("robustbench:")
    if "/" in name:
        return KNOWN.get(name)
    found = [known for known in KNOWN.values() if known.id == name]
    return next((known for known in found if known.classes == classes), found[0] if found else None)


def get(name: str, classes: int | None = None) -> Known:
    """As `find`, where the answer must be one. Raises ConfigError."""
    if known := find(name, classes):
        return known
    plain = name.removeprefix("robustbench:")
    choices = KNOWN if "/" in plain else dict.fromkeys(known.id for known in KNOWN.values())
    raise ConfigError(
        f'expected a known teacher, got "{name}"{nearest(plain, choices)}: docs/teachers.md lists them; any other file '
        'is loaded by its network, as load("wide_resnet", weights="FILE.pt")'
    )


def known_of(net: nn.Module) -> Known | None:
    """The record of a net that load made from a known name, or None."""
    return find(str(getattr(net, "built_as", {}).get("name", ""))) if hasattr(net, "loaded_from") else None


def require_known(net: nn.Module, shape: tuple[int, ...], classes: int, who: str = "teacher") -> None:
    """Refuse a known net for data of another shape (C, H, W) or other classes.

    Its pooling takes any size, so that nothing else would notice. Raises ModelError.
    """
    known = known_of(net)
    if known and (known.shape != tuple(shape) or known.classes != classes):
        ours, data = (" x ".join(map(str, sides)) for sides in (known.shape, shape))
        raise ModelError(
            f"expected a {who} for images of {data} and {classes} classes, got {known.name}, which takes {ours} and "
            f"answers {known.classes}: choose data or a {who} that fit"
        )


def table() -> str:
    """The known teachers as a Markdown table, which docs/teachers.md shows."""
    head = ("id", "data", "network", "images enter", "clean %", "AutoAttack %", "eps", "extra data", "licence", "file")
    rows = [head, ("---",) * len(head), *(_row(known) for known in KNOWN.values())]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"


def _row(known: Known) -> tuple[str, ...]:
    file = f"[plain]({known.url}), [Drive]({known.page})" if known.url else f"[Drive]({known.page})"
    enter = "raw" if known.mean_std is None else "normalised inside"
    network = known.network + (" + sub_block1" if known.sub_block1 else "")
    shares = (f"{100 * share:.2f}" for share in (known.clean, known.autoattack))
    name = f"[{known.id}]({known.paper})"
    return name, known.data, network, enter, *shares, as_text(known.eps), known.extra, known.licence, file


def _table(*rows: Known) -> Mapping[str, Known]:
    return {f"{known.data}/{known.id}": known for known in rows}


_GOWAL20, _REBUFFI = "https://arxiv.org/abs/2010.03593", "https://arxiv.org/abs/2103.01946"
_WANG, _LTD = "https://arxiv.org/abs/2302.04638", "https://arxiv.org/abs/2111.02331"
_RADE, _CUI = "https://openreview.net/forum?id=BuD2LmNaU3a", "https://arxiv.org/abs/2305.13948"
_OAAT, _DAJAT = "https://arxiv.org/abs/2210.09852", "https://arxiv.org/abs/2210.15318"
_PROXY, _PANG = "https://arxiv.org/abs/2104.09425", "https://arxiv.org/abs/2202.10103"
_DEEPMIND = "https://storage.googleapis.com/dm-adversarial-robustness/"
_HUB = "https://huggingface.co/wzekai99/DM-Improves-AT/resolve/main/checkpoint/"

# fmt: off
KNOWN: Mapping[str, Known] = _table(
    Known("Zhang2019Theoretically", "cifar10", "wide_resnet", 34, 10, 0.8492, 0.5308,
        "1hPz9QQwyM7QSuWu-ANG_uXR-29xtL8t_", "https://arxiv.org/abs/1901.08573", sub_block1=True, eps=number("0.031")),
    Known("Chen2021LTD_WRN34_10", "cifar10", "wide_resnet", 34, 10, 0.8521, 0.5694,
        "1-0RoQKYvHLNh7hZ71wJjSit1XtrJQo9D", _LTD),
    Known("Chen2021LTD_WRN34_20", "cifar10", "wide_resnet", 34, 20, 0.8603, 0.5771,
        "1-5JmY9rapuGwCUc2nPvy7Rb_sn_dHhFm", _LTD),
    Known("Addepalli2021Towards_RN18", "cifar10", "resnet18", 18, 1, 0.8024, 0.5106,
        "1-1DxecXz5U_xZ54DVdE-GVm71Tiox-Ri", _OAAT),
    Known("Addepalli2021Towards_WRN34", "cifar10", "wide_resnet", 34, 10, 0.8532, 0.5804,
        "1-3vgjTNfSq7LSMKuayEQ-jLflAP196dB", _OAAT, sub_block1=True),
    Known("Addepalli2022Efficient_RN18", "cifar10", "resnet18", 18, 1, 0.8571, 0.5248,
        "1m5vhdzIUUKhDbsZdOG9z76Eyp6f4xe_f", _DAJAT),
    Known("Addepalli2022Efficient_WRN_34_10", "cifar10", "wide_resnet", 34, 10, 0.8871, 0.5781,
        "1--dVDtZhAk4D2zMtTDwIGnImuCGxTcBA", _DAJAT),
    Known("Carmon2019Unlabeled", "cifar10", "wide_resnet", 28, 10, 0.8969, 0.5953,
        "15tUx-gkZMYx7BfEOw1GY5OKC-jECIsPQ", "https://arxiv.org/abs/1905.13736", sub_block1=True, extra="real images"),
    Known("Sehwag2021Proxy", "cifar10", "wide_resnet", 34, 10, 0.8668, 0.6027,
        "1QFA5fPMj2Qw4aYNG33PkFqiv_RTDWvzm", _PROXY, extra="10M generated"),
    Known("Sehwag2021Proxy_R18", "cifar10", "resnet18", 18, 1, 0.8459, 0.5554,
        "1-ZgoSlD_AMhtXdnUElilxVXnzK2DcHuu", _PROXY, extra="10M generated"),
    Known("Gowal2020Uncovering_34_20", "cifar10", "wide_resnet_silu", 34, 20, 0.8564, 0.5686,
        "1YWvZO1u9_yNLFNC3JYd_TVkvrRSMER1O", _GOWAL20,
        url=_DEEPMIND + "cifar10_linf_wrn34-20_without.pt", licence="Apache-2.0"),
    Known("Gowal2020Uncovering_70_16", "cifar10", "wide_resnet_silu", 70, 16, 0.8529, 0.572,
        "1DVwKclibqzniE2Ss5_g6BY77ChG8QKzl", _GOWAL20,
        url=_DEEPMIND + "cifar10_linf_wrn70-16_without.pt", licence="Apache-2.0"),
    Known("Gowal2020Uncovering_28_10_extra", "cifar10", "wide_resnet_silu", 28, 10, 0.8948, 0.628,
        "1MBAWGxiZxKt-GfqEqtLcXcd3tAxPhvV2", _GOWAL20,
        url=_DEEPMIND + "cifar10_linf_wrn28-10_with.pt", extra="real images", licence="Apache-2.0"),
    Known("Gowal2020Uncovering_70_16_extra", "cifar10", "wide_resnet_silu", 70, 16, 0.911, 0.6588,
        "1GxryYj_Or-VCDca0wgiFLz4ssXSZXQoJ", _GOWAL20,
        url=_DEEPMIND + "cifar10_linf_wrn70-16_with.pt", extra="real images", licence="Apache-2.0"),
    Known("Rebuffi2021Fixing_28_10_cutmix_ddpm", "cifar10", "wide_resnet_silu", 28, 10, 0.8733, 0.6075,
        "1-0EChXbc6pOvx26O17av263bCeqIAz6s", _REBUFFI,
        url=_DEEPMIND + "cifar10_linf_wrn28-10_cutmix_ddpm_v2.pt", extra="1M generated", licence="Apache-2.0"),
    Known("Rebuffi2021Fixing_70_16_cutmix_ddpm", "cifar10", "wide_resnet_silu", 70, 16, 0.8854, 0.6425,
        "1-8CWRT-OFWyrz4T4s0I2mbFjPg8K_MUi", _REBUFFI,
        url=_DEEPMIND + "cifar10_linf_wrn70-16_cutmix_ddpm_v2.pt", extra="1M generated", licence="Apache-2.0"),
    Known("Rade2021Helper_ddpm", "cifar10", "wide_resnet_silu", 28, 10, 0.8816, 0.6097,
        "1AOF6LxnwgS5fCz_lVLYqs_wnUYuv6O7z", _RADE, extra="1M generated"),
    Known("Rade2021Helper_extra", "cifar10", "wide_resnet_silu", 34, 10, 0.9147, 0.6283,
        "1GhAp-0C3ONRy9BxIe0J9vKc082vHvR7t", _RADE, extra="real images"),
    Known("Pang2022Robustness_WRN28_10", "cifar10", "wide_resnet_silu", 28, 10, 0.8861, 0.6104,
        "16ChNkterCp17BXv-xxqpfedb4u2_CjjS", _PANG, extra="1M generated"),
    Known("Cui2023Decoupled_WRN-28-10", "cifar10", "wide_resnet_silu", 28, 10, 0.9216, 0.6773,
        "1-AaTrYt23WJFR22hXgBd-i6kjpsz6Hf2", _CUI, extra="20M generated"),
    Known("Wang2023Better_WRN-28-10", "cifar10", "wide_resnet_silu", 28, 10, 0.9244, 0.6731,
        "1-6MYKJdECDVGaWjj6GgqvaT95BGKhUvI", _WANG, url=_HUB + "cifar10_linf_wrn28-10.pt", extra="20M generated"),
    Known("Wang2023Better_WRN-70-16", "cifar10", "wide_resnet_silu", 70, 16, 0.9325, 0.7069,
        "1-RF7ZSS-PAh6bfQcuqx4lh9bc9BUGnap", _WANG, url=_HUB + "cifar10_linf_wrn70-16.pt", extra="50M generated"),
    Known("Gowal2020Uncovering", "cifar100", "wide_resnet_silu", 70, 16, 0.6086, 0.3003,
        "16I86x2Vv_HCRKROC86G4dQKgO3Po5mT3", _GOWAL20,
        url=_DEEPMIND + "cifar100_linf_wrn70-16_without.pt", licence="Apache-2.0"),
    Known("Gowal2020Uncovering_extra", "cifar100", "wide_resnet_silu", 70, 16, 0.6915, 0.3688,
        "1LQBdwO2b391mg7VKcP6I0HIOpC6O83gn", _GOWAL20,
        url=_DEEPMIND + "cifar100_linf_wrn70-16_with.pt", extra="real images", licence="Apache-2.0"),
    Known("Chen2021LTD_WRN34_10", "cifar100", "wide_resnet", 34, 10, 0.6407, 0.3059,
        "1-I4NZyULdEWH46b4EaCTxuuRo4eFXsg_", _LTD, sub_block1=True),
    Known("Addepalli2021Towards_WRN34", "cifar100", "wide_resnet", 34, 10, 0.6573, 0.3035,
        "1-9GAld_105-jWBLXL73btmfOCwAqvz7Y", _OAAT, sub_block1=True),
    Known("Addepalli2022Efficient_RN18", "cifar100", "resnet18", 18, 1, 0.6545, 0.2767,
        "1-2hnxC7lZOQDqQbum4yPbtRtTND86I5N", _DAJAT),
    Known("Addepalli2022Efficient_WRN_34_10", "cifar100", "wide_resnet", 34, 10, 0.6875, 0.3185,
        "1-3c-iniqNfiwGoGPHC3nSostnG6J9fDt", _DAJAT),
    Known("Sehwag2021Proxy", "cifar100", "wide_resnet", 34, 10, 0.6593, 0.3115,
        "1ejMNF2O4xkSdrjtZt2UXUeim-y9F7Req", _PROXY, extra="1M generated"),
    Known("Rebuffi2021Fixing_28_10_cutmix_ddpm", "cifar100", "wide_resnet_silu", 28, 10, 0.6241, 0.3206,
        "1-P7cs82Tj6UVx7Coin3tVurVKYwXWA9p", _REBUFFI,
        url=_DEEPMIND + "cifar100_linf_wrn28-10_cutmix_ddpm.pt", extra="1M generated", licence="Apache-2.0"),
    Known("Rebuffi2021Fixing_70_16_cutmix_ddpm", "cifar100", "wide_resnet_silu", 70, 16, 0.6356, 0.3464,
        "1-GkVLo9QaRjCJl-by67xda1ySVhYxsLV", _REBUFFI,
        url=_DEEPMIND + "cifar100_linf_wrn70-16_cutmix_ddpm.pt", extra="1M generated", licence="Apache-2.0"),
    Known("Pang2022Robustness_WRN28_10", "cifar100", "wide_resnet_silu", 28, 10, 0.6366, 0.3108,
        "1VDDM_j5M4b6sZpt1Nnhkr8FER3kjE33M", _PANG, extra="1M generated"),
    Known("Cui2023Decoupled_WRN-28-10", "cifar100", "wide_resnet_silu", 28, 10, 0.7385, 0.3918,
        "15BwWdWbNfoarTEWWugicOVkTjh3nXH36", _CUI, extra="50M generated"),
    Known("Wang2023Better_WRN-28-10", "cifar100", "wide_resnet_silu", 28, 10, 0.7258, 0.3883,
        "1-jOu3wKWyw0XnBCXDGR32xn8Bw9GTJgh", _WANG, url=_HUB + "cifar100_linf_wrn28-10.pt", extra="50M generated"),
    Known("Wang2023Better_WRN-70-16", "cifar100", "wide_resnet_silu", 70, 16, 0.7522, 0.4267,
        "1-yYcT73GP13c0y9HrgtpyB3NAfkGKgjY", _WANG, url=_HUB + "cifar100_linf_wrn70-16.pt", extra="50M generated"),
)
"""DATA/ID to the record, CIFAR-10's first."""
