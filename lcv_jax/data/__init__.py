"""What goes into the networks and comes out: captions, images, clips, buckets."""
