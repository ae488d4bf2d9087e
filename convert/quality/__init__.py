"""Quality of an artifact's vectors on the user's texts, calibration of similarities, reduction of dimensions."""
