"""What the report shows of a judged run beside figures: the sheet of drawings, classified pictures, reconstructions."""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from mmgen.commands.drawn import Made, text_of, words
from mmgen.data.pictures import Pictures, split_names
from mmgen.drawings import Drawings
from mmgen.images import grid, save_png, sheet
from mmgen.text_to_image import TextToImage

CHOICES = 8  # captions that a classified picture is put among
SHOWN = 24  # reconstructions


class Shown:
    """Pictures of a run, written under its directory.

    Args:
        model: the three parts.
        pictures: the dataset, read.
        path: the run's directory; gets samples/ and sheet.png.
        drawing: the config's section of that name.
        seed: of the labels that classified pictures are put among.
    """

    def __init__(
        self, model: TextToImage, pictures: Pictures, path: Path, drawing: Mapping[str, Any], seed: int
    ) -> None:
        self.model, self.pictures, self.path, self.drawing, self.seed = model, pictures, path, drawing, seed

    def _shown_split(self) -> str:
        """The first split that is never trained on, or `val`."""
        return next((name for name in split_names(self.pictures.dataset) if name not in ("train", "val")), "val")

    def _shown_positions(self, count: int, salt: str) -> list[int]:
        positions = self.pictures.positions(self._shown_split())
        return random.Random(f"{self.drawing['seed']}/{salt}").sample(positions, min(count, len(positions)))  # noqa: S311

    def _sheet_rows(self) -> list[tuple[str, int | None]]:
        """Captions of the sheet, each with the position of the picture it was taken from."""
        drawing = self.drawing
        own: list[tuple[str, int | None]] = [(caption, None) for caption in drawing["captions"]]
        positions = self._shown_positions(drawing["num_captions"], "sheet")
        return own + [(self.pictures.captions[p], p) for p in positions]

    def captions(self) -> list[str]:
        """Of the sheet's rows."""
        return [caption for caption, _ in self._sheet_rows()]

    def sheet(self, drawn: Mapping[str, Drawings]) -> list[dict[str, Any]]:
        """Writes the sheet and its single pictures from the drawings of its captions; returns their entries for
        evaluation.json."""
        count, keep = int(self.drawing["num_images"]), int(self.drawing["keep"])
        asked = {"run": str(self.path), "num_images": count, "keep": min(keep, count), "seed": self.drawing["seed"]}
        again = words("sample", asked, list(asked), self.model)
        entries, rows = [], []
        for number, (caption, position) in enumerate(self._sheet_rows()):
            drawings = drawn[caption]
            made = Made(drawings, [*again, "--", caption])
            files = [
                self.picture(f"drawing-{number:02d}-{rank + 1}", drawings[rank], text_of(made, rank, self.model, count))
                for rank in range(min(keep, len(drawings)))
            ]
            pictures = list(drawings.images[:keep])
            entry: dict[str, Any] = {"caption": caption, "id": "", "split": "", "original": None}
            if position is not None:
                original = self.pictures.batch([position])[0]
                entry |= {"id": self.pictures.ids[position], "split": self._shown_split()}
                entry["original"] = self.picture(f"original-{number:02d}", original)
                pictures.append(original)
            numbers = drawings.numbers[:keep].tolist()
            entries.append(entry | {"pictures": files, "scores": _plain(drawings.scores, keep), "numbers": numbers})
            rows.append((caption, pictures))
        headers = [f"rank {rank + 1}" for rank in range(keep)] + ["true picture"]
        save_png(sheet(rows, headers=headers, title="Captions never seen"), self.path / "sheet.png")
        return entries

    def classified(self) -> list[dict[str, Any]]:
        """Unseen pictures, each put among its own caption and others of the same split."""
        count = int(self.drawing["classified"])
        split = [self.pictures.captions[p] for p in self.pictures.positions(self._shown_split())]
        entries = []
        for number, position in enumerate(self._shown_positions(count, "classified")):
            truth = self.pictures.captions[position]
            others = sorted(set(split) - {truth})
            told = f"{self.seed}/{self.pictures.ids[position]}".encode("utf-8", "surrogatepass")
            draw = random.Random(told)  # noqa: S311
            labels = [truth, *draw.sample(others, min(CHOICES - 1, len(others)))]
            image = self.pictures.batch([position])[0]
            shares = self.model.classify(image, labels, cut=True)
            entries.append(
                {
                    "picture": self.picture(f"classified-{number:02d}", image),
                    "id": self.pictures.ids[position],
                    "truth": truth,
                    "labels": [{"label": label, "share": share} for label, share in shares.items()],
                }
            )
        return entries

    def reconstructions(self) -> dict[str, str]:
        """Unseen pictures, and what the image tokenizer makes of them; the two files."""
        images = self.pictures.batch(self._shown_positions(SHOWN, "reconstructions"))
        rows = {"originals": images, "reconstructions": self.model.reconstruct(images)[1]}
        return {name: self.picture(name, grid(batch, columns=12)) for name, batch in rows.items()}

    def picture(self, name: str, image: Tensor, text: dict[str, str] | None = None) -> str:
        """Writes samples/NAME.png; returns that path, relative to the run."""
        file = f"samples/{name}.png"
        (self.path / "samples").mkdir(exist_ok=True)
        save_png(image, self.path / file, text or {})
        return file


def _plain(scores: Tensor | None, keep: int) -> list[float]:
    return [] if scores is None else [float(score) for score in scores[:keep]]
