"""The descriptor store: zarr v3 groups that are checksummed, labelled and resumable; it does not need torch.

`torch_dataset.DescriptorDataset` reads the same store in a DataLoader; import it by this name.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
