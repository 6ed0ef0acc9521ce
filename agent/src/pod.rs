//! The pod half: kubelet over CRI.
