"""One file for each thing that an operator may have done."""
