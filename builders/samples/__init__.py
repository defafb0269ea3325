"""Small samples of every named source, in the file formats that their publishers use."""
