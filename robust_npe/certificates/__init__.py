"""Certificates: how far no perturbation in a ball can move a posterior."""

from __future__ import annotations

from robust_npe.certificates.certify import Certificate, certified_kl

__all__ = ["Certificate", "certified_kl"]
