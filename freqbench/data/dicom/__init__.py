"""Reads DICOM: a series as one volume, and the segmentations (SEG) of it on its grid."""

from freqbench.data.dicom import files as files
from freqbench.data.dicom import segmentation as segmentation
from freqbench.data.dicom import series as series
