"""The descriptor store: zarr v3 groups that are checksummed, labelled and resumable; it needs no torch.

`torch_dataset.DescriptorDataset` serves the same store to a DataLoader and has to be imported by that name.
"""

from difftrack.store._errors import StoreError
from difftrack.store._groups import (
    StoredGroup,
    descriptor_groups,
    foreign_group,
    hold_group,
    keep_groups,
    remove_group,
    store_url,
    stored_group,
    stored_groups,
    surplus_groups,
)
from difftrack.store._manifest import read_manifest, write_manifest
from difftrack.store._params import StoreParams
from difftrack.store._reader import Store, clip_group, open_store
from difftrack.store._results import read_results, result_groups, write_results
from difftrack.store._space import check_space, free_bytes, measured_ratio, planned_bytes, stored_bytes, trial_encoding
from difftrack.store._spec import DescriptorKind, DescriptorSpec, fingerprint_of
from difftrack.store._verify import FileCheck
from difftrack.store._writer import GroupWriter, create_group, open_writer

__all__ = [
    "DescriptorKind",
    "DescriptorSpec",
    "FileCheck",
    "GroupWriter",
    "Store",
    "StoreError",
    "StoreParams",
    "StoredGroup",
    "check_space",
    "clip_group",
    "create_group",
    "descriptor_groups",
    "fingerprint_of",
    "free_bytes",
    "foreign_group",
    "hold_group",
    "keep_groups",
    "measured_ratio",
    "open_store",
    "open_writer",
    "planned_bytes",
    "read_manifest",
    "read_results",
    "remove_group",
    "result_groups",
    "store_url",
    "stored_bytes",
    "stored_group",
    "stored_groups",
    "surplus_groups",
    "trial_encoding",
    "write_manifest",
    "write_results",
]
