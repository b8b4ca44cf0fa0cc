"""Options of the verb `export`. Imports no torch."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from compress.options import Options


class ExportOptions(Options):
    """Write ONNX files that run in ONNX Runtime and onnxruntime-genai, and prove that they say what torch says."""

    tolerance: Annotated[float, Field(gt=0)] = Field(
        2e-3, description="largest difference of float logits, torch against ONNX, relative to the largest logit"
    )
