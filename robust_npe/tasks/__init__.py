"""Tasks: priors and simulators."""

from __future__ import annotations

from robust_npe.tasks.base import Reference, Task
from robust_npe.tasks.classification import (
    Classification,
    DigitLabels,
    HalfMoons,
    IDXLabels,
)
from robust_npe.tasks.data import DataTask, FilesTask
from robust_npe.tasks.function import FunctionTask, NamedFunctionTask
from robust_npe.tasks.gaussian_linear import GaussianLinear
from robust_npe.tasks.hodgkin_huxley import HodgkinHuxley
from robust_npe.tasks.images import DigitImages, FolderImages, IDXImages, Images
from robust_npe.tasks.lotka_volterra import LotkaVolterra
from robust_npe.tasks.sbibm import SBIBM
from robust_npe.tasks.sir import SIR
from robust_npe.tasks.spatial_sir import SpatialSIR
from robust_npe.tasks.toy import Toy
from robust_npe.tasks.vae import VAE

__all__ = [
    "SBIBM",
    "SIR",
    "VAE",
    "Classification",
    "DataTask",
    "DigitImages",
    "DigitLabels",
    "FilesTask",
    "FolderImages",
    "FunctionTask",
    "GaussianLinear",
    "HalfMoons",
    "HodgkinHuxley",
    "IDXImages",
    "IDXLabels",
    "Images",
    "LotkaVolterra",
    "NamedFunctionTask",
    "Reference",
    "SpatialSIR",
    "Task",
    "Toy",
]
