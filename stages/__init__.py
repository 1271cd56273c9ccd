"""The pipeline's stages as dvc.yaml runs them; `difftrack.pipeline` implements them."""

import sys

from difftrack.pipeline._loading import end_while_loading, sleep_while_waiting

if sys.argv[:1] == ["-m"]:  # `python -m stages.NAME` is about to run a module
    end_while_loading()
    sleep_while_waiting()
