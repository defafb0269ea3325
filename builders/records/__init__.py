"""Records of data files, whatever their format."""
