"""The descriptor store: zarr v3 groups that are checksummed, labelled and resumable; it needs no torch.

`torch_dataset.DescriptorDataset` serves the same store to a DataLoader and has to be imported by that name.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
