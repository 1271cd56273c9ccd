"""Generate the params reference and the JSON Schema from the params dataclasses.

python -m difftrack.configuration > docs/params.md     write the page
python -m difftrack.configuration --schema             write the schema to its file in this package
"""

import sys

from difftrack.configuration import SCHEMA_FILE, json_schema, page

if __name__ == "__main__":
    if sys.argv[1:] == ["--schema"]:
        SCHEMA_FILE.write_text(json_schema(), encoding="utf-8")
    else:
        sys.stdout.write(page())
