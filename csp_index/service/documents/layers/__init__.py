"""What the page of a layer shows besides its gallery: groups, histograms, sheets of pictures, files."""
