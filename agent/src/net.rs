//! The net half: the datapath.
