"""Reads and writes video and image files; nothing else touches PyAV or Pillow.

PyAV is imported where a video file is opened: what only resizes pictures, as the backbones do, needs no video library.

Files may be a stranger's. Every decoder is told the formats that it takes, so that no file reaches a program outside
this process (Pillow hands PostScript to Ghostscript) or opens another file or address (playlists and scripts of
FFmpeg). Sizes are bounded before anything is decoded: `MAX_PIXELS` for one picture, half of the machine's memory for a
video that is held whole. `open_video` gives frames one by one and holds none.

Pictures are uint8 RGB with axes (frame, row, col, rgb). Files on the way between stages are lossless (`libx264rgb`,
crf 0, one thread: the same frames give the same bytes and come back bit-exact); lossy files are for looking at only.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
