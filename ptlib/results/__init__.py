"""Two of the five nouns: predictions, of classes, boxes or label maps, and Report: what may be said of them."""

from ptlib.results.boxes import Boxes
from ptlib.results.examples import Examples, refuse_unless
from ptlib.results.masks import Masks
from ptlib.results.predictions import Predictions
from ptlib.results.report import Estimate, Report

__all__ = ["Boxes", "Estimate", "Examples", "Masks", "Predictions", "Report", "refuse_unless"]
