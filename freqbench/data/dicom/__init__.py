"""Reads DICOM: a series as one volume, and the segmentations (SEG) of it on its grid."""

from freqbench.data.dicom.files import NO_SLICES as NO_SLICES
from freqbench.data.dicom.files import PLANE as PLANE
from freqbench.data.dicom.files import is_dicom as is_dicom
from freqbench.data.dicom.files import label_files as label_files
from freqbench.data.dicom.files import patient_fields as patient_fields
from freqbench.data.dicom.files import quiet as quiet
from freqbench.data.dicom.files import read_file as read_file
from freqbench.data.dicom.segmentation import Segmentation as Segmentation
from freqbench.data.dicom.segmentation import check_segmentation as check_segmentation
from freqbench.data.dicom.segmentation import masks as masks
from freqbench.data.dicom.segmentation import overlaps as overlaps
from freqbench.data.dicom.segmentation import read_segmentation as read_segmentation
from freqbench.data.dicom.segmentation import segment_names as segment_names
from freqbench.data.dicom.series import Series as Series
from freqbench.data.dicom.series import read_series as read_series
from freqbench.data.dicom.series import read_voxels as read_voxels
