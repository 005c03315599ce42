"""What computes the cells of a comparison; a hash of its code is in every row."""
