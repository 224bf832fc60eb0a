"""Reference pages made of the docstrings: `python docs/reference.py outputs/reference`, then open index.html there."""

import builtins
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pdoc

import ptlib

MODULES = ["decisions", "diagnosis", "metrics", "outliers", "plots", "selection", "shift", "similarity", "stats",
           "sweep", "transferability", "tracking"]  # fmt: skip

if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("give the folder to write to: python docs/reference.py outputs/reference")
    for name in ptlib.__all__:  # they load when first used
        setattr(ptlib, name, getattr(ptlib, name))
    vars(builtins).update(np=np, Mapping=Mapping)  # annotations of generated constructors are read outside their module
    pdoc.render.configure(docformat="markdown", search=True)
    pdoc.pdoc("ptlib", *(f"ptlib.{name}" for name in MODULES), output_directory=Path(sys.argv[1]))
