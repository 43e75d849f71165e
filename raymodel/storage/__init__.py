"""The one door to disks and buckets."""
