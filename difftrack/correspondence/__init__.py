"""Pure tensor maths: descriptors -> match probabilities -> matches and attention scores.

No number out of nothing, one rule for every backend and kind:

* A query point that is not finite, or lies more than half a token outside the picture, is a ValueError that names it
  and the grid; annotators click beside the border, and half a token covers that.
* A match whose probabilities are uniform, since its descriptor is zero or all that it is compared with is the same, has
  position NaN, probability 1 / num_tokens and margin 0. NaN is never within a threshold, so that such a match counts as
  wrong in scores. With `second_softmax`, which the released code takes, the first token stands as it does there.
* `read_rows` and `read_moves`, on which the tracker builds, give the first token with that probability and margin; the
  tracker goes by the margin.
* Descriptors that are not finite are refused where they are read, by their clip, step and layer (`Store.sel`).
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
