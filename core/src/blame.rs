//! Blame: from all flight pages of a gang, which rank did not arrive.
