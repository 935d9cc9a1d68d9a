"""An eventful model as programs of `torch.export`, which run without this package."""

from eventful.export.programs import Exported, export_model

__all__ = ["Exported", "export_model"]
