"""Recordings with their stems: what separators are trained on and scored with."""

from mss.data.tracks import Audio, Track, TrackError, common_stems, find_tracks, reference

__all__ = ["Audio", "Track", "TrackError", "common_stems", "find_tracks", "reference"]
