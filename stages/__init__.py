"""The pipeline's stages, as dvc.yaml runs them; what each does is in `difftrack.pipeline`."""

import sys

from difftrack.pipeline._loading import end_while_loading, sleep_while_waiting

if sys.argv[:1] == ["-m"]:  # Python is about to run one of the modules
    end_while_loading()
    sleep_while_waiting()
