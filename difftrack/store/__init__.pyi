from ._disk_usage import check_space, free_bytes, measured_ratio, planned_bytes, stored_bytes, trial_encoding
from ._errors import StoreError
from ._exchange import export_group, import_group
from ._filesystem import StorePath
from ._groups import (
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
from ._manifest import read_manifest, write_manifest
from ._params import StoreParams
from ._reader import Store, clip_group, open_store
from ._results import read_results, result_groups, write_results
from ._spec import DescriptorKind, DescriptorSpec, fingerprint_of
from ._verify import FileCheck
from ._writer import GroupWriter, create_group, open_writer

__all__ = [
    "DescriptorKind",
    "DescriptorSpec",
    "FileCheck",
    "GroupWriter",
    "Store",
    "StoreError",
    "StoreParams",
    "StorePath",
    "StoredGroup",
    "check_space",
    "clip_group",
    "create_group",
    "descriptor_groups",
    "export_group",
    "fingerprint_of",
    "free_bytes",
    "foreign_group",
    "hold_group",
    "import_group",
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
