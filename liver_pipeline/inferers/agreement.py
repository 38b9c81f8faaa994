"""How far the passes over a case agree: members of an ensemble, or one network on the case and on its mirror image.

Nothing is kept but counts, so a case of any length costs no memory. Source: Zenk et al., "Comparative benchmarking of
failure detection methods in medical image segmentation", Medical Image Analysis 2025: of the methods compared there,
pairwise Dice between the members' masks tells best which cases have failed.
"""

from __future__ import annotations

from itertools import combinations

import torch

from liver_pipeline.inferers.upsampling import argmax


class PassAgreement:
    """Counts, part by part of a case, the voxels of liver (with its tumors) and of tumor in each pass and each pair.

    Args:
        groups: Groups of K channels that follow each other, one a pass.
        first: The first group that is compared; those before it are means of others.
    """

    def __init__(self, groups: int, first: int = 0) -> None:
        self.groups, self.first = groups, first
        self.pairs = list(combinations(range(groups - first), 2))
        self._counts: torch.Tensor | None = None  # (region, pass or pair)

    def add(self, sums: torch.Tensor) -> None:
        """Count a part of the case.

        Args:
            sums: Weighted sums of logits, (n, groups * K, B, C); 0 where no window was, which is background.
        """
        labels = [argmax(part, 1) for part in sums.chunk(self.groups, 1)[self.first :]]
        counts = []
        for least in (1, 2):  # liver with its tumors, tumor
            masks = [label >= least for label in labels]
            both = [masks[a] & masks[b] for a, b in self.pairs]
            counts.append(torch.stack([mask.sum() for mask in (*masks, *both)]))
        found = torch.stack(counts)
        self._counts = found if self._counts is None else self._counts.to(found.device) + found

    def figures(self, voxel_ml: float) -> dict[str, float]:
        """Return how far the passes agree, as plain values.

        Args:
            voxel_ml: Volume of a voxel of the model grid.

        Returns:
            ``liver`` and ``tumor``: mean Dice over the pairs; a pair of two empty masks is left out, and so is the
            figure where no pair is left. ``passes``, their number; ``most_tumor_ml``, the most that one of them found.
        """
        passes = self.groups - self.first
        if self._counts is None:  # no window was run
            return {"passes": passes, "most_tumor_ml": 0.0}
        counts = self._counts.tolist()
        found: dict[str, float] = {"passes": passes, "most_tumor_ml": round(max(counts[1][:passes]) * voxel_ml, 3)}
        for region, sizes in zip(("liver", "tumor"), counts, strict=True):
            pairs = zip(self.pairs, sizes[passes:], strict=True)
            dice = [2 * both / (sizes[a] + sizes[b]) for (a, b), both in pairs if sizes[a] + sizes[b]]
            if dice:
                found[region] = round(sum(dice) / len(dice), 4)
        return found
