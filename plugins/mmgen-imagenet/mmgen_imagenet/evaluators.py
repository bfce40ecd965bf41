"""`fid_effnet_lite0`, `kid_effnet_lite0`: how far drawings or reconstructions are from true pictures, as sets.

Their features are EfficientNet-Lite0's, where FID and KID take Inception's: compare values of these two with
themselves only. Hence the names.
"""

from __future__ import annotations

import hashlib
from typing import Literal

import torch
from torch import Tensor

from mmgen.protocols import Evidence, Finding, Findings, Needs, Setting
from mmgen_imagenet.distances import PairedKernels, frechet
from mmgen_imagenet.network import FEATURES, Network, load_network, read_verified

BATCH = 16  # pictures at once: 0.1 GB in the widest layer
LEAST = 4  # pictures: two for a covariance, twice
Judged = Literal["drawings", "reconstructions"]


class _Distance:
    """Features of both sets, collected; pictures in the order in which they come."""

    title: str

    def __init__(self, of: Judged, split: str, drawings: int, max_pictures: int | None) -> None:
        if drawings < 1:
            raise ValueError(f"drawings is {drawings}; it must be ≥ 1")
        if max_pictures is not None and max_pictures < LEAST:
            raise ValueError(f"max_pictures is {max_pictures}; it must be ≥ {LEAST}, or null")
        read_verified()  # a mistake is told before anything is drawn
        self.of, self.drawings = of, drawings
        drawn = of == "drawings"
        self.needs = Needs(
            split, max_pictures=max_pictures, reconstructions=not drawn, drawings=drawings if drawn else 0
        )
        self._network: Network | None = None

    def begin(self, setting: Setting) -> None:
        """Starts anew."""
        self._setting = setting
        self._true: list[Tensor] = []
        self._made: list[Tensor] = []
        self._ids: list[str] = []

    def update(self, evidence: Evidence) -> None:
        """Adds the features of true pictures, and of what was made for each."""
        made = evidence.drawings[:, 0] if evidence.drawings is not None else evidence.reconstructions
        assert made is not None
        self._true.append(self._features(evidence.images))
        self._made.append(self._features(made))
        self._ids += [sample["id"] for sample in evidence.samples]

    @torch.no_grad()
    def _features(self, images: Tensor) -> Tensor:
        """(B,3,H,W) to (B,1280) on the CPU."""
        self._network = (self._network or load_network()).to(images.device)
        parts = [self._network.features(part.float()).cpu() for part in images.split(BATCH)]
        return torch.cat(parts)

    def compute(self) -> Findings:
        """The distance of the two sets of everything since `begin`."""
        n = len(self._ids)
        if n < LEAST:
            return Findings([], stood_aside=f"{self.title} needs {LEAST} pictures or more; there are {n}")
        parts: tuple[str, ...] = ("tokenizer", "dataset")
        if self.of == "drawings":
            parts += ("generator", "sampler", *(("encoder",) if self.drawings > 1 else ()))
        return Findings(self._numbers(torch.cat(self._true), torch.cat(self._made)), depends_on=parts)

    def _numbers(self, true: Tensor, made: Tensor) -> list[Finding]:
        raise NotImplementedError

    @property
    def _said(self) -> str:
        """What was compared, for the note."""
        drawn = f"the best of {self.drawings} drawings a caption" if self.drawings > 1 else "one drawing a caption"
        of = drawn if self.of == "drawings" else self.of
        return f"{of}, with the true pictures of {self._setting.split}; by EfficientNet-Lite0, not Inception"


class FIDEffnetLite0(_Distance):
    """FID-effnet-lite0: the Fréchet distance (arXiv 1706.08500) between features of drawings or reconstructions and of
    the true pictures; lower is better, 0 for equal sets. Not FID: the features are EfficientNet-Lite0's 1,280.

    Few pictures give too large a value, whatever they show. Beside it stands what two halves of the true pictures give,
    which is half as many: compare at equal n only.

    Args:
        of: what is compared with the true pictures.
        split: the pictures judged, and whose captions are drawn.
        drawings: how many of each caption; the encoder's best is judged.
        max_pictures: at most; null: all of the split.

    Raises:
        ValueError: no drawings, fewer than four pictures, or weights that are not those published.
    """

    title = "FID-effnet-lite0"

    def __init__(
        self,
        of: Judged = "drawings",
        split: str = "heldout_pairs",
        drawings: int = 1,
        max_pictures: int | None = None,
    ) -> None:
        super().__init__(of, split, drawings, max_pictures)

    def _numbers(self, true: Tensor, made: Tensor) -> list[Finding]:
        n = len(true)
        few = f"; n is below the {FEATURES:,} features" if n <= FEATURES else ""
        note = f"{self._said}{few}; fewer pictures give more, so compare at n={n} only"
        ids = [id.encode("utf-8", "surrogatepass") for id in self._ids]
        order = sorted(range(n), key=lambda i: hashlib.sha256(ids[i]).digest())
        halves = (true[order[: n // 2]], true[order[n // 2 : n // 2 * 2]])
        said = f"two halves of the true pictures, {n // 2} each: what so few alone make of it"
        return [
            Finding(f"{self.title}/{self.of}", frechet(true, made), n, note=note),
            Finding(f"{self.title}/true_halves", frechet(*halves), n // 2, note=said),
        ]


class KIDEffnetLite0(_Distance):
    """KID-effnet-lite0: the squared maximum mean discrepancy of a cubic kernel (arXiv 1801.01401) between features of
    drawings or reconstructions and of the true pictures, times 1,000; lower is better, 0 for equal sets. Not KID: the
    features are EfficientNet-Lite0's. It is unbiased at any number of pictures, so it may fall below 0.

    Args:
        of: what is compared with the true pictures.
        split: the pictures judged, and whose captions are drawn.
        drawings: how many of each caption; the encoder's best is judged.
        max_pictures: at most; null: all of the split.
        subsets: how many are drawn by the seed; the value is their mean, the spread their standard deviation.
        subset_size: pictures of a subset; half of all where there are not twice as many.

    Raises:
        ValueError: no drawings, fewer than four pictures, fewer than two subsets or two pictures of one, or weights
            that are not those published.
    """

    title = "KID-effnet-lite0"

    def __init__(
        self,
        of: Judged = "drawings",
        split: str = "heldout_pairs",
        drawings: int = 1,
        max_pictures: int | None = None,
        subsets: int = 100,
        subset_size: int = 1000,
    ) -> None:
        for name, value in (("subsets", subsets), ("subset_size", subset_size)):
            if value < 2:
                raise ValueError(f"{name} is {value}; it must be ≥ 2")
        super().__init__(of, split, drawings, max_pictures)
        self.subsets, self.subset_size = subsets, subset_size

    def _numbers(self, true: Tensor, made: Tensor) -> list[Finding]:
        n = len(true)
        size = min(self.subset_size, n // 2)
        kernels, source = PairedKernels(true, made), torch.Generator().manual_seed(self._setting.seed)
        chosen = (torch.randperm(n, generator=source)[:size] for _ in range(self.subsets))
        values = 1000 * torch.tensor([kernels.discrepancy(one) for one in chosen], dtype=torch.float64)
        said = f"the mean over {self.subsets} subsets of {size}, times 1,000"
        spread = f"the standard deviation over these subsets of {size} out of {n}"
        return [
            Finding(f"{self.title}/{self.of}", values.mean().item(), n, note=f"{self._said}; {said}"),
            Finding(f"{self.title}/{self.of}_spread", values.std(correction=0).item(), n, note=spread),
        ]


