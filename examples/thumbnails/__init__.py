"""The thumbnails example: photographs in, thumbnails and one contact sheet out."""
