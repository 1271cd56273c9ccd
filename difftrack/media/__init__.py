"""Read and write video and image files; no other room uses PyAV, and no other room opens files with Pillow.

PyAV is imported only when a video file is opened, so code that only resizes images, such as the backbones, runs without
a video library.

Files may come from untrusted sources. Every decoder gets an explicit list of formats, so no file can start a program
outside this process (Pillow passes PostScript to Ghostscript) or open another file or address (FFmpeg's playlists and
scripts). Sizes are checked before decoding: one image may have at most `MAX_PIXELS`, and a video that is read into
memory may fill at most half of it. `open_video` yields frames one by one and stores none.

Images are uint8 RGB with axes (frame, row, col, rgb). Files passed between stages are lossless (`libx264rgb`, crf 0,
one thread): the same frames give the same bytes and decode bit-exactly. Lossy files are only for viewing.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
