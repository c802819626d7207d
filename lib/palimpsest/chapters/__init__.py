"""An experiment for each chapter, with its claims, figures and tables.

Importing this room pins the arithmetic (`palimpsest.arithmetic`): import it before torch and numpy.
"""

from palimpsest import arithmetic

arithmetic.pin()
