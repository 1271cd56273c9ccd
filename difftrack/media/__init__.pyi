from ._encoding import write_frames, write_image, write_video
from ._errors import MediaError
from ._images import IMAGE_SUFFIXES, image_size, jpeg_decode, read_image
from ._limits import MAX_PIXELS, gathered, most_bytes
from ._listing import VIDEO_SUFFIXES, FolderListing, is_image_folder, list_folder, natural_order
from ._masks import mask_palette, read_mask, write_mask
from ._resizing import resize_frames
from ._streams import FrameRange, FrameStream, Video, content_digest, is_lossless, open_video, read_video

__all__ = [
    "IMAGE_SUFFIXES",
    "MAX_PIXELS",
    "VIDEO_SUFFIXES",
    "FolderListing",
    "FrameRange",
    "FrameStream",
    "MediaError",
    "Video",
    "content_digest",
    "gathered",
    "image_size",
    "is_image_folder",
    "is_lossless",
    "jpeg_decode",
    "list_folder",
    "mask_palette",
    "most_bytes",
    "natural_order",
    "open_video",
    "read_image",
    "read_mask",
    "read_video",
    "resize_frames",
    "write_frames",
    "write_image",
    "write_mask",
    "write_video",
]
