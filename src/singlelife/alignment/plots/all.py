"""All pictures of an alignment, as files."""

from pathlib import Path

from singlelife.alignment.matrix import CasMatrix
from singlelife.alignment.plots.breakdown import draw_breakdown
from singlelife.alignment.plots.contrast import draw_contrast
from singlelife.alignment.plots.kinship import draw_kinship
from singlelife.alignment.plots.matrix import draw_matrix
from singlelife.alignment.plots.models import draw_models
from singlelife.alignment.plots.style import write


def write_pictures(result: CasMatrix, folder: Path) -> list[Path]:
    """Draw what there is to draw as PNG into a folder: `matrix.png` (two models and more), `kinship.png` (three and
    more), `models.png`, `breakdown.png` (where pairs, layers or k differ) and `contrast.png` (where that was asked
    for). A picture of an earlier result that this one does not have is deleted.

    Returns:
        The files.
    """
    n = len(result.models)
    figures = {
        "matrix.png": draw_matrix(result) if n > 1 else None,
        "kinship.png": draw_kinship(result) if n > 2 else None,
        "models.png": draw_models(result),
        "breakdown.png": draw_breakdown(result) if n > 1 else None,
        "contrast.png": draw_contrast(result, result.contrast) if n > 1 and result.contrast else None,
    }
    for name, figure in figures.items():
        if figure is None:
            (folder / name).unlink(missing_ok=True)
    return [write(figure, folder / name) for name, figure in figures.items() if figure is not None]
