from ._app import explorer_app
from ._catalog import Catalog, open_catalog
from ._errors import ExplorerError
from ._explore import Explorer, explore

__all__ = ["Catalog", "Explorer", "ExplorerError", "explore", "explorer_app", "open_catalog"]
