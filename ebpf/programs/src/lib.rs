//! Packet logic of the BPF programs.
