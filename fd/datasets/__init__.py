"""One file per source of data; each ends in the arrays of `fd.storage.transitions`."""
