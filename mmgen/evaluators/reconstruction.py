"""`reconstruction`: how much of a picture survives the image tokenizer."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mmgen.evaluators.kmeans import MAX_PICTURES, PatchCodes
from mmgen.images import grid
from mmgen.protocols import Evidence, Finding, Findings, Needs, Setting

SHOWN = 12  # pictures in the grid
MAX_ENCODED = 20_000  # training pictures that tell which codes are used
ENCODED_AT_ONCE = 1_024
COLLAPSED = 0.05  # a perplexity under this share of the codebook is a collapse


class Reconstruction:
    """PSNR, SSIM, the use of the codebook and the stability of the codes, beside k-means on patches with as many
    centres as the codebook has codes.

    Codes are stable where encoding a reconstruction gives the codes that it was decoded from. A picture that is redrawn
    in part goes through the image tokenizer again: what is not stable may change there.

    Args:
        split: the pictures judged.
        max_pictures: judge no more than these; null: all.
        baseline: whether k-means is fitted on the training pictures; it takes seconds and all pictures in memory.
    """

    def __init__(self, split: str = "heldout_pairs", max_pictures: int | None = None, baseline: bool = True) -> None:
        self.needs = Needs(split, max_pictures=max_pictures, reconstructions=True, all_pictures=baseline)

    def begin(self, setting: Setting) -> None:
        """Starts anew."""
        self._setting = setting
        self._codes: PatchCodes | None = None
        self._psnr: list[Tensor] = []
        self._ssim: list[Tensor] = []
        self._baseline: list[Tensor] = []
        self._stable: list[Tensor] = []
        self._counts = torch.zeros(setting.codebook_size, dtype=torch.long)
        self._shown: list[tuple[Tensor, Tensor]] = []

    def update(self, evidence: Evidence) -> None:
        """Adds pictures, their reconstructions and their indices."""
        # Imported late: composing a config reads this class for its options, and torchmetrics takes a second.
        from torchmetrics.functional.image import structural_similarity_index_measure as ssim

        assert evidence.reconstructions is not None
        assert evidence.indices is not None
        images, reconstructions = evidence.images.cpu().float(), evidence.reconstructions.cpu().float()
        self._psnr.append(psnr(images, reconstructions))
        similarity = ssim(reconstructions, images, data_range=1.0, reduction="none")
        assert isinstance(similarity, Tensor)
        self._ssim.append(similarity.reshape(-1))
        self._counts += torch.bincount(evidence.indices.cpu().flatten(), minlength=len(self._counts))
        if self._setting.encode_images is not None:
            again = self._setting.encode_images(evidence.reconstructions)
            self._stable.append((again == evidence.indices).flatten(1).float().mean(1).cpu())
        self._shown += zip(images, reconstructions, strict=True)
        codes = self._fitted(images, evidence.indices)
        if codes is not None:
            self._baseline.append(psnr(images, codes.quantise(images)))

    def _fitted(self, images: Tensor, indices: Tensor) -> PatchCodes | None:
        """k-means that spends as many codes on a picture as the tokenizer does; None where it cannot be had."""
        setting = self._setting
        codes, size = indices.shape[1:], images.shape[2:]
        if setting.all_images is None or not setting.train_positions or size[0] % codes[0] or size[1] % codes[1]:
            return None
        patch = (size[0] // codes[0], size[1] // codes[1])
        if self._codes is None:
            trained = setting.all_images[_some(setting.train_positions, MAX_PICTURES)]
            self._codes = PatchCodes.fit(trained, centres=setting.codebook_size, patch=patch)
        return self._codes

    def _used(self) -> tuple[Tensor, str]:
        """How often each code is used: by the training pictures where they are at hand, or else by those judged."""
        setting = self._setting
        if setting.all_images is None or setting.encode_images is None or not setting.train_positions:
            return self._counts, "the judged pictures"
        positions = _some(setting.train_positions, MAX_ENCODED)
        counts = torch.zeros_like(self._counts)
        for part in positions.split(ENCODED_AT_ONCE):
            indices = setting.encode_images(setting.all_images[part])
            counts += torch.bincount(indices.cpu().flatten(), minlength=len(counts))
        few = len(positions) < len(setting.train_positions)
        return counts, f"{len(positions):,} of the training pictures" if few else "the training pictures"

    def compute(self) -> Findings:
        """The means over all pictures since `begin`."""
        decibels, similarities = torch.cat(self._psnr), torch.cat(self._ssim)
        n, where = len(decibels), f"of {self._setting.split}, mean over pictures"
        mean = decibels.mean().item()
        numbers = [Finding("reconstruction/psnr", mean, n, "dB", note=where)]
        if self._baseline:
            baseline = torch.cat(self._baseline).mean().item()
            numbers[0].note += f"; {mean - baseline:+.2f} dB on k-means"
            note = f"k-means on patches of the training pictures, {len(self._codes.centres)} centres"  # type: ignore[union-attr]
            numbers.append(Finding("reconstruction/kmeans_psnr", baseline, n, "dB", note=note))
        counts, whose = self._used()
        probs = counts[counts > 0] / counts.sum()
        perplexity = (-(probs * probs.log()).sum()).exp().item()
        size = f"of {len(counts)} codes, over {whose}"
        if perplexity < COLLAPSED * len(counts):
            size += f": the codebook has collapsed; {self._setting.collapse_advice or 'lower task.optimizer.lr'}"
        numbers += [
            Finding("reconstruction/ssim", similarities.mean().item(), n, note=where),
            Finding("reconstruction/codebook_usage", len(probs) / len(counts), n, "%", note=size),
            Finding("reconstruction/codebook_perplexity", perplexity, n, note=size),
        ]
        if self._stable:
            note, kept = "codes that encoding the reconstruction gives again", torch.cat(self._stable).mean().item()
            numbers.append(Finding("reconstruction/stable_codes", kept, n, "%", note=note))
        step = max(1, n // SHOWN)
        originals, reconstructions = zip(*self._shown[::step][:SHOWN], strict=True)
        picture = grid(torch.stack([*originals, *reconstructions]), columns=len(originals))
        return Findings(
            numbers, pictures={"Originals above, reconstructions below": picture}, depends_on=("dataset", "tokenizer")
        )


def _some(positions: Sequence[int], most: int) -> Tensor:
    """All of the positions, or so many of them by chance, the same ones always."""
    chosen = torch.tensor(list(positions))
    if len(chosen) <= most:
        return chosen
    return chosen[torch.randperm(len(chosen), generator=torch.Generator().manual_seed(0))[:most]]


def psnr(images: Tensor, others: Tensor) -> Tensor:
    """Pictures (B,3,H,W) in [0,1] to decibels (B,), 100 at most, so that one perfect picture leaves a mean."""
    return -10 * (images - others).square().flatten(1).mean(dim=1).clamp(min=1e-10).log10()
