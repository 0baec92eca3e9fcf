"""Models of other frameworks: MONAI bundles, nnU-Net folders, frozen networks."""
