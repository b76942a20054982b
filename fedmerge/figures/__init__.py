"""The figures of a run: learning curves, mixing ratios by layer, paired differences to T-IMM.

Drawn without pyplot, so that a server thread may draw. Colours are Okabe and Ito's, which colour-blind readers tell
apart; where lines share a panel, their dashes differ as well.
"""

from fedmerge.figures.curves import draw as learning_curves
from fedmerge.figures.paired import draw as paired
from fedmerge.figures.ratios import draw as ratios
from fedmerge.figures.style import save

__all__ = ["learning_curves", "paired", "ratios", "save"]
