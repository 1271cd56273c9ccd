"""Writes what is generated from the params dataclasses.

python -m difftrack.configuration > docs/params.md     the page
python -m difftrack.configuration --schema             the schema, into its file in this package
"""

import sys

from difftrack.configuration import SCHEMA_FILE, json_schema, page

if __name__ == "__main__":
    if sys.argv[1:] == ["--schema"]:
        SCHEMA_FILE.write_text(json_schema(), encoding="utf-8")
    else:
        sys.stdout.write(page())
