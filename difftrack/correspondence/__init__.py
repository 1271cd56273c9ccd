"""Pure tensor maths: descriptors -> match probabilities -> matches and attention scores.

The same rules hold for every backend and kind:

* A query point that is not finite, or lies more than half a token outside the picture, is a ValueError that names it
  and the grid; half a token covers clicks beside the border.
* A match whose probabilities are uniform (its descriptor is zero, or all keys are equal) has position NaN, probability
  1 / num_tokens and margin 0. NaN is never within a threshold, so such a match counts as wrong in scores. With
  `second_softmax`, as in the released code, it is the first token instead.
* `read_rows` and `read_moves`, on which the tracker builds, give the first token with that probability and margin; the
  tracker reads the margin.
* Reading descriptors that are not finite (`Store.sel`) raises an error that names clip, step and layer.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
